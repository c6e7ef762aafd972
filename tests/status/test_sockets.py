"""Tests of sockets."""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
import tempfile
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest

from tests.cli.surveys import BARE, BUSY, SEEN
from tests.doubles import KERNEL, RELAY, VERSIONS, Lab, until
from tests.strangers import as_nobody, only_root, opening, stranger
from tlsify.codepoints import Aead, ProtocolVersion
from tlsify.connection.handoff import Reason
from tlsify.ktls.diag import Device, SocketEntry, Traffic, UlpInfo
from tlsify.status import census, entries, roster, sockets
from tlsify.status.entries import Entry
from tlsify.status.hearing import Roster
from tlsify.status.holders import Process
from tlsify.status.sockets import Connection, join, rates, survey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tlsify.connection.handoff import Handoff
    from tlsify.status.hearing import Owners

pytestmark = pytest.mark.each_kernel

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

    def list_sockets(family: int, _asked_for: object) -> Iterator[SocketEntry]:
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


@pytest.mark.parametrize("seed", range(50))
def test_nothing_is_lost(seed: int) -> None:
    """Every socket is there once, in the order of the addresses, whoever holds it."""
    random = Random(seed)
    made = [(random.randint(0, 9), random.randint(1, 9)) for _ in range(random.randint(0, 20))]
    joined = join([entry(inode, port=port) for inode, port in made], {3: [Process(1, "x")]})
    assert sorted(each.inode for each in joined) == sorted(inode for inode, _ in made)
    assert [each.local[1] for each in joined] == sorted(port for _, port in made)
    assert all(bool(each.processes) is (each.inode == 3) for each in joined)


# -- all of it


def test_without_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the module there is nothing to see, and nothing that could be hidden."""

    def never(*_: object) -> Iterator[SocketEntry]:
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
    assert unseen.detail == "the processes of 1 of the sockets"
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


# -- what tlsify says of its own


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """This process publishes its roster, and nobody else does."""
    folder = Path(tempfile.mkdtemp(prefix="tlsify-"))
    monkeypatch.setenv(census.VARIABLE, str(folder))
    with roster.publish():
        yield folder
    shutil.rmtree(folder)


def told(offload: str = "kernel", suite: str = "TLS_AES_128_GCM_SHA256") -> Entry:
    """Make what a process says of the connection that `entry` makes."""
    reason = Reason("policy-off", "switched off", "start with --ktls")
    return Entry(
        local=("192.0.2.1", 443),
        peer=("192.0.2.7", 50000),
        server_name="example.org",
        alpn="h2",
        version="TLSv1.3",
        suite=suite,
        group="X25519",
        resumed=False,
        offload=offload,
        reason=None if offload == "kernel" else reason,
        age=3.0,
        rekeys=None,
        records=None,
    )


def _listed(entry: Entry, uid: int, pid: int = 0) -> sockets.Listed:
    assert entry.local is not None
    assert entry.peer is not None
    return {(entry.local, entry.peer): (Roster(pid, uid, (entry,)), entry)}


def test_relayed_connection(published: Path, lab: Lab) -> None:
    """A relayed connection is no kTLS socket, and is there all the same, with the reason."""
    assert published.is_dir()
    client, _ = lab.pair(RELAY)
    client.sock.sendall(bytes(5000))
    with roster.listed(client):
        seen = survey()
    (found,) = seen.sockets
    assert client.relay is not None
    assert (found.local, found.peer) == (client.relay.local_address, client.relay.peer_address)
    assert (found.tx, found.rx) == ("relay", "relay")
    assert (found.version, found.cipher) == (
        client.negotiated.version,
        client.negotiated.suite.aead,
    )
    assert [each.pid for each in found.processes] == [os.getpid()]
    assert found.uid == os.getuid()
    assert found.traffic is not None
    assert found.entry is not None
    assert found.entry.reason == client.reason
    (fallback,) = seen.fallbacks()
    assert (fallback.code, fallback.connections) == ("policy-off", 1)
    assert seen.unseen == ()
    assert survey().sockets == ()


def test_where_the_kernel_tells_nothing() -> None:
    """What the kernel hides of sockets, their process tells; what holds them it tells, too."""
    listed = _listed(told(), os.getuid(), os.getpid())
    (found,) = join([entry(5, None)], {}, listed)
    assert (found.tx, found.rx) == ("kernel", "kernel")
    assert (found.version, found.cipher) == (ProtocolVersion.TLSv1_3, Aead.AES_GCM_128)
    assert [each.pid for each in found.processes] == [os.getpid()]
    (found,) = join([entry(5)], {5: [Process(7, "x")]}, listed)
    assert (found.tx, found.rx, found.cipher) == ("kernel", "device", Aead.AES_GCM_256)
    assert found.processes == (Process(7, "x"),)
    assert found.entry == told()


def test_ulp_without_keys() -> None:
    """Where tlsify found after the handshake only that it has to relay, that is what is said."""
    (found,) = join([entry(5, UlpInfo("tls"))], {}, _listed(told("relay"), 0))
    assert (found.tx, found.rx) == ("relay", "relay")
    (found,) = join([entry(5, UlpInfo("tls"))], {}, _listed(told("relay", "UNKNOWN"), 0))
    assert (found.tx, found.version, found.cipher) == ("relay", None, None)


def test_whom_to_believe() -> None:
    """What somebody says of another user's connection is not believed."""
    listed = _listed(told("relay"), os.getuid() + 1)
    (found,) = join([entry(5)], {}, listed)
    assert (found.tx, found.entry, found.processes) == ("kernel", None, ())
    assert join([entry(5, None)], {}, listed) == ()


