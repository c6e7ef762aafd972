"""Tests of opening: kernel or relay, the order of the commit, and what a failure leaves behind."""

from __future__ import annotations

import dataclasses
import errno
import os
from typing import TYPE_CHECKING

import pytest

from tests.doubles import (
    CLOSE_NOTIFY,
    KERNEL,
    OFFLOADS,
    RELAY,
    VERSIONS,
    Endpoint,
    FailingSocket,
    FakeUlpSocket,
    Lab,
    Middleman,
    RawPeer,
    check_descriptors,
    descriptors,
    read,
)
from tlsify import opening as opening_module
from tlsify.codepoints import Aead, ProtocolVersion
from tlsify.config import KtlsMode, KtlsPolicy
from tlsify.errors import (
    ConfigError,
    KtlsCommitError,
    KtlsError,
    KtlsUnavailable,
    RekeyUnsupported,
)
from tlsify.handoff import Offload
from tlsify.keys import Direction
from tlsify.ktls import ulp
from tlsify.ktls.floor import ADVISORIES
from tlsify.ktls.probe import Capabilities, capabilities
from tlsify.opening import Opening, accept, connect, host_refusal
from tlsify.tls.record import split_records

if TYPE_CHECKING:
    from tlsify.handoff import Handoff

TLS13 = ProtocolVersion.TLSv1_3
TLS12 = ProtocolVersion.TLSv1_2
AUTO = KtlsPolicy()
IN_GUEST = "TLSIFY_GUEST" in os.environ
LARGE = 2**20 if IN_GUEST else 2**22

both = pytest.mark.parametrize("policy", OFFLOADS)
each_version = pytest.mark.parametrize("version", VERSIONS)


# -- the decision


ABLE = Capabilities(
    refusal=None,
    supported=frozenset((v, a, d) for v in ProtocolVersion for a in Aead for d in Direction),
    rekey=False,
    payload_limit=False,
    advisories=(),
)
without_ktls = pytest.mark.skipif(
    capabilities().refusal is None, reason="this kernel has what the test wants to be missing"
)


@without_ktls
def test_kernel_required_where_there_is_none(lab: Lab) -> None:
    """--ktls=require refuses before a byte is sent, and closes the socket."""
    ours, theirs = lab.tcp()
    with pytest.raises(KtlsUnavailable) as raised:
        connect(ours, lab.configs()[0], KERNEL)
    assert raised.value.code == "no-tls-ulp"
    assert ours.fileno() == -1
    assert theirs.recv(1) == b""


@without_ktls
def test_relay_says_why(lab: Lab) -> None:
    """A fallback carries the kernel's reason with it."""
    client, server = lab.pair(AUTO)
    assert client.offload is server.offload is Offload.RELAY
    assert client.reason is not None
    assert client.reason.code == "no-tls-ulp"


def test_kernel_switched_off(lab: Lab) -> None:
    """The policy is a reason like any other, and the hand-off stays usable."""
    client, _server = lab.pair(RELAY)
    assert client.reason is not None
    assert client.reason.code == "policy-off"
    assert client.channel is None
    assert not client.peer_closed


@pytest.mark.ktls
def test_kernel_as_a_matter_of_course(lab: Lab) -> None:
    """Without any policy the kernel takes what it can."""
    client, server = lab.pair(AUTO)
    assert client.offload is server.offload is Offload.KERNEL
    assert client.reason is None


