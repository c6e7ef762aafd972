"""Carry bytes between two connections, on the loop, until both have ended."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from socket import SHUT_WR
from typing import TYPE_CHECKING

from tlsify.connection.ending.patience import Patience, unacknowledged_by_tcp
from tlsify.connection.plain import Plain
from tlsify.connection.relay.inline import InlineRelay
from tlsify.connection.relay.loads import READ_SIZE, ROOM_SIZE
from tlsify.connection.stream import TLSSocket
from tlsify.connection.traffic import Traffic
from tlsify.errors import TlsifyError, Truncated
from tlsify.tls.room import RecordBuffer

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

    from tlsify.connection.ending.closing import Closing
    from tlsify.connection.handoff import Handoff

# Seconds between two looks whether a peer's message, for which data has to wait, has come.
_HELD = 0.02
# How many bytes one direction may carry before others get a turn, and as how many a few count.
_TURN, _FEW = 2**20, 2**16


def buffer() -> RecordBuffer:
    """Make the buffer for `carry`; one is enough for all connections of a loop."""
    return RecordBuffer(ROOM_SIZE)


async def carry(
    client: Handoff | Plain,
    backend: Handoff | Plain,
    closing: Closing,
    scratch: RecordBuffer,
    traffic: Traffic | None = None,
    *,
    is_relaxed: bool = False,
    greeting: bytes = b"",
) -> None:
    """Carry both directions, each until it ends; then both connections are closed.

    The end of one side's data is passed on to the other: close_notify becomes FIN, and FIN becomes
    close_notify. A side that reads no more may still send. A stream that was cut is cut on the
    other side: with RST, or without close_notify. A side that sends faster than the other reads
    waits.

    Args:
        client: the connection that was accepted, with TLS or without; it belongs to this call.
        backend: the connection that was made for it, likewise.
        closing: what an end of the client's TLS stream without close_notify is; sees how it begins.
        scratch: a buffer that all connections of a loop share; empty between turns.
        traffic: counts the bytes carried, as the client sees them.
        is_relaxed: whether such an end of the backend's is none of a cut stream.
        greeting: what the client gets in front of the backend's data.

    Raises:
        HandshakeError: a TLS side was cut, or misbehaved.
        OSError: one of the two was cut.
    """
    carriage = Carriage(client, backend, closing, scratch, traffic, is_relaxed=is_relaxed)
    work = carriage.inbound(), carriage.outbound(greeting)
    flows = [asyncio.ensure_future(each) for each in work]
    try:
        await asyncio.gather(*flows)
    except BaseException as exc:
        for each in flows:
            each.cancel()
        await asyncio.gather(*flows, return_exceptions=True)
        backend.abort()
        if isinstance(exc, Exception):
            await _cut(client)
        else:
            client.abort()
        raise
    with contextlib.closing(backend):
        if carriage.is_unsure:
            await _cut(client)
        else:
            client.close()


class Carriage:
    """One connection's two directions; `carry` has them until both have ended."""

    def __init__(
        self,
        client: Handoff | Plain,
        backend: Handoff | Plain,
        closing: Closing,
        scratch: RecordBuffer,
        traffic: Traffic | None = None,
        *,
        is_relaxed: bool = False,
    ) -> None:
        self._client, self._backend = _stream(client), _stream(backend)
        self._closing = closing
        self._is_relaxed = is_relaxed
        self._scratch = scratch
        self._traffic = Traffic() if traffic is None else traffic
        self._broken: set[socket.socket] = set()
        self._is_parting = False  # the client has ended, and no data has come since
        self.is_unsure = False  # the backend has hung up then, which may be half an answer
        for sock in (self._client, self._backend):
            sock.settimeout(0)

    async def inbound(self) -> None:
        """Carry the client's data."""
        await self._carry(self._client, self._backend, lambda: self._closing.is_relaxed)

    async def outbound(self, greeting: bytes = b"") -> None:
        """Carry the backend's data, behind a greeting.

        Servers of HTTP hang up without close_notify when their client has: no answer is missing,
        unless the client has ended its own direction alone. So it gets no close_notify either.
        """

        def is_relaxed() -> bool:
            return self._is_relaxed or (self._is_parting and self._closing.is_relaxed)

        await self._carry(self._backend, self._client, is_relaxed, greeting)

    async def discard(self) -> None:
        """Drop the client's data, until it ends: nobody wants it any more."""
        await self._flow(self._client, None)

    async def _carry(
        self,
        source: socket.socket,
        sink: socket.socket,
        is_relaxed: Callable[[], bool],
        first: bytes = b"",
    ) -> None:
        try:
            if first:
                self._scratch.view[: len(first)] = first
                await self._pass_on(sink, len(first))
            await self._flow(source, sink)
        except _SinkBroken:
            self._broken.add(sink)
            return
        except Truncated:
            if not is_relaxed():
                raise
            if source is self._backend and not self._is_relaxed:
                self.is_unsure = True
                return
        if source in self._broken and not isinstance(source, TLSSocket | InlineRelay):
            # A reset is told once, and it was to a send: without TLS this may be no end at all.
            raise OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        self._is_parting |= source is self._client
        _end(sink)
        with contextlib.suppress(OSError):  # as a receive from it shows
            while isinstance(sink, InlineRelay) and not sink.flush():
                await _writable(sink)

    async def _flow(self, source: socket.socket, sink: socket.socket | None) -> None:
        carried = 0
        while True:
            try:
                size = self._receive(source)
            except (BlockingIOError, InterruptedError):
                await readable(source)
                continue
            if not size:
                return
            if sink is not None:
                await self._pass_on(sink, size)
            carried += max(size, _FEW)
            if carried >= _TURN:
                carried = 0
                await asyncio.sleep(0)

    async def _pass_on(self, sink: socket.socket, size: int) -> None:
        try:
            if (rest := self._send(sink, size)) is not None:
                await rest
        except (TlsifyError, OSError) as exc:
            raise _SinkBroken from exc
        if sink is self._client:
            self._traffic.sent += size

    def _receive(self, sock: socket.socket) -> int:
        if isinstance(sock, InlineRelay):
            size = sock.receive(self._scratch)
        else:
            size = sock.recv_into(self._scratch.view, READ_SIZE)
        if sock is self._client:
            self._closing.look(self._scratch.view[:size])
            self._traffic.received += size
        elif size:
            self._is_parting = False
        return size

    def _send(self, sock: socket.socket, size: int) -> Awaitable[None] | None:
        """Send what the network takes; return what waits for the rest."""
        if isinstance(sock, InlineRelay):
            sock.put(self._scratch.view[:size])
            return None if sock.is_out else _sealed(sock)
        sent = 0
        with contextlib.suppress(BlockingIOError, InterruptedError):
            sent = sock.send(self._scratch.view[:size])
        if sent == size:
            return None
        rest = bytes(self._scratch.view[sent:size])  # others may use the buffer meanwhile
        return _sent(sock, rest)


