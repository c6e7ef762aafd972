"""Tests of STARTTLS on the loop; the dialogues are test_upgrade's."""

from __future__ import annotations

import asyncio
import socket

import pytest

from tests.conversations import CONVERSATIONS, SERVER
from tests.doubles import Endpoint, give_up, recv_exactly
from tlsify.aio.starttls import upgrade
from tlsify.errors import DeadlineExceeded, Truncated

SocketPair = tuple[socket.socket, socket.socket]


def ask(sock: socket.socket, timeout: float = 60) -> None:
    """Ask the scripted server."""
    sock.settimeout(0)
    asyncio.run(upgrade(sock, "smtp", SERVER, timeout), debug=True)


def test_dialogue(tcp_pair: SocketPair) -> None:
    """The server's words come in pieces; nothing behind the last is read."""
    ours, theirs = tcp_pair

    def serve() -> None:
        for question, answer in CONVERSATIONS["smtp"]:
            assert recv_exactly(theirs, len(question)) == question
            for at in range(len(answer)):
                theirs.sendall(answer[at : at + 1])
        assert recv_exactly(theirs, 5) == b"hello"
        theirs.sendall(b"and hello")

    other = Endpoint(serve)
    ask(ours)
    ours.sendall(b"hello")
    ours.settimeout(60)
    assert ours.recv(100) == b"and hello"
    other.result()


def test_server_that_says_nothing(tcp_pair: SocketPair) -> None:
    """It is waited for no longer than is allowed."""
    with pytest.raises(DeadlineExceeded, match=r"no go-ahead from the server within 0\.05 sec"):
        ask(tcp_pair[0], 0.05)


def test_server_that_leaves(tcp_pair: SocketPair) -> None:
    """Its end is an error of its own."""
    tcp_pair[1].shutdown(socket.SHUT_WR)
    with pytest.raises(Truncated):
        ask(tcp_pair[0])


def test_server_that_tcp_has_given_up(tcp_pair: SocketPair) -> None:
    """TCP's time-out is not ours."""
    give_up(tcp_pair[0])
    with pytest.raises(TimeoutError, match="timed out"):
        ask(tcp_pair[0])
