"""Tests of sockets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.doubles import KERNEL, VERSIONS, Lab, until
from tlsify import sockets
from tlsify.codepoints import Aead, ProtocolVersion
from tlsify.ktls.diag import SocketEntry, Traffic, UlpInfo
from tlsify.sockets import Process, find_holders, join, survey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tlsify.handoff import Handoff

SocketPair = tuple[socket.socket, socket.socket]
KEYED = UlpInfo("tls", ProtocolVersion.TLSv1_3, Aead.AES_GCM_256, "kernel", "device")
TRAFFIC = Traffic(3000, 2000, 1000, 0.5)
NOBODY = 2**31 + 4711  # no socket has this inode: the kernel counts from 1


def entry(inode: int, ulp: UlpInfo | None = KEYED, port: int = 443) -> SocketEntry:
    """Make what the kernel says of one socket."""
    peer = ("192.0.2.7", 50000)
    traffic = TRAFFIC if ulp is not None else None
    return SocketEntry(("192.0.2.1", port), peer, inode, os.getuid(), ulp, traffic)


def _inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> list[SocketEntry]:
    """The IPv4 sockets that the kernel lists, with the tls module loaded and no key in use."""
    listed: list[SocketEntry] = []

    def list_sockets(family: int) -> Iterator[SocketEntry]:
        yield from listed if family == socket.AF_INET else ()

    monkeypatch.setattr(sockets, "tls_stat", lambda: {"TlsCurrTxSw": 0, "TlsTxSw": 7})
    monkeypatch.setattr(sockets, "list_sockets", list_sockets)
    return listed


# -- joining


def test_join() -> None:
    """What the kernel says of a socket, and who holds it, stand together."""
    holder = Process(17, "nginx")
    (joined,) = join([entry(5)], {5: [holder], 6: [Process(18, "other")]})
    assert joined.processes == (holder,)
    assert (joined.local, joined.peer) == (("192.0.2.1", 443), ("192.0.2.7", 50000))
    assert (joined.version, joined.cipher) == (ProtocolVersion.TLSv1_3, Aead.AES_GCM_256)
    assert (joined.tx, joined.rx) == ("kernel", "device")
    assert (joined.uid, joined.traffic, joined.inode) == (os.getuid(), TRAFFIC, 5)


def test_owner_without_a_name() -> None:
    """A number stands for a user whom nobody has named."""
    assert sockets._user(2**31 + 5) == str(2**31 + 5)
    assert sockets._user(0) == "root"


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9))))
def test_nothing_is_lost(made: list[tuple[int, int]]) -> None:
    """Every socket is there once, in the order of the addresses, whoever holds it."""
    joined = join([entry(inode, port=port) for inode, port in made], {3: [Process(1, "x")]})
    assert sorted(each.inode for each in joined) == sorted(inode for inode, _ in made)
    assert [each.local[1] for each in joined] == sorted(port for _, port in made)
    assert all(bool(each.processes) is (each.inode == 3) for each in joined)


# -- processes


def test_socket_of_ours(tcp_pair: SocketPair) -> None:
    """Sockets of this process are found, under its name, and nothing else is looked for."""
    name = Path("/proc/self/comm").read_text().strip()
    wanted = {_inode(sock) for sock in tcp_pair}
    assert find_holders(wanted | {NOBODY}) == {i: [Process(os.getpid(), name)] for i in wanted}


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
        holders = find_holders({_inode(ours)})[_inode(ours)]
        child.communicate()
    assert [each.pid for each in holders] == sorted([os.getpid(), child.pid])


def test_nothing_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a socket to look for no process is looked into."""
    monkeypatch.setattr(sockets, "_PROC", Path("/nonexistent"))
    assert find_holders(set()) == {}


def test_odd_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that end meanwhile, are somebody else's or have odd names do no harm."""
    monkeypatch.setattr(sockets, "_PROC", tmp_path)
    (tmp_path / "net").mkdir()
    for pid in ("9", "10", "11", "12"):
        (tmp_path / pid).mkdir()
    for pid in ("9", "10"):
        (tmp_path / pid / "fd").mkdir()
        (tmp_path / pid / "fd/0").symlink_to("/dev/null")
        (tmp_path / pid / "fd/3").symlink_to("socket:[77]")
    (tmp_path / "9/fd/4").write_text("")  # reading this link fails, as that of a closed one does
    (tmp_path / "11/fd").write_text("")  # nor is this a folder
    (tmp_path / "9/comm").write_bytes(b"a\x1b[2J\xff\nb\n")
    assert find_holders({77, 78}) == {77: [Process(9, "a\x1b[2J\\xff\nb"), Process(10, "")]}


def test_no_descriptor_is_left_open(tcp_pair: SocketPair) -> None:
    """Looking leaves nothing behind."""
    before = os.listdir("/proc/self/fd")  # noqa: PTH208 - names
    find_holders({_inode(tcp_pair[0])})
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208 - names


only_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")