class _SinkBroken(Exception):
    """The sink is broken."""


async def readable(sock: socket.socket) -> None:
    """Wait until something can be received."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock)


async def _sent(sock: socket.socket, rest: bytes) -> None:
    """Send what had no room, in the task that notes how that failed.

    The loop's own `sock_sendall` sends in a callback: the other direction's task may run before the
    error is noted, and take a reset that nobody tells it of for an end.
    """
    view = memoryview(rest)
    while view:
        await _writable(sock)
        with contextlib.suppress(BlockingIOError, InterruptedError):
            view = view[sock.send(view) :]


async def _sealed(sock: InlineRelay) -> None:
    """Wait until the network has taken all that was put there."""
    while not sock.is_out:
        if not sock.flush():
            await _writable(sock)
        elif sock.is_waiting:
            await asyncio.sleep(_HELD)


async def _writable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_writer(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(sock)


def _end(sock: socket.socket) -> None:
    """Signal the end of data to a side; a receive from it shows whether it has gone."""
    with contextlib.suppress(OSError):
        sock.shutdown(SHUT_WR)


def _stream(connection: Handoff | Plain) -> socket.socket:
    """Return a socket that speaks plain text."""
    if isinstance(connection, Plain) or isinstance(connection.sock, InlineRelay):
        return connection.sock
    return TLSSocket(connection)


async def _cut(client: Handoff | Plain) -> None:
    """End a connection without an end of its data, behind all that was sent."""
    try:
        if isinstance(client, Plain):
            await _delivered(client.sock)
    finally:
        client.abort()


async def _delivered(sock: socket.socket) -> None:
    """Wait until a peer has received all that was sent to it, which RST would drop."""
    patience = Patience(sock)
    with contextlib.suppress(OSError):
        # TCP tells nobody of acknowledgements.
        while unacknowledged_by_tcp(sock) and not patience.is_over():  # noqa: ASYNC110
            await asyncio.sleep(patience.pause())
