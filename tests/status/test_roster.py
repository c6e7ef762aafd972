"""Tests of roster."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import tracemalloc
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.doubles import KERNEL, RELAY, Lab, check_descriptors, descriptors, recv_exactly
from tests.want import Want
from tlsify.connection.control import Channel
from tlsify.connection.handoff import Handoff, Offload
from tlsify.connection.stream import TLSSocket
from tlsify.ktls import ulp
from tlsify.status import census, roster
from tlsify.status.hearing import Roster
from tlsify.tls.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where rosters are published in this test; nothing is left open, nor running."""
    made = Path(tempfile.mkdtemp(prefix="tlsify-"))
    monkeypatch.setenv(census.VARIABLE, str(made / "roster"))
    before = descriptors()
    yield made / "roster"
    shutil.rmtree(made)
    check_descriptors(before)
    assert not [t for t in threading.enumerate() if t.name == "tlsify-roster"]


def _ours() -> Roster:
    (found,) = census.ask(10).rosters
    return found


def _connect(folder: Path) -> socket.socket:
    (path,) = folder.iterdir()
    found = socket.socket(socket.AF_UNIX)
    found.settimeout(60)
    found.connect(str(path))
    return found


def _child(work: Callable[[], None]) -> int:
    """Run something in a forked child; return its exit status."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# -- what is on it


def test_connections_come_and_go(folder: Path, lab: Lab) -> None:
    """A connection is on the roster while its block lasts."""
    client, server = lab.pair(RELAY)
    with roster.publish():
        assert folder.stat().st_mode & 0o777 == 0o700
        (path,) = folder.iterdir()
        assert path.stat().st_mode & 0o777 == 0o600
        assert _ours() == Roster(os.getpid(), os.getuid(), ())
        with roster.listed(client):
            with roster.listed(server):
                assert len(_ours().entries) == 2
            (entry,) = _ours().entries
        assert _ours().entries == ()
    assert list(folder.iterdir()) == []
    assert entry.local is not None
    assert entry.peer is not None
    assert client.relay is not None
    assert (entry.local, entry.peer) == (client.relay.local_address, client.relay.peer_address)
    assert (entry.offload, entry.rekeys, entry.records) == ("relay", None, None)
    assert entry.reason == client.reason
    assert (entry.version, entry.suite) == ("TLSv1.3", client.negotiated.suite.name)
    assert (entry.group, entry.resumed) == (client.negotiated.group, False)
    assert 0 <= entry.age < 60


def test_names_of_the_peers_choice(folder: Path, lab: Lab) -> None:
    """ALPN may be any bytes."""
    client, _ = lab.pair(RELAY)
    assert folder.parent.is_dir()
    object.__setattr__(client.negotiated, "alpn", b"h2\xff\x1b")
    object.__setattr__(client.negotiated, "server_name", "\x1b[2J.example\n")
    with roster.publish(), roster.listed(client):
        (entry,) = _ours().entries
    assert (entry.alpn, entry.server_name) == ("h2\\xff\x1b", "\x1b[2J.example\n")


@pytest.mark.ktls
def test_keyed_connection(folder: Path, lab: Lab) -> None:
    """What the kernel tells only the owner of a socket is on the roster."""
    client, server = lab.pair(KERNEL)
    assert folder.parent.is_dir()
    with roster.publish(), roster.listed(client):
        client.sock.sendall(b"one")
        client.sock.sendall(b"two")
        assert server.sock.recv(6, socket.MSG_WAITALL) == b"onetwo"
        (entry,) = _ours().entries
        assert (entry.offload, entry.reason) == ("kernel", None)
        assert (entry.rekeys, entry.records) == ((0, 0), (2, 0))
        assert (entry.local, entry.peer) == (client.sock.getsockname(), client.sock.getpeername())


@pytest.mark.ktls
@pytest.mark.rekey
def test_rekeys(folder: Path, lab: Lab) -> None:
    """Keys that were changed are counted, and records from 0 again."""
    client, server = lab.pair(KERNEL)
    assert folder.parent.is_dir()
    with roster.publish(), roster.listed(client), roster.listed(server):
        client.sock.sendall(b"one")
        client.key_update()
        client.sock.sendall(b"two")
        assert recv_exactly(TLSSocket(server), 6) == b"onetwo"
        by_address = {entry.local: entry for entry in _ours().entries}
        sender, receiver = (by_address[end.sock.getsockname()] for end in (client, server))
        assert (sender.rekeys, sender.records) == ((1, 0), (1, 0))
        assert (receiver.rekeys, receiver.records) == ((0, 1), (0, 1))


def test_connection_of_this_moment(folder: Path, lab: Lab) -> None:
    """One that began after somebody had asked is not younger than none."""
    client, _ = lab.pair(RELAY)
    assert folder.parent.is_dir()
    with roster.publish(), roster.listed(client) as _:
        (each,) = roster._live
        each._since += 1000
        assert [entry.age for entry in _ours().entries] == [0.0]


def test_connection_that_has_been_closed(folder: Path, lab: Lab) -> None:
    """A program may close a connection that is still listed."""
    ends = lab.pair(RELAY)
    assert folder.parent.is_dir()
    with roster.publish(), roster.listed(ends[0]):
        ends[0].sock.close()
        assert len(_ours().entries) == 1


def test_broken_channel(folder: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a kernel connection that is gone there is no address, and no record."""
    handed = _pretend_kernel(lab, monkeypatch)
    assert folder.parent.is_dir()
    with roster.publish(), roster.listed(handed):
        (entry,) = _ours().entries
        assert entry.local == handed.sock.getsockname()
        assert entry.records == (7, 7)
        handed.sock.close()
        (entry,) = _ours().entries
    assert (entry.local, entry.peer, entry.records) == (None, None, None)


