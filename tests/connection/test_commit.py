"""Tests of commit: the order of its steps, and what a failure leaves behind."""

from __future__ import annotations

import dataclasses
import errno
import gc
import os
from typing import TYPE_CHECKING

import pytest

from tests.doubles import (
    RELAY,
    Endpoint,
    FailingSocket,
    FakeUlpSocket,
    Lab,
    RawPeer,
    check_descriptors,
    descriptors,
    queued,
    read,
    until,
)
from tests.want import Want
from tlsify.codepoints import Aead, ProtocolVersion
from tlsify.config import KtlsMode, KtlsPolicy
from tlsify.connection import commit
from tlsify.connection.establish import accept, hand_over
from tlsify.connection.handoff import Offload
from tlsify.connection.relay import threads as relay_threads
from tlsify.connection.relay.verdict import Verdict
from tlsify.connection.setup import eligibility, handshake
from tlsify.connection.setup.handshake import run
from tlsify.errors import (
    KtlsCommitError,
    KtlsUnavailable,
    RekeyUnsupported,
    ResourceError,
    TlsifyError,
)
from tlsify.keys import Direction
from tlsify.ktls.probe import Capabilities, capabilities
from tlsify.metrics.counters import counters
from tlsify.tls.engine import Engine

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from tlsify.connection.handoff import Handoff
    from tlsify.keys import Keys, TrafficKeys
    from tlsify.tls.negotiated import Negotiated

pytestmark = pytest.mark.each_kernel

AUTO = KtlsPolicy()


ABLE = Capabilities(
    refusal=None,
    supported=frozenset((v, a, d) for v in ProtocolVersion for a in Aead for d in Direction),
    rekey=False,
    payload_limit=False,
    advisories=(),
)


def _fake_server(
    lab: Lab,
    monkeypatch: pytest.MonkeyPatch,
    policy: KtlsPolicy,
    found: Capabilities = ABLE,
    fault: tuple[int, OSError] | None = None,
) -> tuple[Endpoint[Handoff], FakeUlpSocket, RawPeer]:
    """Accept where the kernel seems to have kTLS; no record can be sent under its keys."""
    for module in (commit, eligibility):
        monkeypatch.setattr(module, "capabilities", lambda: found)
    ours, theirs = lab.tcp()
    fake = FakeUlpSocket(theirs, *(fault or (-1, OSError())))
    fake.settimeout(60)
    client, server = lab.configs()
    other = Endpoint(lambda: hand_over(fake, server, policy))
    return other, fake, RawPeer(ours, client)


def test_suite_that_the_kernel_lacks(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection whose suite cannot be offloaded is relayed, under the reason's name."""
    nothing = dataclasses.replace(ABLE, supported=frozenset())
    other, _, peer = _fake_server(lab, monkeypatch, AUTO, nothing)
    server = lab.keep(other.result())
    assert server.reason is not None
    assert server.reason.code == "suite-unsupported"
    peer.send_data(b"data")
    assert read(server) == b"data"


def test_keys_of_a_handshake_that_fails_after_all(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are derived before the last flight is sent; if that fails, they are wiped."""
    derived: list[Keys] = []

    def broken(sock: socket.socket, engine: Engine, timeout: float) -> None:
        run(sock, engine, timeout)
        assert engine.keys is not None
        assert any(engine.keys.tx_secret)
        derived.append(engine.keys)
        raise ConnectionResetError

    monkeypatch.setattr(handshake, "run", broken)
    other, _, _peer = _fake_server(lab, monkeypatch, AUTO)
    with pytest.raises(ConnectionResetError):
        other.result()
    (keys,) = derived
    assert not any(keys.tx_secret + keys.rx_secret + keys.tx.key + keys.rx.key)


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
    """With kTLS required, a refused key ends the connection, and that is no end in good order."""
    policy = KtlsPolicy(KtlsMode.REQUIRE, rekey_required=True)
    other, fake, peer = _fake_server(lab, monkeypatch, policy)
    with pytest.raises(KtlsUnavailable):
        other.result()
    assert fake.fileno() == -1
    assert peer.recv() is None


def test_keys_that_were_never_derived(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that was told to derive no keys can never have zeros installed."""
    for module in (commit, eligibility):
        monkeypatch.setattr(module, "capabilities", lambda: ABLE)
    ours, theirs = lab.tcp()
    client, server = lab.configs()
    other = Endpoint(lambda: RawPeer(ours, client))
    engine = Engine(server, keys=False)
    run(theirs, engine, 20)
    other.result()
    fake = FakeUlpSocket(theirs, -1, OSError())
    with fake, pytest.raises(TlsifyError, match="never derived"):
        commit.commit(commit.Ready(fake, engine, AUTO, None, None, None))
    assert not any("tls" in str(call).lower() for call in fake.calls)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("thread", "can't start new thread"),
        ("socketpair", "ENFILE: Too many open files in system"),
        ("mmap", "ENOMEM: Cannot allocate memory"),
    ],
)
@pytest.mark.usefixtures("nothing_kept")
def test_no_relay_to_be_had(lab: Lab, kind: str, says: str) -> None:
    """The peer, whatever it has said by then, sees a cut; nothing stays open."""
    ours, theirs = lab.tcp()
    client, server = lab.configs()
    other = Endpoint(lambda: RawPeer(ours, client))
    engine = Engine(server, keys=False)
    run(theirs, engine, 20)
    peer = other.result()
    peer.send_data(b"question")
    until(lambda: queued(theirs))
    before, lacking = descriptors(), counters()["shortage"]
    refusal = KtlsUnavailable("TCP_ULP", 0, "no", code="policy-off")
    with Want(kind, 1), theirs, pytest.raises(ResourceError) as caught:
        commit.commit(commit.Ready(theirs, engine, RELAY, refusal, None, None))
    assert str(caught.value) == f"the connection cannot be relayed: {says}"
    assert caught.value.hint != TlsifyError.general_hint
    assert descriptors() < before
    assert counters()["shortage"] == lacking + 1
    assert peer.recv() is None


@pytest.fixture
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No page is there for another verdict, no thread, and nothing is left to the collector."""
    until(lambda: not any(each.is_running for each in relay_threads._threads))
    monkeypatch.setattr(Verdict, "_free", [])
    gc.disable()
    yield
    gc.enable()


# The privileged calls of a server's commit, in order.
STEPS = (
    *("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "SO_KEEPALIVE"),
    *("TCP_ULP", "SO_RCVLOWAT", "TLS_RX", "TLS_TX"),
)
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
    """Return which error a failing step raises under AUTO; None if it leads to a connection."""
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
    failing.settimeout(60)
    client, server_config = lab.configs()
    other = Endpoint(lambda: hand_over(failing, server_config, AUTO))
    step = STEPS[fail_at] if fail_at < len(STEPS) else None
    if step == "SO_RCVLOWAT":
        peer = RawPeer(ours, client)
        with pytest.raises(OSError, match="planted"):
            other.result()
        assert peer.recv() is None
    elif step == "TLS_TX":
        peer = RawPeer(ours, client)
        with pytest.raises(KtlsCommitError):
            other.result()
        assert peer.recv() is None
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
def test_client_that_wants_short_records(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """max_fragment_length is kept by a kernel that can, and by the relay otherwise."""
    ours, theirs = lab.tcp()
    client, server_config = lab.configs()
    original = commit._install_rx

    def install_rx(ready: commit.Ready, negotiated: Negotiated, keys: TrafficKeys) -> None:
        original(ready, dataclasses.replace(negotiated, max_fragment_length=512), keys)

    monkeypatch.setattr(commit, "_install_rx", install_rx)
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
