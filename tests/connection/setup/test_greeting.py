"""Tests of greeting: what is left to the kernel, and what the handshake finds of it."""

from __future__ import annotations

import select
import socket
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.doubles import reset, until
from tlsify.codepoints import ContentType
from tlsify.connection.ending.patience import unread
from tlsify.connection.setup.greeting import Greeting
from tlsify.tls.engine import Engine
from tlsify.tls.record import FIRST_FLIGHT, HEADER_LENGTH, encode_record

if TYPE_CHECKING:
    from tests.doubles import Lab


def hello(lab: Lab) -> bytes:
    """Return a client's first flight."""
    return Engine(lab.configs()[0]).output()


def meet(lab: Lab) -> tuple[socket.socket, socket.socket, Greeting]:
    """Return a client, and the server's side, which does not block."""
    client, server = lab.tcp()
    server.settimeout(0)
    return client, server, Greeting(server)


def is_readable(sock: socket.socket) -> bool:
    """Return whether poll(2) says so."""
    return bool(select.select([sock], [], [], 0)[0])


def _has(sock: socket.socket, number: int) -> bool:
    return unread(sock) == number


def feed(client: socket.socket, server: socket.socket, flight: bytes, greeting: Greeting) -> int:
    """Send byte by byte; return how often the server's process is woken until it may begin."""
    wakings = 0
    for number, byte in enumerate(flight, 1):
        client.sendall(bytes([byte]))
        until(partial(_has, server, number))
        if is_readable(server):
            wakings += 1
            if greeting.has_come():
                return wakings
    pytest.fail("it may not begin")


def test_byte_by_byte(lab: Lab) -> None:
    """Two wakings on the way, and one at the end; nothing was received, and all can be."""
    client, server, greeting = meet(lab)
    assert not greeting.has_come()
    flight = hello(lab)
    assert feed(client, server, flight, greeting) <= 4
    assert server.recv(2**16) == flight
    client.sendall(b"x")
    assert select.select([server], [], [], 60)[0], "a single byte is worth a waking again"


def test_records_of_a_byte(lab: Lab) -> None:
    """Each has its header: there are more wakings, and far fewer than records."""
    client, server, greeting = meet(lab)
    message = hello(lab)[HEADER_LENGTH:]
    flight = b"".join(encode_record(ContentType.handshake, bytes([byte])) for byte in message)
    assert feed(client, server, flight, greeting) < len(message) // 10


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"GET / HTTP/1.1\r\n", id="another protocol"),
        pytest.param(b"\x16\x02", id="another version"),
        pytest.param(b"\x16\x03\x01\0\0", id="an empty record"),
        pytest.param(b"\x16\x03\x01\xff\xff", id="a record too long"),
        pytest.param(b"\x16\x03\x01\0\1\2", id="another message"),
        pytest.param(b"\x16\x03\x01\x40\0\1\1\0\0" + bytes(FIRST_FLIGHT), id="a long one"),
    ],
)
def test_nothing_to_wait_for(lab: Lab, said: bytes) -> None:
    """The handshake may begin, and has its own answer."""
    client, server, greeting = meet(lab)
    client.sendall(said)
    until(lambda: unread(server) == len(said))
    assert greeting.has_come()


@pytest.mark.parametrize("said", [b"", b"\x16", b"\x16\x03\x01\2\0\1"])
def test_end(lab: Lab, said: bytes) -> None:
    """The handshake finds it, behind what there is."""
    client, server, greeting = meet(lab)
    client.sendall(said)
    until(lambda: unread(server) == len(said))
    assert not greeting.has_come()
    client.shutdown(socket.SHUT_WR)
    assert select.select([server], [], [], 60)[0]
    while not greeting.has_come():
        pass
    assert server.recv(100) == said
    assert server.recv(100) == b""


def test_reset(lab: Lab) -> None:
    """It is an error at once."""
    client, server, greeting = meet(lab)
    assert not greeting.has_come()
    reset(client)
    assert select.select([server], [], [], 60)[0]
    with pytest.raises(ConnectionResetError):
        greeting.has_come()


def test_socket_that_heeds_no_low_water_mark() -> None:
    """No loop spins on it: its second waking is the last."""
    client, server = socket.socketpair()
    with client, server:
        server.settimeout(0)
        greeting = Greeting(server)
        client.sendall(b"\x16")
        assert not greeting.has_come()
        assert is_readable(server)
        assert greeting.has_come()


def test_drop(lab: Lab) -> None:
    """A connection that is given up is closed, rather than reset."""
    client, server, greeting = meet(lab)
    client.sendall(b"\x16\x03")
    until(lambda: unread(server) == 2)
    assert not greeting.has_come()
    greeting.drop()
    server.close()
    assert client.recv(1) == b""
