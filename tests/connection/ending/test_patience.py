"""Tests of patience."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.doubles import Lab, own_clock, reset, until
from tlsify.connection.ending import patience
from tlsify.connection.ending.patience import Patience, has_died, unacknowledged, unread
from tlsify.ktls import ulp

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.each_kernel

# struct tcp_info: tcpi_probes, tcpi_backoff, tcpi_snd_wnd (Linux 5.4).
_WINDOW = struct.Struct("=3x B B 223x I")


class _Window(NamedTuple):
    """How a peer's window is probed.

    Attributes:
        unanswered: probes since the last answer.
        probes: all of them, since it closed.
        size: bytes that the peer has room for.
    """

    unanswered: int
    probes: int
    size: int


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Stop the clock; return a function that moves it."""
    return own_clock(monkeypatch, patience)


@pytest.fixture(params=["tcp", pytest.param("ktls", marks=pytest.mark.ktls)])
def pair(lab: Lab, request: pytest.FixtureRequest) -> tuple[socket.socket, socket.socket]:
    """Two connected sockets; in guests, where this is for each kernel to prove, with kTLS's ULP."""
    ours, theirs = lab.tcp()
    if request.param == "ktls":
        ulp.attach(ours)
    return ours, theirs


def _fill(sock: socket.socket) -> None:
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(bytes(2**16))


def _window(sock: socket.socket) -> _Window:
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _WINDOW.size)
    return _Window._make(_WINDOW.unpack(info))


def test_peer_that_reads_nothing(
    pair: tuple[socket.socket, socket.socket], clock: Callable[[float], None]
) -> None:
    """It is given so much time from its last acknowledgement on, and no more."""
    ours, theirs = pair
    _fill(ours)
    until(lambda: unacknowledged(ours) and not patience.tcp_progress(ours).path_is_silent)
    waiting = Patience(ours, 30)
    assert not waiting.is_over()
    clock(29)
    assert not waiting.is_over()
    before = patience.tcp_progress(ours).acknowledged
    while patience.tcp_progress(ours).acknowledged == before:
        assert theirs.recv(2**20)
    clock(29)
    assert not waiting.is_over(), "it has taken some"


def test_answered_probes_are_no_progress(
    pair: tuple[socket.socket, socket.socket], clock: Callable[[float], None]
) -> None:
    """A peer whose TCP answers, and which takes nothing, is given up."""
    ours, _theirs = pair
    _fill(ours)
    until(lambda: not _window(ours).size)
    waiting = Patience(ours, 30)
    assert not waiting.is_over()
    until(lambda: _window(ours).probes > _window(ours).unanswered)
    clock(29)
    assert not waiting.is_over()
    clock(2)
    assert waiting.is_over()


def test_path_that_is_silent(
    monkeypatch: pytest.MonkeyPatch, clock: Callable[[float], None]
) -> None:
    """That is TCP's to give up: an outage that it outlives loses nothing."""
    silent = patience.Progress(1, 100, path_is_silent=True)
    monkeypatch.setattr(patience, "tcp_progress", lambda _: silent)
    with socket.socket() as sock:
        waiting = Patience(sock, 30)
        for _ in range(20):
            assert not waiting.is_over()
            clock(60)
        monkeypatch.setattr(patience, "_at_most", None)  # back, at the end
        patience.hurry(5)
        assert waiting.is_over(), "but not of who is killed if he waits"
        patience.hurry(3600)
        answering = silent._replace(path_is_silent=False)
        monkeypatch.setattr(patience, "tcp_progress", lambda _: answering)
        assert waiting.is_over()


def test_layout_of_tcp_info(pair: tuple[socket.socket, socket.socket]) -> None:
    """The state and the count are where the structure has them: seen to change as they must."""
    ours, theirs = pair
    before = patience.tcp_progress(ours)
    assert before.state == 1  # TCP_ESTABLISHED
    ours.sendall(b"x" * 1000)
    until(lambda: patience.tcp_progress(ours).acknowledged == before.acknowledged + 1000)
    assert unread(theirs) == patience.tcp_progress(theirs).received == 1000
    assert unacknowledged(ours) == 0
    size = struct.calcsize("=8x 24I 2Q")
    assert patience._INFO.size == size + 16
    assert not has_died(ours)
    waiting = Patience(ours)
    assert not waiting.is_over()
    reset(theirs)
    until(lambda: has_died(ours))
    assert waiting.is_over(), "nobody is waited for who has gone"


@pytest.mark.own_kernel
def test_what_is_not_tcps(clock: Callable[[float], None]) -> None:
    """A UNIX domain socket's peer is waited for likewise."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.send(b"x" * 1000)
        waiting = Patience(ours, 30)
        assert not waiting.is_over()
        clock(29)
        assert not waiting.is_over()
        theirs.recv(1000)
        clock(2)
        assert not waiting.is_over(), "it has taken some"
        clock(30)
        assert waiting.is_over()
        assert not has_died(ours)


def test_what_is_no_connection() -> None:
    """It is over at once."""
    with socket.socket() as sock:
        waiting = Patience(sock)
        assert waiting.is_over(), "it is not connected"
    assert waiting.is_over(), "it is closed"


def test_pauses(lab: Lab) -> None:
    """They grow, to a second."""
    ours, _ = lab.tcp()
    waiting = Patience(ours)
    pauses = [waiting.pause() for _ in range(12)]
    assert pauses == sorted(pauses)
    assert pauses[0] < 0.01
    assert pauses[-1] == 1.0
