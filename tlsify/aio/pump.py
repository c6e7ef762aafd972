"""Carry bytes between a TLS connection and a plain one, on the loop, until both have ended."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
from typing import TYPE_CHECKING

from tlsify.connection.stream import TLSSocket
from tlsify.connection.traffic import Traffic
from tlsify.errors import TlsifyError, Truncated

if TYPE_CHECKING:
    from tlsify.connection.ending.closing import Closing
    from tlsify.connection.handoff import Handoff

_BUFFER = 2**18
# How many bytes one direction may carry before others get a turn, and as how many a few count.
_TURN, _FEW = 2**20, 2**16
_AT_ONCE = struct.pack("=ii", 1, 0)  # struct linger: on, no time


def buffer() -> memoryview:
    """Make the buffer for `carry`; one is enough for all connections of a loop."""
    return memoryview(bytearray(_BUFFER))


async def carry(
    handed: Handoff,
    plain: socket.socket,
    closing: Closing,
    scratch: memoryview,
    traffic: Traffic | None = None,
) -> None:
    """Carry both directions, each until it ends; then both connections are closed.

    The end of one side's data is passed on to the other: close_notify becomes FIN, and FIN becomes
    close_notify. A side that reads no more may still send. A stream that was cut is cut on the
    other side: with RST, or without close_notify. A side that sends faster than the other reads
    waits.

    Args:
        handed: the TLS connection.
        plain: connected; it belongs to this call, as the hand-off does.
        closing: what an end of the TLS stream without close_notify is; sees how it begins.
        scratch: a buffer that all connections of a loop share; empty between turns.
        traffic: counts the bytes carried.

    Raises:
        HandshakeError: the TLS side was cut, or misbehaved.
        OSError: one of the two was cut.
    """
    carriage = _Carriage(TLSSocket(handed), plain, closing, scratch, traffic)
    flows = [asyncio.ensure_future(flow()) for flow in (carriage.inbound, carriage.outbound)]
    try:
        await asyncio.gather(*flows)
    except BaseException:
        for each in flows:
            each.cancel()
        await asyncio.gather(*flows, return_exceptions=True)
        handed.abort()
        abort(plain)
        raise
    with plain:
        handed.close()


class _Carriage:
    """One connection's two directions."""

    def __init__(
        self,
        stream: TLSSocket,
        plain: socket.socket,
        closing: Closing,
        scratch: memoryview,
        traffic: Traffic | None = None,
    ) -> None:
        self._stream = stream
        self._plain = plain
        self._closing = closing
        self._scratch = scratch
        self._traffic = Traffic() if traffic is None else traffic
        self._plain_is_broken = False
        for sock in (stream, plain):
            sock.settimeout(0)

    async def inbound(self) -> None:
        """Carry data from the TLS peer."""
        try:
            await self._flow(self._stream, self._plain)
        except _SinkBroken:
            self._plain_is_broken = True
            return
        except Truncated:
            if not self._closing.is_relaxed:
                raise
        _end(self._plain)

    async def outbound(self) -> None:
        """Carry data to the TLS peer."""
        try:
            await self._flow(self._plain, self._stream)
        except _SinkBroken:
            return
        if self._plain_is_broken:
            # A reset is told once, and it was to a send: this may be no end of data at all.
            raise OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        _end(self._stream)

    async def _flow(self, source: socket.socket, sink: socket.socket) -> None:
        carried = 0
        while size := await self._receive(source):
            try:
                await self._send(sink, size)
            except (TlsifyError, OSError) as exc:
                raise _SinkBroken from exc
            carried += max(size, _FEW)
            if carried >= _TURN:
                carried = 0
                await asyncio.sleep(0)

    async def _receive(self, sock: socket.socket) -> int:
        while True:
            try:
                size = sock.recv_into(self._scratch)
            except (BlockingIOError, InterruptedError):
                await readable(sock)
            else:
                if sock is self._stream:
                    self._closing.look(self._scratch[:size])
                    self._traffic.received += size
                return size

    async def _send(self, sock: socket.socket, size: int) -> None:
        sent = 0
        with contextlib.suppress(BlockingIOError, InterruptedError):
            sent = sock.send(self._scratch[:size])
        if sent < size:
            rest = bytes(self._scratch[sent:size])  # others may use the buffer meanwhile
            await asyncio.get_running_loop().sock_sendall(sock, rest)
        if sock is self._stream:
            self._traffic.sent += size


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


def _end(sock: socket.socket) -> None:
    """Signal the end of data to a side; a receive from it shows whether it has gone."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)


def abort(sock: socket.socket) -> None:
    """Close, with RST where that can be told."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
    sock.close()
