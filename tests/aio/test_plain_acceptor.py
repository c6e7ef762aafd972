"""Tests of connections that are accepted without TLS."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import TYPE_CHECKING

import pytest

from tests.doubles import check_descriptors, descriptors
from tlsify.aio.limits import Limits
from tlsify.aio.plain_acceptor import PlainAcceptor
from tlsify.metrics.counters import Gauge, gauge

if TYPE_CHECKING:
    from tlsify.connection.plain import Plain


def connect(listener: socket.socket) -> socket.socket:
    """Connect a client, which waits for nothing."""
    sock = socket.create_connection(listener.getsockname())
    sock.settimeout(0)
    return sock


def test_limit_and_drain() -> None:
    """As many as may be are served at once; the last is cut off when time is over."""
    before, begun = descriptors(), gauge(Gauge.CONNECTIONS)
    served: list[Plain] = []

    async def serve(plain: Plain) -> None:
        served.append(plain)
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(plain.sock, 99):
            await loop.sock_sendall(plain.sock, data)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        listener = socket.create_server(("127.0.0.1", 0))
        with connect(listener) as first, connect(listener) as second:
            async with PlainAcceptor([listener], serve, Limits(connections=1)) as acceptor:
                for client in (first, second):
                    await loop.sock_sendall(client, b"hello")
                assert await loop.sock_recv(first, 9) == b"hello"
                assert len(served) == acceptor.connections == 1
                assert gauge(Gauge.CONNECTIONS) == begun + 1
                assert served[0].sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                first.shutdown(socket.SHUT_WR)
                assert await loop.sock_recv(first, 9) == b""
                assert await loop.sock_recv(second, 9) == b"hello"
                await acceptor.drain(0)
            with pytest.raises(ConnectionResetError):
                await loop.sock_recv(second, 9)

    asyncio.run(run())
    assert gauge(Gauge.CONNECTIONS) == begun
    check_descriptors(before)


def test_error(caplog: pytest.LogCaptureFixture) -> None:
    """A connection that breaks is no bug: its client sees a cut."""
    caplog.set_level("INFO")

    async def serve(_: Plain) -> None:
        raise OSError(errno.EPIPE, os.strerror(errno.EPIPE))

    async def run() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        with connect(listener) as client:
            async with PlainAcceptor([listener], serve):
                with pytest.raises(ConnectionResetError):
                    await asyncio.get_running_loop().sock_recv(client, 9)

    asyncio.run(run())
    assert caplog.messages == ["connection ended: [Errno 32] Broken pipe"]
