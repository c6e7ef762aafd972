"""Tests of upgrade."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings

from tests.conversations import CONVERSATIONS, SERVER, replies
from tests.doubles import Endpoint, give_up, queued, recv_exactly, reset
from tests.starttls.test_dialogues import sayings
from tlsify.errors import (
    ConfigError,
    DeadlineExceeded,
    HandshakeError,
    TlsifyError,
    Truncated,
)
from tlsify.starttls.dialogues import LONGEST
from tlsify.starttls.upgrade import PROTOCOLS, upgrade

if TYPE_CHECKING:
    from collections.abc import Callable

SocketPair = tuple[socket.socket, socket.socket]
INJECTED = b"EVIL\r\n"
# Protocols in which the server has the last word: it can say something behind it.
ANSWERED = [name for name in PROTOCOLS if CONVERSATIONS[name][-1][1]]


def ask(sock: socket.socket, protocol: str, timeout: float = 10) -> None:
    """Ask the scripted server."""
    upgrade(sock, protocol, SERVER, timeout)


def serve(sock: socket.socket, protocol: str, say: Callable[[bytes], Any]) -> None:
    """Hold the server's part of a conversation."""
    for question, answer in CONVERSATIONS[protocol]:
        assert recv_exactly(sock, len(question)) == question
        if answer:
            say(answer)


