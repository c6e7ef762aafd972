"""Tests of pending."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.doubles import until
from tlsify.aio import pending
from tlsify.aio.pending import PendingHandshake, PendingHandshakes, origin

if TYPE_CHECKING:
    from collections.abc import Iterator

A, B = b"\x7f\0\0\1", b"\x7f\0\0\2"


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A connection on which nothing was said for some time."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as peer,
    ):
        ours, _ = listener.accept()
        with ours:
            until(lambda: pending.silence(ours) > 0)
            yield ours
        del peer


def test_oldest_of_those_from_where_most_come(
    silent: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has only one is not let go for somebody's many."""
    monkeypatch.setattr(pending, "_SILENCE", 0.001)
    crowd = PendingHandshakes()
    single, first, second = (
        PendingHandshake(silent, B, 0.0),
        PendingHandshake(silent, A, 1.0),
        PendingHandshake(silent, A, 2.0),
    )
    for opening in (single, first, second):
        crowd.enter(opening)
    assert crowd.stalled(3.0) is first
    assert crowd.leave(first)
    assert not crowd.leave(first)
    assert crowd.stalled(3.0) is single, "of as many the oldest"
    assert len(crowd) == 2


def test_newcomer_that_waits(silent: socket.socket) -> None:
    """Then a moment is old enough: who keeps a place by a byte now and then loses it, too."""
    crowd = PendingHandshakes()
    opening = PendingHandshake(silent, A, 10.0)
    crowd.enter(opening)
    assert crowd.stalled(10.5) == pytest.approx(1.5)
    assert crowd.stalled(10.01, pressing=True) == pytest.approx(pending._LEAST - 0.01)
    assert crowd.stalled(10.5, pressing=True) is opening
    for _ in range(100):
        crowd.took(1.0)
    assert crowd.stalled(10.5, pressing=True) == pytest.approx(3.5, abs=0.01), "as is usual here"


def test_nobody_is_stalled_yet(silent: socket.socket) -> None:
    """The answer is when to ask again; nobody there is none at all."""
    crowd = PendingHandshakes()
    assert crowd.stalled(0.0) is None
    crowd.enter(PendingHandshake(silent, A, 10.0))
    assert crowd.stalled(11.5) == pytest.approx(0.5)
    assert crowd.stalled(11.999) == pending._SHORTEST_WAIT


def test_one_whose_bytes_we_have_not_read() -> None:
    """It has not stalled, however long it takes us; for ever it may not stay either."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
        with peer, ours:
            peer.send(b"hello")
            until(lambda: pending.silence(ours) == 0)
            crowd = PendingHandshakes()
            opening = PendingHandshake(ours, A, 0.0)
            crowd.enter(opening)
            assert crowd.stalled(5.0) == pending._LONGEST_WAIT
            assert crowd.stalled(10.0) is opening


def test_where_handshakes_take_long(silent: socket.socket) -> None:
    """Patience grows with what is usual."""
    crowd = PendingHandshakes()
    for _ in range(100):
        crowd.took(1.0)
    crowd.enter(PendingHandshake(silent, A, 0.0))
    waits = crowd.stalled(3.0)
    assert isinstance(waits, float)
    assert waits == pytest.approx(1.0, abs=0.01)


def test_silence_of_what_is_no_tcp() -> None:
    """A local peer's is unknown, and a closed socket's too: they are the first to go."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert pending.silence(ours) == pending._AGE
    assert pending.silence(ours) == pending._AGE


def test_silence_is_measured() -> None:
    """It is the kernel's own clock that is asked."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
        with peer, ours:
            begun = time.monotonic()
            until(lambda: pending.silence(ours) >= 0.02)
            assert time.monotonic() - begun < 15
            until(lambda: peer.send(b"x") and pending.silence(ours) < 0.02)
            ours.recv(1)
            assert pending.silence(ours) < 0.02 + time.monotonic() - begun


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("192.0.2.1", 1), ("192.0.2.1", 2), True),
        (("192.0.2.1", 1), ("192.0.2.2", 1), False),
        (("2001:db8::1", 1, 0, 0), ("2001:db8::2:2", 1, 0, 0), True),
        (("2001:db8::1", 1, 0, 0), ("2001:db8:0:1::1", 1, 0, 0), False),
        (("::ffff:192.0.2.1", 1, 0, 0), ("192.0.2.1", 1), True),
        (("::ffff:192.0.2.1", 1, 0, 0), ("::ffff:192.0.2.2", 1, 0, 0), False),
        (("fe80::1%lo", 1, 0, 1), ("fe80::2", 1, 0, 1), True),
    ],
)
def test_origins(one: object, other: object, *, same: bool) -> None:
    """IPv4 by address, IPv6 by site, however they are spelled."""
    assert (origin(one) == origin(other)) is same


@given(st.one_of(st.just(""), st.binary(max_size=20), st.none()))
def test_origin_of_a_local_socket(name: object) -> None:
    """It has none."""
    assert origin(name) is None