def _pretend_kernel(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Handoff:
    """Make a hand-off that has a channel, on a socket without keys."""

    def next_seq(sock: socket.socket, *_: object) -> int:
        sock.getsockname()  # as the real one fails on a socket that is closed
        return 7

    monkeypatch.setattr(ulp, "next_seq", next_seq)
    relayed, _ = lab.pair(RELAY)
    sock, _ = lab.tcp()
    session = Session(relayed.negotiated.suite, is_client=True)
    channel = Channel(sock, session)
    return Handoff(sock, Offload.KERNEL, None, relayed.negotiated, channel, None)


def test_it_is_cheap(lab: Lab) -> None:
    """A listed connection takes less than 300 bytes."""
    client, _ = lab.pair(RELAY)
    with ExitStack() as stack:
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        kept = [roster.listed(client) for _ in range(1000)]
        for each in kept:
            each.__enter__()
        took = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        for each in kept:
            stack.push(each)
    assert took / 1000 < 300
    assert not roster._live


# -- who is told


def test_stranger(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user is told nothing, should he get there at all."""
    with roster.publish():
        uid = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
        monkeypatch.setattr(roster, "_ROOT", uid + 1)
        with _connect(folder) as asking:
            assert asking.recv(1) == b""
        monkeypatch.undo()
        monkeypatch.setenv(census.VARIABLE, str(folder))
        assert _ours().entries == ()


def test_many_at_once(folder: Path, lab: Lab) -> None:
    """Some who ask and do not read, or go away, keep nobody from an answer for long."""
    client, _ = lab.pair(RELAY)
    with roster.publish(), ExitStack() as stack:
        for _ in range(2000):
            stack.enter_context(roster.listed(client))
        _connect(folder).close()
        with _connect(folder) as asking:
            asking.recv(1)
        assert len(_ours().entries) == 2000


def test_no_thread(folder: Path) -> None:
    """A server without one serves all the same, and what nobody answers at is not left behind."""
    with Want("thread", 0) as want, roster.publish():
        assert want.has_failed
        assert [*folder.iterdir()] == []


def test_who_does_not_read(folder: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who takes too long is given up, and the process ends without waiting for him."""
    monkeypatch.setattr(roster, "_PATIENCE", 0.05)
    client, _ = lab.pair(RELAY)
    with roster.publish(), ExitStack() as stack:
        for _ in range(5000):
            stack.enter_context(roster.listed(client))
        with _connect(folder) as slow:
            assert slow.recv(1) == b"{"  # how long it may take is settled by now
            monkeypatch.setattr(roster, "_PATIENCE", 60)
            assert len(_ours().entries) == 5000
        stuck = stack.enter_context(_connect(folder))
        assert stuck.recv(1) == b"{"


def test_no_descriptor_left(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where accept fails it is tried again, not at once; and who waits meanwhile is answered."""
    failed = threading.Event()
    accept = socket.socket.accept

    def once(sock: socket.socket) -> object:
        if not failed.is_set():
            failed.set()
            raise OSError(24, "Too many open files")
        return accept(sock)

    monkeypatch.setattr(roster, "_PAUSE", 0.01)
    monkeypatch.setattr(socket.socket, "accept", once)
    with roster.publish():
        assert failed.wait(10)
        assert _ours().entries == ()
    assert not list(folder.iterdir())


def test_bug_in_an_entry(
    folder: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What must not happen is logged, and the next one is answered."""
    client, _ = lab.pair(RELAY)
    assert folder.parent.is_dir()
    with roster.publish(), roster.listed(client):
        monkeypatch.setattr(roster, "_plain", lambda _address: 1 / 0)
        assert census.ask(10) == census.Census((), 1)
        monkeypatch.undo()
        monkeypatch.setenv(census.VARIABLE, str(folder))
        assert len(_ours().entries) == 1
    assert "bug in the roster" in caplog.text


# -- processes


def test_child_does_not_inherit(folder: Path, lab: Lab) -> None:
    """A forked child has none of its parent's connections, nor its place, and may have its own."""
    client, _ = lab.pair(RELAY)

    def in_child() -> None:
        assert not roster._live
        assert not [t for t in threading.enumerate() if t.name == "tlsify-roster"]
        with roster.publish():
            assert len(list(folder.iterdir())) == 2
            pids = {each.pid: len(each.entries) for each in census.ask(10).rosters}
            assert pids == {os.getpid(): 0, os.getppid(): 1}

    with roster.publish() as published, roster.listed(client):
        assert _child(in_child) == 0

        def leaves() -> None:
            published.__exit__(None, None, None)

        assert _child(leaves) == 0
        assert len(_ours().entries) == 1


def test_killed_process(folder: Path) -> None:
    """Of a process that was killed nothing is left once somebody asks, or publishes."""
    program = (
        "from tlsify.status import roster; p = roster.publish().__enter__();"
        "print(flush=True); input()"
    )
    for remove in (
        lambda: census.ask(10),
        lambda: roster.publish().__enter__().__exit__(*[None] * 3),
    ):
        with subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            assert [each.pid for each in census.ask(10).rosters] == [process.pid]
            process.kill()
        assert len(list(folder.iterdir())) == 1
        remove()
        assert list(folder.iterdir()) == []


def test_no_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no place, or not a private one, the process does without."""
    with roster.publish():
        pass
    folder.chmod(0o755)
    with roster.publish():
        assert list(folder.iterdir()) == []
    monkeypatch.setenv(census.VARIABLE, "off")
    with roster.publish():
        assert list(folder.iterdir()) == []
    monkeypatch.setenv(census.VARIABLE, str(folder.parent / "a/b/c"))
    with roster.publish() as published:
        assert published._listener is None


def test_long_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder's path may be longer than that of a socket."""
    deep = folder.parent / ("x" * 100) / ("y" * 100)
    deep.mkdir(0o700, parents=True)
    monkeypatch.setenv(census.VARIABLE, str(deep))
    with roster.publish():
        assert _ours().pid == os.getpid()


def test_the_answer(folder: Path, lab: Lab) -> None:
    """A head that names the fields, then rows, a JSON value on each line; and no key in it."""
    client, _ = lab.pair(RELAY)
    with (
        roster.publish(),
        roster.listed(client),
        _connect(folder) as asking,
        asking.makefile("rb") as answer,
    ):
        head, rows = map(json.loads, answer)
    assert list(head) == ["roster", "network", "connections", "sandbox", "fields"]
    assert head["connections"] == len(rows) == 1
    assert len(rows[0]) == len(head["fields"])
