"""Tlsify in the place of netcat, and beside it."""

from __future__ import annotations

import random
import socket
from typing import TYPE_CHECKING

import pytest

from tests.adopters.recipes import recipe
from tests.doubles import until
from tests.interop.programs import PATIENCE, TIMEOUT, require
from tests.ports import free_port

if TYPE_CHECKING:
    from tests.adopters.recipes import Place

pytestmark = [pytest.mark.interop, pytest.mark.timeout(TIMEOUT)]

_NOISE = random.Random(7).randbytes(2**20)


def test_file_sent_and_received(place: Place) -> None:
    """A file arrives whole; both ends know that it has."""
    (place.folder / "file").write_bytes(_NOISE)
    own: dict[str, str | int] = {"0.0.0.0:7000": "127.0.0.1:0"}
    with place.serving(recipe("nc-receive", own)) as port, place.carried(connections=1):
        place.succeed(recipe("nc-send", {"files.example.org:7000": f"localhost:{port}"}))
        received = place.folder / "received"
        until(lambda: received.exists() and received.stat().st_size == len(_NOISE), PATIENCE)
    assert received.read_bytes() == _NOISE


def test_server_behind_nc(place: Place) -> None:
    """``listen -- nc`` reaches a server that has no TLS, and its end comes through."""
    require("nc")
    with socket.create_server(("127.0.0.1", 0)) as plain:
        plain.settimeout(PATIENCE)
        own: dict[str, str | int] = {
            "0.0.0.0:6697": "127.0.0.1:0",
            "127.0.0.1 6667": f"127.0.0.1 {plain.getsockname()[1]}",
        }
        with (
            place.serving(recipe("irc-serve", own)) as port,
            place.carried(connections=1),
            place.start(f"exec tlsify connect localhost {port}") as client,
        ):
            sock, _ = plain.accept()
            with sock:
                sock.settimeout(PATIENCE)
                sock.sendall(b"hello\n")
                client.wait_for(b"hello\n")
                client.close_input()
                assert sock.recv(1) == b""
                sock.sendall(b"goodbye\n")
            assert client.output() == b"hello\ngoodbye\n"


def test_program_behind_nc(place: Place) -> None:
    """``nc -l`` gives a program that has no TLS a port of its own host to talk to."""
    require("nc")
    local = free_port()
    with place.serving("tlsify listen --cert cert.pem --key key.pem 127.0.0.1 0 -- cat") as port:
        own: dict[str, str | int] = {
            "127.0.0.1 8080": f"127.0.0.1 {local}",
            "www.example.org:443": f"localhost:{port}",
        }
        with place.carried(connections=1), place.start(recipe("nc-local", own)) as tunnel:
            with tunnel.dial(local) as sock:
                sock.sendall(_NOISE[:1000])
                sock.settimeout(PATIENCE)
                received = b""
                while len(received) < 1000:
                    received += sock.recv(1000)
            assert tunnel.status() == 0, tunnel.errors()
    assert received == _NOISE[:1000]
