"""Tests of connections without TLS."""

from __future__ import annotations

import contextlib
import socket

import pytest

from tlsify.connection.plain import Plain

SocketPair = tuple[socket.socket, socket.socket]


def test_ends(tcp_pair: SocketPair) -> None:
    """One direction ends, then both; a second time does no harm."""
    ours, theirs = tcp_pair
    with Plain(ours) as plain:
        plain.shutdown()
        plain.shutdown()
        assert theirs.recv(1) == b""
        theirs.sendall(b"x")
        assert ours.recv(1) == b"x"
    plain.shutdown()
    plain.abort()
    assert ours.fileno() == -1


def test_cut(tcp_pair: SocketPair) -> None:
    """After an error the peer sees that this was no end."""
    ours, theirs = tcp_pair
    with pytest.raises(ZeroDivisionError), Plain(ours):
        raise ZeroDivisionError
    with pytest.raises(ConnectionResetError):
        theirs.recv(1)


def test_close_with_unread_input(tcp_pair: SocketPair) -> None:
    """What was sent arrives, and its end; a reset for what nobody has read would drop it."""
    ours, theirs = tcp_pair
    theirs.sendall(b"unread")
    ours.setblocking(False)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += ours.send(bytes(2**16))
    Plain(ours).close()
    assert ours.fileno() == -1
    theirs.sendall(b"unread, too")
    received = 0
    while size := len(theirs.recv(2**16)):
        received += size
    assert received == sent
