"""Tests of descriptors."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from tests.doubles import descriptors
from tlsify.cli.program.descriptors import check_unix_socket, take_socket
from tlsify.errors import ConfigError
from tlsify.ktls.probe import loopback_pair


def test_taking_over() -> None:
    """The number is free afterwards, and the connection goes on elsewhere, closed on exec."""
    with loopback_pair() as (ours, theirs):
        number = os.dup(ours.fileno())
        with take_socket(number) as sock:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(number)
            assert sock.fileno() > 8
            assert not os.get_inheritable(sock.fileno())
            sock.sendall(b"x")
            assert theirs.recv(10) == b"x"


_INETD = """
import os
from tlsify.cli.program.descriptors import take_socket
sock = take_socket(0)
sock.sendall(b"sealed")
for stream in range(3):
    os.write(stream, b"plain text")
"""


def test_streams_that_are_the_connection() -> None:
    """As inetd makes them: nothing that is printed gets between the records."""
    with loopback_pair() as (ours, theirs):
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), theirs.fileno())
        subprocess.run([sys.executable, "-c", _INETD], check=True, **streams)  # type: ignore[call-overload]
        theirs.close()
        assert ours.recv(100) == b"sealed"
        assert ours.recv(100) == b""


def _file() -> int:
    return os.open(os.devnull, os.O_RDWR)


def _pipe() -> int:
    reader, writer = os.pipe()
    os.close(writer)
    return reader


def _unconnected() -> int:
    return socket.socket().detach()


def _listener() -> int:
    return socket.create_server(("127.0.0.1", 0)).detach()


def _datagrams() -> int:
    return socket.socket(type=socket.SOCK_DGRAM).detach()


_UNUSABLE = {
    "not a socket": (_file, _pipe),
    "not connected (ENOTCONN)": (_unconnected, _listener),
    "not a stream socket": (_datagrams,),
}


@pytest.mark.parametrize(
    ("make", "why"), [(make, why) for why, makers in _UNUSABLE.items() for make in makers]
)
def test_unusable(make: object, why: str) -> None:
    """It is left as it was, and nothing of ours stays open."""
    number = make()  # type: ignore[operator]
    before = descriptors()
    with pytest.raises(ConfigError) as raised:
        take_socket(number)
    assert str(raised.value) == f"cannot use descriptor {number}: {why}"
    assert descriptors() <= before
    os.close(number)


def test_closed() -> None:
    """A number that nothing stands behind is a mistake like another."""
    number = _file()
    os.close(number)
    with pytest.raises(ConfigError, match="not open"):
        take_socket(number)
    with pytest.raises(ConfigError, match="not an AF_UNIX socket"):
        check_unix_socket(number)


def test_what_descriptors_go_through() -> None:
    """An AF_UNIX socket; TCP carries none."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        check_unix_socket(ours.fileno())
    with loopback_pair() as (ours, _), pytest.raises(ConfigError, match="AF_UNIX"):
        check_unix_socket(ours.fileno())
