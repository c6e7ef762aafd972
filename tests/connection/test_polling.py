"""Tests of polling."""

from __future__ import annotations

import socket
import struct

import pytest

from tlsify.connection.polling import LowWater, timeval
from tlsify.ktls import probe


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.0, (0, 0)), (5e-7, (0, 1)), (1e-3, (0, 1000)), (1.0, (1, 0)), (0.9999999, (1, 0))],
)
def test_limits_are_rounded_up(seconds: float, expected: tuple[int, int]) -> None:
    """What is left of a time does not become no limit."""
    assert struct.unpack("@ll", timeval(seconds)) == expected


@pytest.mark.parametrize("usual", [1, 3])
@pytest.mark.parametrize("partial", [True, False])
def test_mark(monkeypatch: pytest.MonkeyPatch, *, partial: bool, usual: int) -> None:
    """It is above what has come, until all of it may wake again that did before."""
    monkeypatch.setattr(probe, "polls_partial_records", lambda: partial)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    with ours, theirs:
        theirs.sendall(b"part")
        assert ours.recv(4, socket.MSG_PEEK | socket.MSG_WAITALL) == b"part"
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, usual)
        mark = LowWater(ours)
        assert mark.rise() is partial
        assert not mark.rise(), "which is no reason to try again"
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == (5 if partial else usual)
        mark.fall()
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == usual