def test_known_bad_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel with a known bug is not used, unless the caller insists."""
    monkeypatch.setattr(
        opening_module,
        "capabilities",
        lambda: dataclasses.replace(ABLE, advisories=ADVISORIES[:1]),
    )
    refusal = host_refusal(AUTO)
    assert refusal is not None
    assert refusal.code == "known-bad-kernel"
    assert "CVE-2025-39682" in str(refusal)
    assert host_refusal(KtlsPolicy(any_kernel=True)) is None


def _half(*missing: Aead) -> Capabilities:
    kept = frozenset(entry for entry in ABLE.supported if entry[1] not in missing)
    return dataclasses.replace(ABLE, supported=kept)


def test_only_offloadable_suites_are_offered(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """With kTLS required the hello names nothing else; otherwise the rest comes last."""
    monkeypatch.setattr(opening_module, "capabilities", lambda: _half(Aead.AES_GCM_128))
    monkeypatch.setattr(ulp, "attach", lambda _sock: None)
    ours, _theirs = lab.tcp()
    config = lab.configs()[0]
    rest = (Aead.AES_GCM_256, Aead.CHACHA20_POLY1305)
    assert Opening(ours, config, KERNEL)._aeads(config.aeads) == rest
    assert Opening(ours, config, AUTO)._aeads(config.aeads) == (*rest, Aead.AES_GCM_128)
    assert Opening(ours, config, RELAY)._aeads(config.aeads) == config.aeads


def _fake_server(
    lab: Lab,
    monkeypatch: pytest.MonkeyPatch,
    policy: KtlsPolicy,
    found: Capabilities = ABLE,
    fault: tuple[int, OSError] | None = None,
) -> tuple[Endpoint[Handoff], FakeUlpSocket, RawPeer]:
    """Accept where the kernel seems to have kTLS; no record can be sent under its keys."""
    monkeypatch.setattr(opening_module, "capabilities", lambda: found)
    ours, theirs = lab.tcp()
    fake = FakeUlpSocket(theirs, *(fault or (-1, OSError())))
    fake.settimeout(20)
    client, server = lab.configs()
    other = Endpoint(lambda: accept(fake, server, policy))
    return other, fake, RawPeer(ours, client)


def test_suite_that_the_kernel_lacks(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection whose suite cannot be offloaded is relayed, under the reason's name."""
    other, _, peer = _fake_server(lab, monkeypatch, AUTO, _half(*Aead))
    server = lab.keep(other.result())
    assert server.reason is not None
    assert server.reason.code == "suite-unsupported"
    peer.send_data(b"data")
    assert read(server) == b"data"


