"""Tests of who gets a connection."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from tlsify.errors import BackendError, IdentityError
from tlsify.serving.backend import choice
from tlsify.serving.backend.address import Backend
from tlsify.serving.backend.choice import Backends
from tlsify.serving.backend.routes import Rule, Traits

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

A, B = Backend("127.0.0.1", 1), Backend("127.0.0.1", 2)
ALL = (Rule(None, None, (A, B)),)


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
    return asyncio.run(backends.reach(Traits(), attempt))[0]


def test_first_rule_decides() -> None:
    """The order is the user's; the last rule is for everybody."""
    first, second = Rule(b"h2", None, (A,)), Rule(None, "name", (B,))
    backends = Backends([first, second, Rule(None, None, (Backend("c", 3),))], 1)
    attempt = Attempts(up={A, B, Backend("c", 3)})

    async def run() -> list[Backend]:
        return [
            (await backends.reach(Traits(alpn, name), attempt))[0]
            for alpn, name in ((b"h2", "name"), (None, "name"), (None, None))
        ]

    assert asyncio.run(run()) == [A, B, Backend("c", 3)]


def test_failover(caplog: pytest.LogCaptureFixture) -> None:
    """The next takes over, and is asked first for some time, or until it fails itself."""
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


@pytest.mark.parametrize("is_checked", [False, True])
def test_return(is_checked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One connection after some seconds finds out; where there are health checks, none does."""
    backends, attempt = Backends(ALL, 5), Attempts(up={B})
    backends.is_checked = is_checked
    reach(backends, attempt)
    attempt.tried.clear()
    now = [time.monotonic() + 11]
    monkeypatch.setattr(choice, "time", SimpleNamespace(monotonic=lambda: now[0]))
    assert [reach(backends, attempt) for _ in range(2)] == [B, B]
    assert attempt.tried == ([B, B] if is_checked else [A, B, B])
    attempt.up = {A, B}
    now[0] += 11
    assert [reach(backends, attempt) for _ in range(2)] == ([B, B] if is_checked else [A, A])


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


def test_wrong_certificate(caplog: pytest.LogCaptureFixture) -> None:
    """A handshake that fails is a refusal as any other: the next is asked, and the log says why."""

    class Wrong(Attempts):
        async def __call__(self, backend: Backend, seconds: float) -> Backend:
            if backend == A:
                self.tried.append(backend)
                raise IdentityError("it is somebody else")
            return await super().__call__(backend, seconds)

    attempt = Wrong(up={B})
    backends = Backends(ALL, 60)
    assert reach(backends, attempt) == B
    assert caplog.messages == ["backend 127.0.0.1:1 takes no connections: it is somebody else"]
    attempt.up = set()
    with pytest.raises(BackendError, match="it is somebody else"):
        reach(backends, attempt)
    assert attempt.tried == [A, B, B, A]  # and not once more: that is certain
