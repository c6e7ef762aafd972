"""Tests of who gets a connection."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlsify.errors import BackendError, ConfigError
from tlsify.serving.backends import Backend, Backends, Rule, parse_several

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

A, B = Backend("127.0.0.1", 1), Backend("127.0.0.1", 2)
ALL = (Rule(None, None, (A, B)),)


@given(st.text())
def test_any_text(text: str) -> None:
    """Anything is a backend or a ConfigError, and a rule or a ConfigError."""
    for parse in (Backend.to_connect, Rule.parse):
        try:
            parse(text)
        except ConfigError:
            continue


def test_several() -> None:
    """Commas stand between them."""
    assert parse_several("127.0.0.1:1,127.0.0.1:2") == (A, B)
    with pytest.raises(ConfigError):
        parse_several("127.0.0.1:1,")


@pytest.mark.parametrize("text", ["", "h2", "=127.0.0.1:1", "sni:=127.0.0.1:1", "h2=", "h2=nobody"])
def test_no_rule(text: str) -> None:
    """A rule has two halves."""
    with pytest.raises(ConfigError):
        Rule.parse(text)


@pytest.mark.parametrize(
    ("rule", "alpn", "name", "fits"),
    [
        ("h2=a:1", b"h2", None, True),
        ("h2=a:1", b"http/1.1", None, False),
        ("h2=a:1", None, None, False),
        ("sni:www.example.org=a:1", None, "www.example.org", True),
        ("sni:WWW.example.org.=a:1", b"h2", "www.Example.org.", True),
        ("sni:www.example.org=a:1", None, "example.org", False),
        ("sni:www.example.org=a:1", None, None, False),
        ("sni:*.example.org=a:1", None, "www.example.org", True),
        ("sni:*.example.org=a:1", None, "a.www.example.org", False),
        ("sni:*.example.org=a:1", None, "example.org", False),
    ],
)
def test_rules(rule: str, alpn: bytes | None, name: str | None, *, fits: bool) -> None:
    """Protocols are compared byte by byte, names as names."""
    assert Rule.parse(rule).fits(alpn, name) is fits


class Attempts:
    """Succeeds where it is told to, and keeps the order."""

    def __init__(self, *, up: set[Backend], fails_by: int = errno.ECONNREFUSED) -> None:
        """Store the backends that exist, and the answers for others."""
        self.up = up
        self.fails_by = fails_by
        self.tried: list[Backend] = []

    async def __call__(self, backend: Backend, seconds: float) -> Backend:
        """Try one."""
        assert seconds > 0
        self.tried.append(backend)
        if backend not in self.up:
            raise OSError(self.fails_by, os.strerror(self.fails_by))
        return backend


def reach(backends: Backends, attempt: Callable[[Backend, float], Awaitable[Backend]]) -> Backend:
    """Pass one connection."""
    return asyncio.run(backends.reach(None, None, attempt))


def test_first_rule_decides() -> None:
    """The order is the user's; the last rule is for everybody."""
    first, second = Rule(b"h2", None, (A,)), Rule(None, "name", (B,))
    backends = Backends([first, second, Rule(None, None, (Backend("c", 3),))], 1)
    attempt = Attempts(up={A, B, Backend("c", 3)})

    async def run() -> list[Backend]:
        return [
            await backends.reach(alpn, name, attempt)
            for alpn, name in ((b"h2", "name"), (None, "name"), (None, None))
        ]

    assert asyncio.run(run()) == [A, B, Backend("c", 3)]


def test_failover(caplog: pytest.LogCaptureFixture) -> None:
    """The next takes over, is asked first from then on, and the first is back once it answers."""
    backends, attempt = Backends(ALL, 5), Attempts(up={B})
    assert [reach(backends, attempt) for _ in range(3)] == [B] * 3
    assert attempt.tried == [A, B, B, B]
    attempt.up = {A}
    assert reach(backends, attempt) == A
    assert attempt.tried[4:] == [B, A]
    attempt.up = {A, B}
    assert reach(backends, attempt) == A
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 3
    assert caplog.messages == [
        "backend 127.0.0.1:1 takes no connections: ECONNREFUSED: Connection refused",
        "backend 127.0.0.1:2 takes no connections: ECONNREFUSED: Connection refused",
        "backend 127.0.0.1:1 takes connections again",
    ]


class Late(Attempts):
    """Comes up after some rounds."""

    async def __call__(self, backend: Backend, seconds: float) -> Backend:
        """Try one."""
        if len(self.tried) == 4:
            self.up = {A}
        return await super().__call__(backend, seconds)


def test_restart_is_waited_for() -> None:
    """A backend that comes back in time costs nobody a connection, if that is wanted."""
    assert reach(Backends(ALL, 0.01, retry=60), Late(up=set())) == A


@pytest.mark.parametrize(
    "number", [errno.ECONNREFUSED, errno.ENOENT, errno.EACCES, errno.EHOSTUNREACH]
)
def test_certain(number: int) -> None:
    """Where each of them has refused nobody is asked again, and each is named."""
    attempt = Attempts(up=set(), fails_by=number)
    name = errno.errorcode[number]
    with pytest.raises(BackendError) as caught:
        reach(Backends(ALL, 60), attempt)
    assert [line.partition(": ")[0] for line in str(caught.value).split("; ")] == [
        "127.0.0.1:1 took no connection",
        "127.0.0.1:2 took no connection",
    ]
    assert str(caught.value).count(name) == 2
    assert attempt.tried == [A, B]


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EMFILE, errno.ETIMEDOUT])
def test_what_may_pass(number: int) -> None:
    """What may be better in a moment is tried again, for as long as it may take."""
    assert reach(Backends(ALL, 60), Late(up=set(), fails_by=number)) == A
    attempt = Attempts(up=set(), fails_by=number)
    with pytest.raises(BackendError, match=errno.errorcode[number]):
        reach(Backends(ALL, 0.1), attempt)
    assert attempt.tried[:2] == [A, B]


def test_one_refuses_and_one_is_slow() -> None:
    """As long as one of them may do it, it is waited for."""

    class Mixed(Late):
        async def __call__(self, backend: Backend, seconds: float) -> Backend:
            self.fails_by = errno.ECONNREFUSED if backend == A else errno.EAGAIN
            return await super().__call__(backend, seconds)

    assert reach(Backends(ALL, 60), Mixed(up=set())) == A


def test_nobody_else_may_be_asked() -> None:
    """Where a backend may have the connection after all, no other gets it."""
    tried = []

    async def attempt(backend: Backend, _: float) -> Backend:
        tried.append(backend)
        raise BackendError("who knows")

    backends = Backends(ALL, 5)
    with pytest.raises(BackendError, match="who knows"):
        reach(backends, attempt)
    assert tried == [A]
    assert reach(backends, Attempts(up={A, B})) == B  # the slow one comes last


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
        port = listener.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        connect(Backend(host, port))


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