def test_rekey_required_where_there_is_none(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """--ktls-rekey=require keeps TLS 1.3 in userspace: no session follows a KeyUpdate yet."""
    policy = KtlsPolicy(rekey_required=True)
    other, _, _peer = _fake_server(lab, monkeypatch, policy)
    server = lab.keep(other.result())
    assert server.reason is not None
    assert server.reason.code == "no-rekey"


def test_refusal_after_the_handshake_tells_the_peer(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With kTLS required, a refused key ends the connection with close_notify."""
    policy = KtlsPolicy(KtlsMode.REQUIRE, rekey_required=True)
    other, fake, peer = _fake_server(lab, monkeypatch, policy)
    with pytest.raises(KtlsUnavailable):
        other.result()
    assert fake.fileno() == -1
    assert peer.recv() == CLOSE_NOTIFY
    assert peer.recv() is None


# The privileged calls of a server's commit, in order.
STEPS = ("TCP_ULP", "NODELAY on", "NODELAY off", "SO_RCVLOWAT", "TLS_RX", "TLS_TX")
ERRNOS = (
    errno.ENOENT,
    errno.ENOTCONN,
    errno.EEXIST,
    errno.ENOPROTOOPT,
    errno.EOPNOTSUPP,
    errno.EINVAL,
    errno.EBUSY,
    errno.ENOMEM,
    errno.EPERM,
    errno.EBADF,
)


def _expected(step: str, number: int) -> type[Exception] | None:
    """Tell which error a failing step raises under AUTO; None if it leads to a connection."""
    if step == "SO_RCVLOWAT":
        return OSError
    if step == "TLS_RX" and number == errno.EBUSY:
        return RekeyUnsupported
    return KtlsCommitError if step == "TLS_TX" else None


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("number", ERRNOS, ids=errno.errorcode.get)
def test_failing_system_call_during_the_commit(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, step: str, number: int
) -> None:
    """Whichever call fails, the outcome is a relay or a closed socket, never half a connection."""
    before = descriptors()
    fail_at = STEPS.index(step)
    error = OSError(number, os.strerror(number))
    other, fake, peer = _fake_server(lab, monkeypatch, AUTO, fault=(fail_at, error))
    expected = _expected(step, number)
    if expected is not None:
        with pytest.raises(expected):
            other.result()
        assert fake.fileno() == -1
        if issubclass(expected, KtlsError):
            assert peer.recv() == CLOSE_NOTIFY
        assert peer.recv() is None
    else:
        server = lab.keep(other.result())
        relayed = step in {"TCP_ULP", "TLS_RX"}
        assert server.offload is (Offload.RELAY if relayed else Offload.KERNEL)
        if server.offload is Offload.RELAY:
            peer.send_data(b"ping")
            assert read(server) == b"ping"
            server.sock.sendall(b"pong")
            assert peer.recv_data(4) == b"pong"
        server.sock.close()
    peer.sock.close()
    check_descriptors(before)


@pytest.mark.ktls
@pytest.mark.parametrize("fail_at", range(len(STEPS) + 1))
def test_failing_system_call_on_a_kernel_with_ktls(lab: Lab, fail_at: int) -> None:
    """The same with a real ULP: a relay over a keyless ULP works, a half-keyed one is closed."""
    before = descriptors()
    ours, theirs = lab.tcp()
    failing = FailingSocket(theirs, fail_at, OSError(errno.EINVAL, "planted"))
    failing.settimeout(20)
    client, server_config = lab.configs()
    other = Endpoint(lambda: accept(failing, server_config, AUTO))
    step = STEPS[fail_at] if fail_at < len(STEPS) else None
    if step == "SO_RCVLOWAT":
        RawPeer(ours, client)
        with pytest.raises(OSError, match="planted"):
            other.result()
    elif step == "TLS_TX":
        peer = RawPeer(ours, client)
        with pytest.raises(KtlsCommitError):
            other.result()
        assert peer.recv() == CLOSE_NOTIFY
    else:
        peer = RawPeer(ours, client)
        server = lab.keep(other.result())
        relayed = step in {"TCP_ULP", "TLS_RX"}
        assert server.offload is (Offload.RELAY if relayed else Offload.KERNEL)
        peer.send_data(b"ping")
        assert read(server) == b"ping"
        server.sock.sendall(b"pong")
        assert peer.recv_data(4) == b"pong"
        server.sock.close()
    ours.close()
    check_descriptors(before)


@pytest.mark.ktls
def test_socket_that_has_a_ulp_already(lab: Lab) -> None:
    """Somebody else's keys may be on it, so it is refused and closed."""
    ours, _theirs = lab.tcp()
    ulp.attach(ours)
    with pytest.raises(ConfigError, match="EEXIST"):
        connect(ours, lab.configs()[0], AUTO)
    assert ours.fileno() == -1


@pytest.mark.ktls
def test_client_that_wants_short_records(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """max_fragment_length is kept by a kernel that can, and by the relay otherwise."""
    ours, theirs = lab.tcp()
    client, server_config = lab.configs()
    original = Opening._install_rx

    def install_rx(self: Opening, negotiated: object) -> None:
        limited = dataclasses.replace(negotiated, max_fragment_length=512)  # type: ignore[type-var]
        original(self, limited)  # type: ignore[arg-type]

    monkeypatch.setattr(Opening, "_install_rx", install_rx)
    other = Endpoint(lambda: accept(theirs, server_config, AUTO))
    peer = RawPeer(ours, client)
    server = lab.keep(other.result())
    if not capabilities().payload_limit:
        assert server.reason is not None
        assert server.reason.code == "max-fragment-length"
        return
    assert server.offload is Offload.KERNEL
    server.sock.sendall(bytes(2000))
    sizes: list[int] = []
    while sum(sizes) < 2000:
        record = peer.recv()
        assert record is not None
        sizes.append(len(record[1]))
    assert max(sizes) <= 512


def test_framing_of_what_the_middleman_sees(lab: Lab) -> None:
    """Even the relay's last byte is a whole record, so nothing unprotected can hide behind it."""
    ours, left = lab.tcp()
    right, theirs = lab.tcp()
    middleman = Middleman(left, right)
    client_config, server_config = lab.configs()
    other = Endpoint(lambda: accept(theirs, server_config, RELAY))
    client = lab.keep(connect(ours, client_config, RELAY))
    server = lab.keep(other.result())
    server.sock.sendall(b"data")
    assert read(client) == b"data"
    server.close()
    client.close()
    middleman.join()
    for seen in (middleman.from_left, middleman.from_right):
        assert b"".join(split_records(bytes(seen))) == bytes(seen)
