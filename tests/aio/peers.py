"""Protocols, and peers of them."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.doubles import OFFLOADS, RawPeer
from tlsify.aio import acceptor
from tlsify.aio.transport import attach, sendfile
from tlsify.config import KtlsMode, KtlsPolicy

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.doubles import Lab
    from tlsify.config import ServerConfig
    from tlsify.connection.handoff import Handoff


# As RELAY, but without a thread.
INLINE = KtlsPolicy(KtlsMode.OFF)
CARRIERS = (*OFFLOADS, pytest.param(INLINE, id="inline"))


class Echo(asyncio.Protocol):
    """Sends back what comes; "file" is answered with a file, by sendfile."""

    def __init__(self, file: Path | None = None) -> None:
        """Keep the file's path."""
        self._file = file
        self._sending: asyncio.Task[int] | None = None
        self.transport: Any = None
        self.received = bytearray()
        loop = asyncio.get_running_loop()
        self.connected = asyncio.Event()
        self.sent: asyncio.Future[int] = loop.create_future()
        self.ended: asyncio.Future[Exception | None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert self.transport is None
        self.transport = transport
        self.connected.set()

    def data_received(self, data: bytes) -> None:
        """Answer."""
        self.received += data
        if data == b"file":
            self._sending = asyncio.create_task(self._send_file())
        else:
            self.transport.write(data)

    async def _send_file(self) -> int:
        assert self._file is not None
        try:
            with self._file.open("rb") as file:
                sent = await sendfile(self.transport, file)
                assert file.tell() == sent
            self.sent.set_result(sent)
        except (OSError, RuntimeError) as exc:
            self.sent.set_exception(exc)
            sent = 0
        self.transport.close()
        return sent

    def connection_lost(self, exc: Exception | None) -> None:
        """Keep how it ended."""
        self.ended.set_result(exc)


class Server:
    """What serves, and the protocols that it has made."""

    def __init__(self, address: tuple[str, int]) -> None:
        """Keep where."""
        self.address = address
        self.protocols: list[Echo] = []
        self.handed: list[Handoff] = []
        self.came = asyncio.Event()

    async def first(self) -> Echo:
        """Return the first protocol, once it is connected."""
        await self.came.wait()
        await self.protocols[0].connected.wait()
        return self.protocols[0]


@asynccontextmanager
async def serving(
    config: ServerConfig,
    policy: KtlsPolicy,
    make: Callable[[], Echo] = Echo,
) -> AsyncIterator[Server]:
    """Serve on a port of 127.0.0.1 by `attach`."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=100)
    server = Server(listener.getsockname())

    def factory() -> Echo:
        server.protocols.append(make())
        server.came.set()
        return server.protocols[-1]

    async def serve(handed: Handoff) -> None:
        server.handed.append(handed)
        await attach(factory, handed)
        assert handed.sock.fileno() == -1

    accepting = acceptor.Acceptor([listener], serve, config, policy)
    accepting.is_inline = policy is INLINE
    async with accepting:
        yield server
    assert listener.fileno() == -1
    for protocol in server.protocols:
        await protocol.ended


async def raw_peer(lab: Lab, server: Server) -> RawPeer:
    """Connect a peer made by hand."""

    def connect() -> RawPeer:
        sock = socket.create_connection(server.address, timeout=60)
        lab.peers.append(sock)
        return RawPeer(sock, lab.configs()[0])

    return await asyncio.to_thread(connect)


async def converse(server: Server, context: ssl.SSLContext, message: bytes) -> bytes:
    """Send a message and read to the end of the stream or to the same length."""
    return await asyncio.to_thread(_converse, server.address, context, message)


def _converse(address: tuple[str, int], context: ssl.SSLContext, message: bytes) -> bytes:
    with (
        socket.create_connection(address, timeout=60) as sock,
        context.wrap_socket(sock, server_hostname="example.org") as tls,
    ):
        return talk(tls, message)


def talk(tls: ssl.SSLSocket, message: bytes) -> bytes:
    """Converse on an existing connection."""
    tls.sendall(message)
    answer = bytearray()
    while (message == b"file" or len(answer) < len(message)) and (more := tls.recv(2**16)):
        answer += more
    return bytes(answer)
