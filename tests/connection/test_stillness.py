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
from tlsify.connection.establish import connect
from tlsify.connection.stillness import Bounds, Stillness, Watch
from tlsify.receiver import _Carried

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.doubles import Lab
    from tlsify.config import KtlsPolicy
    from tlsify.connection.handoff import Handoff

both = pytest.mark.parametrize("policy", OFFLOADS)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Have time go by; return what has it go."""
    return own_clock(monkeypatch, stillness)


def settle(handed: Handoff) -> None:
    """Wait until the peer has all, the handshake's last flight included."""
    until(lambda: not Watch(handed, Bounds())._ask()[1])


def fill(handed: Handoff) -> None:
    """Send to a peer that does not read, until nothing more fits anywhere."""
    handed.sock.settimeout(0.2)
    with contextlib.suppress(TimeoutError, BlockingIOError):
        while True:
            handed.sock.send(bytes(2**16))


def received(handed: Handoff) -> int:
    """Return how many bytes have come, in records."""
    progress, _ = Watch(handed, Bounds())._ask()
    assert progress is not None
    return progress.received


@both
def test_idle(lab: Lab, policy: KtlsPolicy, clock: Callable[[float], None]) -> None:
    """A byte in either direction begins the time anew; looks are often enough to be exact."""
    handed, peer = lab.server(policy)
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
    settle(handed)
    clock(39)
    assert watch.look() is None
    clock(40)
    assert watch.look() is Stillness.IDLE
    assert watch.reason == "nothing has come or gone for 40 seconds"


@both
def test_peer_that_reads_nothing(
    lab: Lab, policy: KtlsPolicy, clock: Callable[[float], None]
) -> None:
    """It has its time from when it last took something; one that is owed nothing has any time."""
    handed, peer = lab.server(policy)
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
    before = watch._seen
    while watch._seen == before:
        assert peer.sock.recv(2**20)
        clock(1)
        assert watch.look() is None
    clock(59)
    until(lambda: not _is_excused(watch))
    assert watch.look() is None
    clock(61)
    assert watch.look() is Stillness.UNREAD
    assert watch.reason.endswith("of what was sent for 60 seconds")


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


@both
def test_peer_that_does_not_end(
    lab: Lab, policy: KtlsPolicy, clock: Callable[[float], None]
) -> None:
    """Once we have, and it has all, it has to do something; before that it need not."""
    handed, peer = lab.server(policy)
    settle(handed)
    watch = Watch(handed, Bounds(send=60))
    clock(3600)
    assert watch.look() is None
    handed.shutdown()
    until(lambda: (progress := watch._ask()[0]) is not None and progress.has_ended)
    settle(handed)
    before = received(handed)
    peer.send_data(b"x")
    until(lambda: received(handed) > before)
    assert watch.look() is None
    clock(59)
    assert watch.look() is None
    clock(1)
    assert watch.look() is Stillness.UNENDED


@both
def test_connection_that_is_over(
    lab: Lab, policy: KtlsPolicy, clock: Callable[[float], None]
) -> None:
    """Nothing is said of it: whoever carries it has other news."""
    handed, peer = lab.server(policy)
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


def test_what_is_not_tcp(lab: Lab, clock: Callable[[float], None]) -> None:
    """Where nobody can tell, the bytes that whoever carries them tells of count alone."""
    ours, theirs = socket.socketpair()
    client, server = lab.configs()
    other = Endpoint(lambda: RawPeer(theirs, server))
    handed = lab.keep(connect(ours, client))
    lab._peers.append(other.result().sock)
    watch = Watch(handed, Bounds(idle=40, send=40))
    clock(3600)
    assert watch.look() is None


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