def _as_nobody(look: Callable[[], str]) -> str:
    """Have somebody without privileges, and without our descriptors, look; gives what he says."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.closerange(3, writer)
            os.closerange(writer + 1, 1024)
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            os.write(writer, look().encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        found = said.read()
    os.waitpid(child, 0)
    return found


@only_root
def test_process_of_somebody_else(tcp_pair: SocketPair) -> None:
    """What we may not look into holds nothing, and is no error."""
    inodes = {_inode(sock) for sock in tcp_pair}
    assert _as_nobody(lambda: str(find_holders(inodes))) == "{}"
    assert len(find_holders(inodes)) == 2


# -- all of it


def test_without_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the module there is nothing to see, and nothing that could be hidden."""

    def never(_family: int) -> Iterator[SocketEntry]:
        raise AssertionError

    monkeypatch.setattr(sockets, "tls_stat", dict)
    monkeypatch.setattr(sockets, "list_sockets", never)
    assert survey() == sockets.Survey(available=False, sockets=(), counters={}, unseen=())


def test_survey(kernel: list[SocketEntry], tcp_pair: SocketPair) -> None:
    """Sockets with the tls ULP are listed, with keys or without, and no others."""
    ours, theirs = map(_inode, tcp_pair)
    kernel += [entry(ours), entry(theirs, UlpInfo("tls"), 444)]
    kernel += [entry(8, None, 1), entry(9, UlpInfo("mptcp"), 2)]
    seen = survey()
    assert [each.inode for each in seen.sockets] == [ours, theirs]
    assert [[one.pid for one in each.processes] for each in seen.sockets] == [[os.getpid()]] * 2
    assert (seen.available, seen.unseen) == (True, ())
    assert seen.counters == {"TlsCurrTxSw": 0, "TlsTxSw": 7}


def test_survey_without_processes(kernel: list[SocketEntry], tcp_pair: SocketPair) -> None:
    """Who does not ask for processes gets none, and nothing is said to be hidden."""
    kernel.append(entry(_inode(tcp_pair[0])))
    seen = survey(find_processes=False)
    assert (seen.sockets[0].processes, seen.unseen) == ((), ())


def test_hidden_processes(kernel: list[SocketEntry]) -> None:
    """What somebody holds whom we cannot see is counted; what nobody holds is not."""
    kernel += [entry(NOBODY), entry(0)]
    (unseen,) = survey().unseen
    assert unseen.code == "processes"
    assert unseen.detail == "who holds 1 of the sockets"
    assert "root" in unseen.remedy


def test_hidden_sockets(kernel: list[SocketEntry], monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys in use without a socket that could have them: the kernel hides it."""
    kernel.append(entry(5, None))
    assert survey().unseen == ()
    monkeypatch.setattr(sockets, "tls_stat", lambda: {"TlsCurrRxDevice": 2, "TlsCurrTxSw": 1})
    (unseen,) = survey().unseen
    assert unseen.code == "sockets"
    assert "counts 3 keys" in unseen.detail
    assert "CAP_NET_ADMIN" in unseen.remedy


# -- for real


def _of(handoff: Handoff) -> list[sockets.KtlsSocket]:
    inode = _inode(handoff.sock)
    return [each for each in survey().sockets if each.inode == inode]


@pytest.mark.ktls
@pytest.mark.parametrize("version", VERSIONS)
def test_real_connection(lab: Lab, version: ProtocolVersion) -> None:
    """Both ends of an offloaded connection are listed while they are there, as what they are."""
    ends = lab.pair(KERNEL, version)
    ends[0].sock.sendall(bytes(5000))
    assert ends[1].sock.recv(5000, socket.MSG_WAITALL)
    for end, other in (ends, ends[::-1]):
        (seen,) = _of(end)
        assert (seen.local, seen.peer) == (end.sock.getsockname(), end.sock.getpeername())
        assert os.getpid() in [each.pid for each in seen.processes]
        assert (seen.version, seen.tx, seen.rx) == (version, "kernel", "kernel")
        assert seen.cipher is not None
        assert seen.traffic is not None
        assert seen.traffic.received > 0
        assert other.sock.getsockname() == seen.peer
    (sender,), (receiver,) = map(_of, ends)
    assert sender.traffic is not None
    assert receiver.traffic is not None
    assert sender.traffic.sent > 5000
    assert receiver.traffic.received > 5000
    local = {end.sock.getsockname() for end in ends}
    for end in ends:
        end.sock.close()
    until(lambda: not [each for each in survey().sockets if each.local in local])


@pytest.mark.ktls
def test_real_counters(lab: Lab) -> None:
    """Keys in use are in the counters."""
    lab.pair(KERNEL)
    counters = survey().counters
    assert all(counters[name] >= 2 for name in ("TlsCurrTxSw", "TlsCurrRxSw"))


@pytest.mark.ktls
@only_root
def test_unprivileged(lab: Lab) -> None:
    """Who may not see the sockets, or their processes, is told so; nothing else goes wrong."""
    lab.pair(KERNEL)

    def look() -> str:
        seen = survey()
        return f"{bool(seen.sockets)} {','.join(each.code for each in seen.unseen)}"

    assert _as_nobody(look) in {"False sockets", "True processes"}
