"""Tests of health checks, of backends that answer well, badly, slowly, and not at all."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from tests.doubles import OFFLOADS, RELAY, Endpoint, check_descriptors, descriptors
from tests.ports import free_port
from tlsify.config import KtlsPolicy
from tlsify.connection.establish import accept
from tlsify.connection.stream import TLSSocket
from tlsify.metrics.counters import counters
from tlsify.serving.backend.address import Backend
from tlsify.serving.backend.choice import Backends
from tlsify.serving.backend.health import Checks, HealthChecks
from tlsify.serving.backend.routes import Rule, Traits
from tlsify.serving.backend.security import Security

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.doubles import Lab

OK = b"HTTP/1.1 200 OK\r\n\r\n"


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    before = descriptors()
    yield
    check_descriptors(before)


class Site:
    """A backend that answers each request by what it is told; empty for no answer at all."""

    def __init__(self) -> None:
        """Answer well."""
        self.answer = OK
        self.requests: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        self.requests.append(await reader.read(2**10))
        if self.answer:
            writer.write(self.answer)
        else:
            with suppress(ConnectionError):
                await reader.read()
        writer.close()


@asynccontextmanager
async def checking(checks: Checks) -> AsyncIterator[tuple[Site, Backends, Backend]]:
    """Check a backend."""
    site = Site()
    server = await asyncio.start_server(site.serve, "127.0.0.1", 0)
    backend = Backend(*server.sockets[0].getsockname())
    backends = Backends([Rule(None, None, (backend,))], 5)
    security = Security({}, KtlsPolicy())

    async def connect(where: Backend, seconds: float) -> object:
        return (await security.connect(where, seconds, is_inline=False))[0]

    health = HealthChecks(backends, connect, checks)  # type: ignore[arg-type]
    health.begin()
    yield site, backends, backend
    await health.end()
    server.close()
    await server.wait_closed()


async def become(backends: Backends, *, up: bool) -> None:
    """Wait until the only backend is up, or down."""
    while list(backends.state().values()) != [up]:  # noqa: ASYNC110 - it is no event of ours
        await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 500 Internal Server Error\r\n\r\n",
        b"HTTP/1.0 404 Not Found\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"x" * 10_000,
        b"HTTP/1.1 200 OK",
        b"",
    ],
)
def test_answers(answer: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """It is down after as many bad answers as it may give, and up again after good ones."""

    async def run() -> None:
        checks = Checks("/healthz", interval=0.001, seconds=60 if answer else 0.05)
        async with checking(checks) as (site, backends, backend):
            site.answer = answer
            await become(backends, up=False)
            assert len(site.requests) >= checks.fall
            assert site.requests[0].startswith(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n")
            # It takes connections all the same, if there is no other; that has it up no sooner.
            chosen, sock = await backends.reach(Traits(), lambda to, seconds: to.connect(seconds))
            sock.close()
            backends.leave(chosen)
            assert backends.state() == {str(backend): False}
            site.answer = b"HTTP/1.1 302\n" if answer else b"HTTP/1.1 302 Found\r\n\r\n"
            await become(backends, up=True)

    before = counters()
    asyncio.run(run())
    moved = {name: number - before[name] for name, number in counters().items()}
    assert moved["backend_down"] == 1
    assert moved["health_check_failed"] >= 3
    assert moved["health_check_ok"] >= 2
    assert [message.partition(": ")[0].split(" ", 2)[2] for message in caplog.messages] == [
        "takes no connections",
        "takes connections again",
    ]


def test_bug(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged as one, and the next check is another."""
    backends = Backends([Rule(None, None, (Backend("a", 1),))], 5)
    asked: list[float] = []

    async def connect(_: Backend, seconds: float) -> object:
        asked.append(seconds)
        raise ValueError("a bug")

    async def run() -> None:
        health = HealthChecks(backends, connect, Checks(None, interval=0.001))  # type: ignore[arg-type]
        health.begin()
        await become(backends, up=False)
        await health.end()

    asyncio.run(run())
    assert len(asked) >= 3
    assert "bug in a health check" in caplog.text
    assert "takes no connections: ValueError('a bug')" in caplog.text


def test_backend_that_a_client_found_down() -> None:
    """It needs as many good checks as any other, however many there have been before."""

    async def run() -> None:
        checks = Checks("/x", interval=0.001, rise=5)
        async with checking(checks) as (site, backends, backend):
            while len(site.requests) < 2 * checks.rise:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.001)
            backends.fall(backend, "refused")
            seen = len(site.requests)
            await become(backends, up=True)
            assert len(site.requests) >= seen + checks.rise - 1

    asyncio.run(run())


def test_connection() -> None:
    """Without a path a connection is enough; a single failure has nothing down."""
    backend = Backend("127.0.0.1", free_port())
    backends = Backends([Rule(None, None, (backend,))], 5)
    failures = [ConnectionRefusedError(111, "x"), ConnectionRefusedError(111, "x")]
    asked = asyncio.Event()

    async def connect(where: Backend, seconds: float) -> object:
        assert where == backend
        if failures:
            raise failures.pop()
        asked.set()
        return (await Security({}, KtlsPolicy()).connect(where, seconds))[0]

    async def run() -> None:
        health = HealthChecks(backends, connect, Checks(None, interval=0.001))  # type: ignore[arg-type]
        health.begin()
        await asked.wait()
        await become(backends, up=False)
        with socket.create_server(("127.0.0.1", backend.port)):
            await become(backends, up=True)
            await health.end()

    asyncio.run(run())


@pytest.mark.parametrize("policy", OFFLOADS)
def test_tls(lab: Lab, policy: KtlsPolicy) -> None:
    """A backend that speaks TLS is asked by TLS, on either carrier."""
    client, server = lab.configs()
    listener = socket.create_server(("127.0.0.1", 0))
    host, port = listener.getsockname()
    backend = Backend(host, port, is_tls=True)
    backends, security = (
        Backends([Rule(None, None, (backend,))], 5),
        Security({backend: client}, policy),
    )

    is_down = threading.Event()

    def serve() -> None:
        for status in (500, 200):
            with TLSSocket(accept(listener.accept()[0], server, RELAY)) as stream:
                assert stream.recv(2**10).startswith(b"GET /x HTTP/1.1\r\n")
                stream.sendall(b"HTTP/1.1 %d x\r\n\r\n" % status)
            assert is_down.wait(60)

    async def connect(where: Backend, seconds: float) -> object:
        return (await security.connect(where, seconds, is_inline=False))[0]

    async def run() -> None:
        checks = Checks("/x", interval=0.001, rise=1, fall=1, seconds=60)
        health = HealthChecks(backends, connect, checks)  # type: ignore[arg-type]
        health.begin()
        await become(backends, up=False)
        is_down.set()
        await become(backends, up=True)
        await health.end()

    with listener:
        serving = Endpoint(serve)
        asyncio.run(run())
        serving.result()
