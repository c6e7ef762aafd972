"""Tests of stillness."""

from __future__ import annotations

import contextlib
import math
import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from tests.doubles import OFFLOADS, RELAY, Endpoint, RawPeer, own_clock, recv_exactly, until, vanish
from tlsify.connection import stillness
from tlsify.connection.establish import accept
from tlsify.connection.stillness import Bounds, Stillness, Watch
from tlsify.receiver import _Carried

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.doubles import Lab
    from tlsify.config import KtlsPolicy
    from tlsify.connection.ending.patience import Progress
    from tlsify.connection.handoff import Handoff

both = pytest.mark.parametrize("policy", OFFLOADS)
# And with None the relay's connection is not TCP's.
every = pytest.mark.parametrize("policy", [*OFFLOADS, pytest.param(None, id="unix")])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Stop the clock; return a function that moves it."""
    return own_clock(monkeypatch, stillness)


def serve(lab: Lab, policy: KtlsPolicy | None) -> tuple[Handoff, RawPeer]:
    """Connect a server's hand-off with a client made by hand."""
    if policy is not None:
        return lab.server(policy)
    ours, theirs = socket.socketpair()
    client, server = lab.configs()
    other = Endpoint(lambda: accept(theirs, server))
    lab.peers.append(ours)
    ours.settimeout(60)
    peer = RawPeer(ours, client)
    return lab.keep(other.result()), peer


def settle(handed: Handoff) -> None:
    """Wait until the peer has all, the handshake's last flight included."""
    until(lambda: not Watch(handed, Bounds())._ask()[1])


def fill(handed: Handoff) -> None:
    """Send to a peer that does not read, until nothing more fits anywhere."""
    handed.sock.settimeout(0.2)
    with contextlib.suppress(TimeoutError, BlockingIOError):
        while True:
            handed.sock.send(bytes(2**16))


def progress(handed: Handoff) -> Progress:
    """Return how the connection goes, which is at hand."""
    found, _ = Watch(handed, Bounds())._ask()
    assert found is not None
    return found


def received(handed: Handoff) -> int:
    """Return how many bytes have come, in records."""
    return progress(handed).received


def taken(handed: Handoff) -> int:
    """Return how many bytes the peer has, in records."""
    return progress(handed).acknowledged


@every
def test_idle(lab: Lab, policy: KtlsPolicy | None, clock: Callable[[float], None]) -> None:
    """A byte in either direction begins the time anew; looks are often enough to be exact."""
    handed, peer = serve(lab, policy)
    settle(handed)
    watch = Watch(handed, Bounds(idle=40))
    assert watch.pause == 10
    assert watch.look() is None
    clock(39)
    assert watch.look() is None
    before = received(handed)
    peer.send_data(b"x")
    until(lambda: received(handed) > before)
    clock(39)
    assert watch.look() is None
    clock(39)
    assert watch.look() is None
    handed.sock.sendall(b"y")
    assert peer.recv_data(1) == b"y"
    settle(handed)
    clock(39)
    assert watch.look() is None
    clock(40)
    assert watch.look() is Stillness.IDLE
    assert watch.reason == "nothing has come or gone for 40 seconds"


@every
def test_peer_that_reads_nothing(
    lab: Lab, policy: KtlsPolicy | None, clock: Callable[[float], None]
) -> None:
    """It has its time from when it last took something; one that is owed nothing has any time."""
    handed, peer = serve(lab, policy)
    settle(handed)
    watch = Watch(handed, Bounds(send=60))
    for _ in range(3):
        assert watch.look() is None
        clock(3600)
    fill(handed)
    until(lambda: not _is_excused(watch))
    assert watch.look() is None
    clock(59)
    assert watch.look() is None
    before = taken(handed)
    until(lambda: _takes(peer) and taken(handed) > before)
    fill(handed)
    clock(1)
    assert watch.look() is None
    clock(59)
    until(lambda: not _is_excused(watch))
    assert watch.look() is None
    while watch.look() is None:  # what it has made room for may still move
        clock(61)
    assert watch.look() is Stillness.UNREAD
    assert watch.reason.endswith("of the sent data for 60 seconds")


def _takes(peer: RawPeer) -> bool:
    """Receive a little, so that much is left."""
    with contextlib.suppress(BlockingIOError):
        assert peer.sock.recv(2**16, socket.MSG_DONTWAIT)
    return True


def _is_excused(watch: Watch) -> bool:
    progress, owed = watch._ask()
    return progress is None or progress.path_is_silent or not owed


@both
def test_path_that_is_silent(lab: Lab, policy: KtlsPolicy, clock: Callable[[float], None]) -> None:
    """That is TCP's to give up; but for `idle` it is as still as any, and has not got all."""
    handed, peer = lab.server(policy)
    settle(handed)
    vanish(peer.sock)
    handed.sock.sendall(b"x")
    watch = Watch(handed, Bounds(send=60))
    until(lambda: (progress := watch._ask()[0]) is not None and progress.path_is_silent)
    idle = Watch(handed, Bounds(idle=60))
    assert idle.look() is None
    for _ in range(5):
        clock(600)
        assert watch.look() is None
    assert idle.look() is Stillness.UNREAD


@every
def test_peer_that_does_not_end(
    lab: Lab, policy: KtlsPolicy | None, clock: Callable[[float], None]
) -> None:
    """Once we have, and it has all, it has to do something, unless it may think."""
    handed, peer = serve(lab, policy)
    settle(handed)
    watch, patient = Watch(handed, Bounds(send=60)), Watch(handed, Bounds(None, 60, may_think=True))
    clock(3600)
    assert watch.look() is None
    handed.shutdown()
    until(lambda: (progress := watch._ask()[0]) is not None and progress.has_ended)
    settle(handed)
    before = received(handed)
    peer.send_data(b"x")
    until(lambda: received(handed) > before)
    assert watch.look() is patient.look() is None
    clock(59)
    assert watch.look() is None
    clock(1)
    assert watch.look() is Stillness.UNENDED
    assert patient.look() is None


@every
def test_connection_that_is_over(
    lab: Lab, policy: KtlsPolicy | None, clock: Callable[[float], None]
) -> None:
    """Nothing is said of it: whoever carries it has other news."""
    handed, peer = serve(lab, policy)
    watch = Watch(handed, Bounds(1, 1))
    peer.close_notify()
    peer.sock.close()
    handed.close()
    if handed.relay is not None:
        assert handed.relay.join(20)
    clock(3600)
    assert watch.look() is None


def test_without_bounds(lab: Lab) -> None:
    """There is nothing to look for, ever."""
    handed, _ = lab.server(RELAY)
    assert Watch(handed, Bounds()).pause == math.inf


def test_connection_that_somebody_else_relays(lab: Lab, clock: Callable[[float], None]) -> None:
    """So it is there; and what he takes of what we have sent is movement."""
    handed, _ = lab.server(RELAY)
    told = SimpleNamespace(local=None, peer=None)
    relay, handed.relay = handed.relay, _Carried(told)  # type: ignore[arg-type]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sock, handed.sock = handed.sock, ours
        watch = Watch(handed, Bounds(idle=40))
        watch.moved()
        assert watch.look() is None
        clock(39)
        ours.sendall(bytes(1000))
        assert watch.look() is None
        clock(39)
        assert recv_exactly(theirs, 1000)
        assert watch.look() is None
        clock(39)
        assert watch.look() is None
        watch.moved()
        clock(39)
        assert watch.look() is None
        clock(1)
        assert watch.look() is Stillness.IDLE
    handed.relay, handed.sock = relay, sock
