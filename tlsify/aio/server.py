"""Serve on a running loop, with the names and the Server of asyncio's own functions."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import socket
import weakref
from asyncio.trsock import TransportSocket
from typing import TYPE_CHECKING, Any

from tlsify.aio.acceptor import Acceptor
from tlsify.aio.streams import LIMIT, StreamProtocol, Terms, server_terms
from tlsify.aio.transport import begin
from tlsify.config import ClosePolicy, ServerConfig
from tlsify.connection.establish import of_role
from tlsify.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tlsify.aio.limits import Limits
    from tlsify.config import KtlsPolicy
    from tlsify.connection.handoff import Handoff
    from tlsify.sslcontext.context import SSLContext

_BACKLOG = 100


class Server(asyncio.AbstractServer):
    """Result of `create_server`: behaves like ``asyncio.Server`` of Python 3.13.

    ``close`` ends accepting, at once; connections go on, and so do handshakes. ``wait_closed``
    waits for them.
    """

    def __init__(
        self,
        factory: Callable[[], asyncio.BaseProtocol],
        listeners: Sequence[socket.socket],
        terms: Terms,
        limits: Limits | None,
        backlog: int,
    ) -> None:
        """Prepare to serve; the listeners belong to the server from here on."""
        config = of_role(terms.config, ServerConfig)
        self._factory = factory
        self._listeners = tuple(listeners)
        self._terms = terms
        self._backlog = backlog
        self._loop = asyncio.get_running_loop()
        self._acceptor = Acceptor(listeners, self._serve, config, terms.policy, limits)
        self._transports: weakref.WeakSet[asyncio.Transport] = weakref.WeakSet()
        self._serving = False
        self._ended = asyncio.Event()
        self._forever: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        """Show where it listens."""
        return f"<tlsify Server sockets={self.sockets!r}>"

    @property
    def sockets(self) -> tuple[TransportSocket, ...]:
        """The listening sockets; none once it is closed."""
        return () if self._ended.is_set() else tuple(map(TransportSocket, self._listeners))

    @property
    def acceptor(self) -> Acceptor:
        """The acceptor, with its limits and `reload`."""
        return self._acceptor

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop on which it serves."""
        return self._loop

    def is_serving(self) -> bool:
        """Whether it accepts connections."""
        return self._serving

    async def start_serving(self) -> None:
        """Accept connections from here on."""
        if self._ended.is_set():
            raise RuntimeError(f"server {self!r} is closed")
        if not self._serving:
            self._serving = True
            for listener in self._listeners:
                listener.listen(self._backlog)
            self._acceptor.begin()
            await asyncio.sleep(0)

    async def serve_forever(self) -> None:
        """Serve until cancelled; closing the server cancels it."""
        if self._forever is not None:
            raise RuntimeError(f"server {self!r} is already being awaited on serve_forever()")
        await self.start_serving()
        self._forever = self._loop.create_future()
        try:
            await self._forever
        except asyncio.CancelledError:
            self.close()
            await self.wait_closed()
            raise
        finally:
            self._forever = None

    def close(self) -> None:
        """Stop accepting."""
        if self._ended.is_set():
            return
        self._serving = False
        self._acceptor.stop()
        if self._forever is not None:
            self._forever.cancel()
        self._ended.set()

    async def wait_closed(self) -> None:
        """Wait until it is closed, and every connection, too."""
        await self._ended.wait()
        await self._acceptor.drain(None)

    def close_clients(self) -> None:
        """Close every connection, after the data written to it."""
        for transport in list(self._transports):
            transport.close()

    def abort_clients(self) -> None:
        """Close every connection at once."""
        for transport in list(self._transports):
            transport.abort()

    async def _serve(self, handed: Handoff) -> None:
        transport, closed = begin(self._factory, handed, self._terms.context, self._terms.closing)
        self._transports.add(transport)
        try:
            await closed
        except asyncio.CancelledError:
            transport.abort()
            raise


async def create_server(
    factory: Callable[[], asyncio.BaseProtocol],
    host: str | Sequence[str] | None = None,
    port: int | None = None,
    *,
    config: ServerConfig | None = None,
    ssl: SSLContext | None = None,
    policy: KtlsPolicy | None = None,
    limits: Limits | None = None,
    closing: ClosePolicy = ClosePolicy.RELAXED,
    timeout: float | None = None,
    sock: socket.socket | None = None,
    backlog: int = _BACKLOG,
    start_serving: bool = True,
    **options: Any,
) -> Server:
    """Listen, and connect a protocol to each connection after its handshake.

    Args:
        factory: makes a protocol for each.
        host: where to listen; all addresses if None.
        port: likewise; 0 is any that is free.
        config: certificates, and requirements for clients.
        ssl: instead of ``config``.
        policy: when to offload; that of ``ssl``, or AUTO if None.
        limits: how many connections and handshakes there may be.
        closing: meaning of an end of stream without close_notify.
        timeout: seconds for each handshake; the configuration's own if None.
        sock: bound, instead of host and port; belongs to the server from here on.
        backlog: how many connections may wait to be accepted.
        start_serving: False leaves that to `Server.start_serving`.
        options: further arguments of ``loop.create_server``, such as ``reuse_port`` or ``family``.

    Raises:
        ConfigError: the arguments contradict each other.
        OSError: listening on the address failed.
    """
    terms = server_terms(config, ssl, policy)
    if timeout is not None:
        changed: Any = dataclasses.replace(terms.config, timeout=timeout)
        terms = terms._replace(config=changed)
    listeners = await _listen(host, port, sock, options)
    server = Server(factory, listeners, terms._replace(closing=closing), limits, backlog)
    if start_serving:
        await server.start_serving()
    return server


async def start_server(
    client_connected_cb: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any],
    host: str | Sequence[str] | None = None,
    port: int | None = None,
    *,
    limit: int = LIMIT,
    **options: Any,
) -> Server:
    """Listen as `create_server`, with a pair of streams for each connection.

    Args:
        client_connected_cb: called with reader and writer; a coroutine becomes a task.
        host: where to listen; all addresses if None.
        port: likewise.
        limit: bytes that each reader keeps.
        options: as `create_server` has them.

    Raises:
        As `create_server`.
    """
    loop = asyncio.get_running_loop()

    def factory() -> asyncio.BaseProtocol:
        reader = asyncio.StreamReader(limit=limit, loop=loop)
        return StreamProtocol(reader, client_connected_cb, loop=loop)

    return await create_server(factory, host, port, **options)


async def _listen(
    host: str | Sequence[str] | None,
    port: int | None,
    sock: socket.socket | None,
    options: dict[str, Any],
) -> list[socket.socket]:
    """Bind as the loop does, with all that it can, and take the sockets."""
    if sock is not None:
        if host is not None or port is not None:
            raise ConfigError("both sock and an address were given", hint="give one of them")
        return [sock]
    create: Any = asyncio.get_running_loop().create_server
    plain = await create(asyncio.Protocol, host, port, start_serving=False, **options)
    taken: list[socket.socket] = []
    try:
        taken.extend(socket.socket(fileno=os.dup(bound.fileno())) for bound in plain.sockets)
    except BaseException:
        for listener in taken:
            listener.close()
        raise
    finally:
        plain.close()
    return taken
