"""Tests of backends' addresses, and of streams to them."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ports import free_port
from tlsify.errors import ConfigError
from tlsify.serving.backend.address import Backend, check_protocol, parse_several

if TYPE_CHECKING:
    from pathlib import Path


@given(st.text())
def test_any_text(text: str) -> None:
    """Anything is a backend, spelled as it was, or a ConfigError."""
    for each in (text, f"tls:{text}", f"tls+{text}"):
        try:
            found = Backend.to_connect(each)
        except ConfigError:
            continue
        assert Backend.to_connect(str(found)) == found


def test_several() -> None:
    """Commas stand between them."""
    assert parse_several("127.0.0.1:1,tls:127.0.0.1:2") == (
        Backend("127.0.0.1", 1),
        Backend("127.0.0.1", 2, is_tls=True),
    )
    with pytest.raises(ConfigError):
        parse_several("127.0.0.1:1,")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("tls:a:443", Backend("a", 443, is_tls=True)),
        ("tls:443", Backend("tls", 443)),  # as a host may be called
        ("tls:[::1]:443", Backend("::1", 443, is_tls=True)),
        ("tls:unix:/run/a", Backend(path="/run/a", is_tls=True)),
        ("tls+smtp:a:25", Backend("a", 25, is_tls=True, starttls="smtp")),
    ],
)
def test_tls(text: str, found: Backend) -> None:
    """It is part of the address."""
    assert Backend.to_connect(text) == found
    assert str(found) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tls+mysql:a:3306", "what its server says before TLS is needed inside it"),
        ("tls+ftp:a:21", "connections of its own"),
        ("tls+gopher:a:70", "no protocol for STARTTLS"),
        ("tls+:a:70", "no protocol for STARTTLS"),
    ],
)
def test_no_starttls(text: str, message: str) -> None:
    """What cannot be forwarded is refused, and the hint says what can be done."""
    with pytest.raises(ConfigError, match=message):
        Backend.to_connect(text)


def test_starttls_for_all() -> None:
    """A backend's own protocol prevails over that of all."""
    given, other = Backend("a", 1), Backend("a", 1, is_tls=True, starttls="imap")
    smtp = check_protocol("smtp")
    assert given.secured(smtp, always=False) == given
    assert given.secured(smtp, always=True) == Backend("a", 1, is_tls=True, starttls="smtp")
    assert given._replace(is_tls=True).secured(smtp, always=False).starttls == "smtp"
    assert other.secured(smtp, always=True) == other


# -- connecting


def connect(backend: Backend, seconds: float = 5) -> socket.socket:
    """Connect one stream."""
    return asyncio.run(backend.connect(seconds))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_connect_to_an_address(host: str) -> None:
    """An address is connected to, and so is a name; nothing waits for more to send."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with connect(Backend(host, listener.getsockname()[1])) as sock:
            assert sock.getpeername() == listener.getsockname()
            assert sock.gettimeout() == 0
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        listener.accept()[0].close()
    with pytest.raises(ConnectionRefusedError):
        connect(Backend(host, free_port()))


def test_name_that_does_not_exist() -> None:
    """It is an error as any other of a backend."""
    with pytest.raises(OSError, match=r".+"):
        connect(Backend("name.invalid", 80))


def test_backend_that_does_not_answer() -> None:
    """Who drops packets is too slow."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        backend = Backend(*full.getsockname())
        with connect(backend), pytest.raises(TimeoutError):
            connect(backend, 0.05)


@pytest.mark.parametrize("is_abstract", [False, True])
def test_connect_to_a_path(tmp_path: Path, *, is_abstract: bool) -> None:
    """A path is connected to, in the file system or not; a full queue is no connection."""
    name = f"@{tmp_path}" if is_abstract else str(tmp_path / "socket")
    backend = Backend.to_connect(f"unix:{name}")
    with pytest.raises((FileNotFoundError, ConnectionRefusedError)):
        connect(backend)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name.replace("@", "\0", 1) if is_abstract else name)
        listener.listen(0)
        with connect(backend), pytest.raises(BlockingIOError):
            connect(backend)


def test_path_that_is_too_long() -> None:
    """What the kernel has no room for is an error as any other, and leaves nothing open."""
    with pytest.raises(OSError, match="too long"):
        connect(Backend(path="x" * 200))