@pytest.mark.parametrize("piece", [1, 2**16], ids=["byte by byte", "at once"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_connection_is_left_where_tls_begins(
    tcp_pair: SocketPair, protocol: str, piece: int
) -> None:
    """However the server's words arrive, afterwards both sides are at the same point."""
    ours, theirs = tcp_pair
    theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def say(answer: bytes) -> None:
        for start in range(0, len(answer), piece):
            theirs.sendall(answer[start : start + piece])

    def server() -> None:
        serve(theirs, protocol, say)
        assert recv_exactly(theirs, 5) == b"hello"
        theirs.sendall(b"and hello")

    other = Endpoint(server)
    ask(ours, protocol)
    ours.sendall(b"hello")
    assert ours.recv(100) == b"and hello"
    other.result()


@pytest.mark.parametrize("protocol", ANSWERED)
def test_plaintext_behind_the_go_ahead_is_refused(tcp_pair: SocketPair, protocol: str) -> None:
    """What follows the go-ahead is no TLS: it is refused, and has not been read."""
    ours, theirs = tcp_pair
    last = CONVERSATIONS[protocol][-1][1]
    other = Endpoint(
        lambda: serve(
            theirs,
            protocol,
            lambda answer: theirs.sendall(answer + INJECTED if answer is last else answer),
        )
    )
    with pytest.raises(HandshakeError, match=r"plaintext behind the go-ahead: 'EVIL\\r\\n'"):
        ask(ours, protocol)
    other.result()
    assert queued(ours) == len(INJECTED)


def test_plaintext_behind_a_greeting_is_refused(tcp_pair: SocketPair) -> None:
    """In MySQL the greeting is the go-ahead."""
    ours, theirs = tcp_pair
    theirs.sendall(replies("mysql") + INJECTED)
    with pytest.raises(HandshakeError, match="plaintext behind the go-ahead"):
        ask(ours, "mysql")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_server_that_leaves_is_noticed(tcp_pair: SocketPair, protocol: str) -> None:
    """The stream's end within or between the server's words is an error of its own."""
    ours, theirs = tcp_pair
    said = replies(protocol)[:-1] if protocol in ANSWERED else b"\x20"
    theirs.sendall(said)
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(Truncated, match="the server closed the connection"):
        ask(ours, protocol)


def test_its_last_words_are_shown(tcp_pair: SocketPair) -> None:
    """A TLS server answers a plaintext question with an alert, which has no line end."""
    ours, theirs = tcp_pair
    theirs.sendall(b"\x15\x03\x01\0\x02\x02\x46")
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(Truncated, match=r"after '\\x15\\x03") as caught:
        ask(ours, "irc")
    assert "TLS from the start" in caught.value.hint


def test_a_server_that_leaves_after_its_go_ahead(tcp_pair: SocketPair) -> None:
    """That is for the handshake to find out."""
    ours, theirs = tcp_pair
    theirs.sendall(replies("smtp"))
    theirs.shutdown(socket.SHUT_WR)
    ask(ours, "smtp")
    assert ours.recv(1) == b""


def test_a_broken_connection_stays_an_os_error(tcp_pair: SocketPair) -> None:
    """A reset is told as such."""
    ours, theirs = tcp_pair
    reset(theirs)
    with pytest.raises(ConnectionError):
        ask(ours, "imap")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_silent_server(tcp_pair: SocketPair, protocol: str) -> None:
    """A server that says nothing is not waited for any longer than allowed."""
    ours, _ = tcp_pair
    with pytest.raises(
        DeadlineExceeded, match=r"no go-ahead from the server within 0\.05 sec"
    ) as caught:
        ask(ours, protocol, 0.05)
    assert "TLS from the start" in caught.value.hint


def test_a_server_that_tcp_has_given_up(tcp_pair: SocketPair) -> None:
    """TCP's time-out is not ours."""
    ours, _theirs = tcp_pair
    give_up(ours)
    with pytest.raises(TimeoutError) as raised:
        ask(ours, "imap")
    assert raised.value.errno == errno.ETIMEDOUT


@pytest.mark.parametrize("said", [b"*", b"* OK\r\n"], ids=["bytes", "lines"])
def test_a_slow_server(tcp_pair: SocketPair, said: bytes) -> None:
    """The deadline is for everything: it does not begin anew with each thing that is said."""
    ours, theirs = tcp_pair
    theirs.sendall(b"* OK\r\n")
    over = threading.Event()

    def drip() -> None:
        while not over.wait(0.005):
            theirs.sendall(said)

    other = Endpoint(drip)
    start = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        ask(ours, "imap", 0.2)
    assert 0.2 <= time.monotonic() - start < 30
    over.set()
    other.result()


def test_a_server_that_does_not_listen(tcp_pair: SocketPair) -> None:
    """A question that cannot be sent counts as well."""
    ours, theirs = tcp_pair
    theirs.sendall(b"* OK\r\n")
    ours.settimeout(0.05)
    with pytest.raises(TimeoutError):
        ours.sendall(bytes(2**26))
    with pytest.raises(DeadlineExceeded):
        ask(ours, "imap", 0.05)


class CountingSocket(socket.socket):
    """Counts how often it is read from, and how much."""

    calls = 0
    taken = 0

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """Count."""
        received = super().recv(size, flags)
        self.calls += 1
        self.taken += 0 if flags & socket.MSG_PEEK else len(received)
        return received


@pytest.mark.parametrize(
    ("protocol", "said", "most"),
    [
        ("smtp", b"2" * 2**17, LONGEST),
        ("irc", b":example.org NOTICE * :wait\r\n" * 2**12, 2**16 + LONGEST),
        ("xmpp", b"<s>" + b"x" * 2**17, LONGEST + 3),
        ("xmpp", b"<s>" + b"<a/>" * 2**15, 2**16 + LONGEST),
        ("mysql", (LONGEST + 1).to_bytes(3, "little") + b"\0", 4),
        ("ldap", b"\x30\xff" + b"\xff" * 127, 129),
        ("ldap", b"\x30\x84\0\0\xff\xff", 6),
    ],
)
def test_a_server_that_says_too_much(
    tcp_pair: SocketPair, protocol: str, said: bytes, most: int
) -> None:
    """What is read is bounded, by line and in all, and what is only announced is not waited for."""
    ours, theirs = tcp_pair

    def server() -> None:
        with suppress(ConnectionError):  # nobody reads on
            theirs.sendall(said)

    other = Endpoint(server)
    with CountingSocket(fileno=ours.detach()) as counting:
        with pytest.raises(HandshakeError, match="the server says too much"):
            ask(counting, protocol)
        assert counting.taken <= most
    other.result()


def test_lines_are_read_as_such(tcp_pair: SocketPair) -> None:
    """A line costs two system calls, however long it is."""
    ours, theirs = tcp_pair
    theirs.sendall(replies("smtp"))
    with CountingSocket(fileno=ours.detach()) as counting:
        ask(counting, "smtp")
        assert counting.calls == 2 * replies("smtp").count(b"\n")


@pytest.mark.parametrize("timeout", [None, 0.0, 7.0])
@pytest.mark.parametrize("answer", [b"S", b"N"])
def test_the_timeout_is_put_back(
    tcp_pair: SocketPair, timeout: float | None, answer: bytes
) -> None:
    """The socket waits as it did before, whatever came of it."""
    ours, theirs = tcp_pair
    theirs.sendall(answer)
    ours.settimeout(timeout)
    if answer == b"S":
        ask(ours, "postgres")
    else:
        with pytest.raises(HandshakeError, match="does not offer TLS"):
            ask(ours, "postgres")
    assert ours.gettimeout() == timeout


def test_an_unknown_protocol(tcp_pair: SocketPair) -> None:
    """What is not in the list is not begun."""
    ours, theirs = tcp_pair
    with pytest.raises(ConfigError, match="no protocol 'gopher'") as caught:
        ask(ours, "gopher")
    assert "ftp, imap, irc, ldap, lmtp, mariadb, mysql, nntp" in caught.value.hint
    ours.close()
    assert theirs.recv(1) == b""


def test_a_closed_socket() -> None:
    """What is no connection fails as one."""
    sock = socket.socket()
    sock.close()
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        ask(sock, "smtp")


def greeted(ours: socket.socket, theirs: socket.socket) -> bytes:
    """Return what a mail server is greeted with."""
    theirs.sendall(b"220 mail\r\n421 thank you\r\n")
    with pytest.raises(HandshakeError, match="'421 thank you'"):
        ask(ours, "smtp")
    return theirs.recv(1000)


def test_mail_servers_hear_an_address(tcp_pair: SocketPair) -> None:
    """Our name is our address, as the server sees it if nobody translates it."""
    assert greeted(*tcp_pair) == b"EHLO [127.0.0.1]\r\n"


def test_an_ipv6_address() -> None:
    """It is written differently."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        ours = socket.create_connection(listener.getsockname()[:2])
        theirs, _ = listener.accept()
    with ours, theirs:
        assert greeted(ours, theirs) == b"EHLO [IPv6:::1]\r\n"


def test_no_address() -> None:
    """Somebody who relays for us may have given us a socket of another kind."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert greeted(ours, theirs) == b"EHLO localhost\r\n"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@settings(max_examples=40)
@given(said=sayings)
def test_anything_may_come(protocol: str, said: bytes) -> None:
    """Whatever a server sends, there is a go-ahead or an error of ours; nothing is over-read."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(said)
        theirs.shutdown(socket.SHUT_WR)
        try:
            ask(ours, protocol)
        except (TlsifyError, OSError):
            return
        assert ours.recv(1) == b""