def test_what_of_tlsify_is_not_seen(
    kernel: list[SocketEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other namespaces, silent processes, and other users'."""
    assert kernel == []
    answer = census.Census((), 3, 2, frozenset({0, *range(NOBODY, NOBODY + 5)}), closed=True)
    monkeypatch.setattr(census, "ask", lambda **_: answer)
    seen = survey()
    assert seen.sockets == ()
    assert [each.code for each in seen.unseen] == ["namespaces", "rosters", "answers", "users"]
    assert seen.unseen[0].detail.startswith("connections of 2 tlsify processes")
    assert f"processes of root, {NOBODY}, {NOBODY + 1} and 3 more:" in seen.unseen[2].detail


def test_hoarder(kernel: list[SocketEntry], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose descriptors are too many is said."""
    kernel.append(entry(NOBODY))
    monkeypatch.setattr(sockets, "find_holders", lambda wanted: ({}, set(wanted.values())))
    hoarder, unknown = survey().unseen
    assert (hoarder.code, unknown.code) == ("descriptors", "processes")
    assert "too many descriptors" in hoarder.detail


@pytest.mark.parametrize("listed_twice", [False, True])
def test_who_asks_others(
    kernel: list[SocketEntry], monkeypatch: pytest.MonkeyPatch, *, listed_twice: bool
) -> None:
    """The kernel's list is asked for once, whether it was needed to know whom to believe or not."""
    uid = os.getuid()
    kernel.append(entry(5, None)._replace(traffic=TRAFFIC))
    (listed,) = _listed(told("relay"), uid).values()

    def ask(owners: Callable[[], Owners]) -> census.Census:
        if listed_twice:
            assert owners() == {(("192.0.2.1", 443), ("192.0.2.7", 50000)): uid}
            kernel.clear()
        return census.Census((listed[0],))

    monkeypatch.setattr(census, "ask", ask)
    (found,) = survey(find_processes=False).sockets
    assert (found.tx, found.entry, found.traffic) == ("relay", listed[1], TRAFFIC)


def test_no_list_for_strangers(kernel: list[SocketEntry], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel has no list nobody else is believed, and that is all."""

    def refuse(*_: object) -> Iterator[SocketEntry]:
        raise PermissionError

    def ask(owners: Callable[[], Owners]) -> census.Census:
        assert owners() == {}
        return census.Census(())

    assert kernel == []
    monkeypatch.setattr(census, "ask", ask)
    monkeypatch.setattr(sockets, "tls_stat", dict)
    monkeypatch.setattr(sockets, "list_sockets", refuse)
    assert survey().sockets == ()


@only_root
def test_what_a_stranger_says_of_others(lab: Lab) -> None:
    """Nobody can hide a connection by telling of it himself."""
    client, _ = lab.pair(RELAY)
    assert client.relay is not None
    ours, theirs = client.relay.local_address, client.relay.peer_address
    folder = Path(tempfile.mkdtemp(prefix="tlsify-"))
    liar = told("relay")._replace(local=ours, peer=theirs, server_name="liar")
    try:
        with stranger(opening(1) + next(entries.lines([liar])).encode()):
            strangers = Path(os.environ[census.VARIABLE])
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv(census.VARIABLE, str(folder))
                patch.setattr(census, "_others", lambda: [strangers])
                with roster.publish(), roster.listed(client):
                    (found,) = survey().sockets
                assert found.entry is not None
                assert found.entry.server_name == client.negotiated.server_name
                assert survey().sockets == ()
    finally:
        shutil.rmtree(folder)


def test_devices(kernel: list[SocketEntry], monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices are asked only if that is wanted."""
    assert kernel == []
    device = Device("eth0", {"tls-hw-tx-offload": "on"})
    monkeypatch.setattr(sockets, "tls_features", lambda: [device])
    assert survey().devices is None
    assert survey(find_devices=True).devices == (device,)


# -- rates


def _later(each: Connection, sent: int, received: int) -> Connection:
    assert each.traffic is not None
    carried = (each.traffic.sent + sent, each.traffic.received + received)
    traffic = each.traffic._replace(sent=carried[0], received=carried[1])
    return each._replace(traffic=traffic)


def test_rates() -> None:
    """Bytes a second between two looks; none for what was not there, or cannot be known."""
    idle = BUSY._replace(inode=8, local=("192.0.2.1", 1))
    new = BUSY._replace(inode=9)
    before = dataclasses.replace(SEEN, sockets=(idle, BUSY, BARE))
    now = dataclasses.replace(SEEN, sockets=(idle, _later(BUSY, 4096, 100), BARE, new))
    assert rates(before, now, 2.0) == {
        BUSY.identity: (2048, 50),
        idle.identity: (0, 0),
    }
    assert rates(None, now, 2.0) == {}
    assert rates(before, now, 0) == {}


# -- for real


def _of(handoff: Handoff) -> list[Connection]:
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

    assert as_nobody(look) in {"False sockets", "True processes"}
