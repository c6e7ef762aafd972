"""Tests of records that are wrong: the alert, the error, and that nothing hangs afterwards.

Every row of what the kernel says of them (net/tls/tls_sw.c, tls_strp.c): EBADMSG, EMSGSIZE, EINVAL.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import pytest

from tests.doubles import KERNEL, RELAY, Lab, RawPeer, flipped, queued, until
from tlsify.codepoints import AlertDescription, ContentType, ProtocolVersion
from tlsify.connection.stream import TLSSocket
from tlsify.errors import PeerMisbehaved, Truncated
from tlsify.ktls.diag import tls_stat
from tlsify.ktls.probe import capabilities, polls_partial_records
from tlsify.metrics.counters import counters
from tlsify.tls.record import MAX_PLAINTEXT

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlsify.config import KtlsPolicy
    from tlsify.connection.handoff import Handoff

pytestmark = pytest.mark.each_kernel

TLS12, TLS13 = ProtocolVersion.TLSv1_2, ProtocolVersion.TLSv1_3
BAD_MAC = AlertDescription.bad_record_mac
# What a record may be longer than its plaintext (RFC 8446 5.2, RFC 5246 6.2.3).
EXPANSION = {TLS13: 256, TLS12: 2048}
# Before header and explicit nonce have come the kernel looks at neither (net/tls/tls_strp.c).
JUDGED = 5 + 8
# Nothing here waits for anything: what takes longer hangs, whatever the machine's load.
AT_ONCE = 15.0


@dataclass(frozen=True)
class Case:
    """Something that no peer may send.

    Attributes:
        make: builds it.
        alert: what it is answered with over the kernel.
        says: what the error names.
        undecryptable: whether the kernel counts it as such.
        versions: in which it can be built.
    """

    make: Callable[[RawPeer], bytes]
    alert: AlertDescription
    says: str
    undecryptable: int = 0
    versions: tuple[ProtocolVersion, ...] = (TLS13, TLS12)

    def build(self, peer: RawPeer) -> bytes:
        """Build it, in TLS 1.2 with as much behind it as the kernel waits for."""
        bad = self.make(peer)
        return bad.ljust(JUDGED, b"\0") if peer.negotiated.version is TLS12 else bad


def _replayed(peer: RawPeer) -> bytes:
    """The number of a record is not in it, but protected with it."""
    record = peer.data(b"data")
    peer._tx_seq += 1
    return peer.data(b"data") if record else b""


def _zeros(peer: RawPeer) -> bytes:
    return peer.seal(cast("ContentType", 0), bytes(20))


def _too_long(peer: RawPeer) -> bytes:
    length = MAX_PLAINTEXT + EXPANSION[peer.negotiated.version] + 1
    return b"\x17\x03\x03" + length.to_bytes(2, "big")


CASES = {
    "flipped bit": Case(
        lambda peer: flipped(peer.data(b"data")), BAD_MAC, "authenticate", undecryptable=1
    ),
    "wrong number": Case(_replayed, BAD_MAC, "authenticate", undecryptable=1),
    "all zeros inside": Case(_zeros, BAD_MAC, "authenticate", versions=(TLS13,)),
    "too long": Case(_too_long, AlertDescription.record_overflow, "too long"),
    "longest header": Case(
        lambda _: b"\x17\x03\x03\xff\xff", AlertDescription.record_overflow, "too long"
    ),
    "TLS 1.0": Case(
        lambda _: b"\x17\x03\x01\0\x20" + bytes(32), AlertDescription.protocol_version, "not TLS"
    ),
    "TLS 1.3 in the header": Case(
        lambda _: b"\x17\x03\x04\0\x20" + bytes(32), AlertDescription.protocol_version, "not TLS"
    ),
    "shorter than a tag": Case(lambda _: b"\x17\x03\x03\0\x0f" + bytes(15), BAD_MAC, "auth"),
    "empty": Case(lambda _: b"\x17\x03\x03\0\0", BAD_MAC, "auth"),
    "plaintext alert": Case(lambda _: b"\x15\x03\x03\0\x02\x02\x28", BAD_MAC, "auth"),
    "plaintext ccs": Case(lambda _: b"\x14\x03\x03\0\x01\x01", BAD_MAC, "auth"),
    "garbage": Case(
        lambda _: b"\xa5\xa5\xa5\0\x20" + bytes(32), AlertDescription.protocol_version, "not TLS"
    ),
    "http": Case(lambda _: b"GET / HTTP/1.0\r\n\r\n", AlertDescription.protocol_version, "not TLS"),
}

each_case = pytest.mark.parametrize("name", CASES)
each_case_and_version = pytest.mark.parametrize(
    ("name", "version"),
    [
        pytest.param(name, version, id=f"{version.label}-{name}")
        for name, case in CASES.items()
        for version in case.versions
    ],
)
# The kernel does not know which side it is.
_CLIENT = pytest.param(True, id="client", marks=pytest.mark.heavy)
each_role = pytest.mark.parametrize("is_client", [_CLIENT, pytest.param(False, id="server")])


@pytest.fixture(autouse=True)
def _probed() -> None:
    """Probe now: it moves the counters."""
    capabilities()
    polls_partial_records()


def _connect(
    lab: Lab, policy: KtlsPolicy, version: ProtocolVersion, *, is_client: bool
) -> tuple[Handoff, RawPeer]:
    return (lab.client if is_client else lab.server)(policy, version)


def _failure(attempt: Callable[[], object]) -> PeerMisbehaved:
    """Try until it fails, which it has to do at once."""
    started = time.monotonic()
    with pytest.raises(PeerMisbehaved) as raised:
        _for_ever(attempt)
    assert time.monotonic() - started < AT_ONCE
    return raised.value


def _for_ever(attempt: Callable[[], object]) -> None:
    while attempt():
        pass


def _check_end(peer: RawPeer, error: PeerMisbehaved) -> None:
    """The peer can open the alert, and nothing comes behind it."""
    assert peer.recv_alert() is error.alert
    assert peer.recv() is None


class Neighbour:
    """Another connection, which none of this concerns."""

    def __init__(self, lab: Lab, policy: KtlsPolicy) -> None:
        """Connect."""
        handoff, self._peer = lab.server(policy)
        self._tls = TLSSocket(handoff)

    def check(self) -> None:
        """Data passes both ways."""
        self._peer.send_data(b"ping")
        assert self._tls.recv(9) == b"ping"
        self._tls.sendall(b"pong")
        assert self._peer.recv_data(4) == b"pong"


@pytest.mark.ktls
@each_role
@each_case_and_version
def test_over_the_kernel(lab: Lab, name: str, version: ProtocolVersion, *, is_client: bool) -> None:
    """It ends the connection with the alert that is due, and stays so."""
    case = CASES[name]
    neighbour = Neighbour(lab, KERNEL)
    handoff, peer = _connect(lab, KERNEL, version, is_client=is_client)
    tls = TLSSocket(handoff)
    before, events = tls_stat(), counters()
    peer.send_data(b"good")
    assert tls.recv(9) == b"good"
    peer.sock.sendall(case.build(peer))
    error = _failure(lambda: tls.recv(9))
    assert error.alert is case.alert
    assert case.says in str(error)
    assert _failure(lambda: tls.recv(9)) is error
    assert _failure(lambda: tls.recv_into(bytearray(9))) is error
    assert _failure(handoff.service) is error
    with pytest.raises(BrokenPipeError):
        tls.sendall(b"x")
    _check_end(peer, error)
    undecryptable = tls_stat()["TlsDecryptError"] - before["TlsDecryptError"]
    assert undecryptable == case.undecryptable
    assert counters()["peer_misbehaved"] == events["peer_misbehaved"] + 1
    neighbour.check()


@pytest.mark.ktls
@each_case_and_version
def test_served_by_a_plain_program(lab: Lab, name: str, version: ProtocolVersion) -> None:
    """``service`` on the bare descriptor finds it, and sends the alert."""
    case = CASES[name]
    handoff, peer = _connect(lab, KERNEL, version, is_client=False)
    handoff.sock.settimeout(None)
    peer.sock.sendall(case.build(peer))
    error = _failure(handoff.service)
    assert error.alert is case.alert
    assert case.says in str(error)
    assert _failure(handoff.service) is error
    _check_end(peer, error)


@pytest.mark.ktls
@pytest.mark.parametrize("timeout", [0, 10])
@each_case
def test_without_waiting(lab: Lab, name: str, timeout: float) -> None:
    """It is found by who polls, too, and once found a receive never says "not yet"."""
    case = CASES[name]
    handoff, peer = _connect(lab, KERNEL, TLS13, is_client=False)
    tls = TLSSocket(handoff)
    tls.settimeout(timeout)
    peer.sock.sendall(case.build(peer))

    def attempt() -> bool:
        try:
            return bool(tls.recv(9))
        except BlockingIOError:
            return True

    error = _failure(attempt)
    assert error.alert is case.alert
    for _ in range(2):
        with pytest.raises(PeerMisbehaved):
            tls.recv(9)
    _check_end(peer, error)


@each_case_and_version
def test_over_the_relay(lab: Lab, name: str, version: ProtocolVersion) -> None:
    """There, too, the connection ends with an error, and an alert that the peer can open."""
    case = CASES[name]
    neighbour = Neighbour(lab, RELAY)
    handoff, peer = _connect(lab, RELAY, version, is_client=False)
    tls = TLSSocket(handoff)
    peer.sock.sendall(peer.data(b"good") + case.build(peer))
    assert tls.recv(9) == b"good"
    error = _failure(lambda: tls.recv(9))
    assert str(_failure(lambda: tls.recv(9))) == str(error)
    assert error.alert is not None
    _check_end(peer, error)
    neighbour.check()


@pytest.mark.ktls
@pytest.mark.parametrize("bad", [b"\x15\x03\x03\0\x02\x02\x28", b"\x17\x03\x03\xff\xff"])
def test_too_little_to_be_judged(lab: Lab, bad: bytes) -> None:
    """In TLS 1.2 a plaintext alert alone is shorter than what the kernel waits for: truncation."""
    handoff, peer = _connect(lab, KERNEL, TLS12, is_client=False)
    tls = TLSSocket(handoff)
    tls.settimeout(0)
    peer.sock.sendall(bad)
    until(lambda: queued(tls) == len(bad))
    with pytest.raises(BlockingIOError):
        tls.recv(9)
    peer.sock.shutdown(socket.SHUT_WR)
    tls.settimeout(AT_ONCE)
    with pytest.raises(Truncated):
        tls.recv(9)
