"""Tests of holders."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tests.strangers import UID, as_nobody, as_stranger, only_root
from tlsify.logs.text import printable
from tlsify.status import holders
from tlsify.status.holders import Process, find_holders

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = 2**31 + 4711  # no socket has this inode: the kernel counts from 1
SocketPair = tuple[socket.socket, socket.socket]


def _inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


def test_socket_of_ours(tcp_pair: SocketPair) -> None:
    """Sockets of this process are found, under its name, and nothing else is looked for."""
    name = Path("/proc/self/comm").read_text().strip()
    wanted = {_inode(sock): os.getuid() for sock in tcp_pair}
    found = {inode: [Process(os.getpid(), name)] for inode in wanted}
    assert find_holders(wanted | {NOBODY: 5}) == (found, set())


def test_socket_that_several_hold(tcp_pair: SocketPair) -> None:
    """A socket that was inherited has two holders, and that it is open twice counts once."""
    ours, _ = tcp_pair
    wait = "import sys; print(flush=True); sys.stdin.read()"
    with (
        closing(ours.dup()),
        subprocess.Popen(
            [sys.executable, "-c", wait],
            pass_fds=(ours.fileno(),),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as child,
    ):
        assert child.stdout is not None
        child.stdout.readline()
        found = find_holders({_inode(ours): os.getuid()})[0][_inode(ours)]
        child.communicate()
    assert [each.pid for each in found] == sorted([os.getpid(), child.pid])


def test_nothing_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a socket to look for no process is looked into."""
    monkeypatch.setattr(holders, "_PROC", Path("/nonexistent"))
    assert find_holders({}) == ({}, set())


def test_odd_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that end meanwhile or are somebody else's do no harm."""
    monkeypatch.setattr(holders, "_PROC", tmp_path)
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
    (tmp_path / "net").mkdir()
    for pid in ("9", "10", "11", "12"):
        (tmp_path / pid).mkdir()
    for pid in ("9", "10"):
        (tmp_path / pid / "fd").mkdir()
        (tmp_path / pid / "fd/0").symlink_to("/dev/null")
        (tmp_path / pid / "fd/3").symlink_to("socket:[77]")
    (tmp_path / "9/fd/4").write_text("")  # reading this link fails, as that of a closed one does
    (tmp_path / "11/fd").write_text("")  # nor is this a folder
    if os.getuid() == 0:
        (tmp_path / "9/status").write_text("Name:\todd\nUid:\t0\t0\t0\t0\n")
        (tmp_path / "10/status").write_text("Name:\todd\nUid:\t0\t0\t0\t0\n")
    (tmp_path / "13/fd").mkdir(parents=True)  # and this one ends in the midst of it
    found = {77: [Process(9, ""), Process(10, "")]}
    assert find_holders({77: 0, 78: 0}) == (found, set())


def test_odd_name(tcp_pair: SocketPair) -> None:
    """A process may call itself anything; that is told as it is, and shown as `printable` does."""
    ours, _ = tcp_pair
    call = "open('/proc/self/comm', 'wb').write(b'a\\x1b[2J\\xff b')"
    with subprocess.Popen(
        [sys.executable, "-c", f"import sys; {call}; print(flush=True); sys.stdin.read()"],
        pass_fds=(ours.fileno(),),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        found = find_holders({_inode(ours): os.getuid()})[0][_inode(ours)]
        child.communicate()
    (odd,) = (each.command for each in found if each.pid == child.pid)
    assert odd == "a\x1b[2J\udcff b"
    assert printable(odd) == "a\\x1b[2J\\udcff b"


def test_no_descriptor_is_left_open(tcp_pair: SocketPair) -> None:
    """Looking leaves nothing behind."""
    before = os.listdir("/proc/self/fd")
    find_holders({_inode(tcp_pair[0]): os.getuid()})
    assert os.listdir("/proc/self/fd") == before


@only_root
def test_process_of_somebody_else(tcp_pair: SocketPair) -> None:
    """What we may not look into holds nothing, and is no error."""
    wanted = {_inode(sock): 0 for sock in tcp_pair}
    assert as_nobody(lambda: str(find_holders(wanted))) == "({}, set())"
    assert len(find_holders(wanted)[0]) == 2


@pytest.fixture
def hoarders() -> Iterator[list[int]]:
    """Three processes of another user's, each with 300 descriptors of the same file; PIDs."""
    reader, writer = os.pipe()

    def hoard() -> None:
        for _ in range(300):
            os.dup(writer)
        os.write(writer, b".")
        signal.pause()

    pids = [as_stranger(hoard) for _ in range(3)]
    for _ in pids:
        assert os.read(reader, 1) == b"."
    os.close(reader)
    os.close(writer)
    yield pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@only_root
def test_hoarder(hoarders: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Who holds very many descriptors is looked into only so far, which is said."""
    looked_at: list[int] = []
    held = holders._held

    def count(*arguments: Any) -> tuple[set[int], int]:
        found = held(*arguments)
        looked_at.append(found[1])
        return found

    monkeypatch.setattr(holders, "_held", count)
    monkeypatch.setattr(psutil, "pids", lambda: hoarders)
    assert find_holders({NOBODY: UID}) == ({}, set())
    assert sum(looked_at) >= 3 * 300
    looked_at.clear()
    monkeypatch.setattr(holders, "_BESIDES", 400)
    assert find_holders({NOBODY: UID}) == ({}, {UID})
    assert 300 < sum(looked_at) <= 400 + holders._PER_SOCKET
    # Who has many sockets may have many descriptors.
    assert find_holders(dict.fromkeys(range(NOBODY, NOBODY + 1000), UID)) == ({}, set())


@only_root
def test_whose_process_it_is(hoarders: list[int]) -> None:
    """A process that lets nobody look into it is its user's all the same."""
    for pid, uid in ((hoarders[0], UID), (os.getpid(), 0)):
        folder = os.open(f"/proc/{pid}/fd", os.O_RDONLY)
        try:
            assert (os.fstat(folder).st_uid, holders._user(pid, folder)) == (0, uid)
        finally:
            os.close(folder)
