"""Receive a PROXY header in front of a handshake, and no byte behind it."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from tlsify.errors import DeadlineExceeded, ProxyHeaderError, Truncated
from tlsify.passing import proxy_protocol, proxy_text

if TYPE_CHECKING:
    from tlsify.passing.proxy_protocol import Header


async def receive(sock: socket.socket, seconds: float) -> Header:
    """Receive a header of either version.

    The kernel may decrypt what follows, so that all of that has to stay in the socket.

    Args:
        sock: connected; left non-blocking.
        seconds: for all of it.

    Raises:
        DeadlineExceeded: it did not come in time.
        ProxyHeaderError: there is another thing in its place, or it is malformed or too long.
        Truncated: the stream ended before its end.
        OSError: the connection broke.
    """
    sock.settimeout(0)
    try:
        async with asyncio.timeout(seconds):
            return await _receive(sock)
    except TimeoutError as exc:
        if exc.errno is not None:  # TCP has given the peer up
            raise
        raise DeadlineExceeded(
            f"no PROXY header within {seconds:.3g} seconds", hint=ProxyHeaderError.general_hint
        ) from exc


async def _receive(sock: socket.socket) -> Header:
    start = await _exactly(sock, len(proxy_protocol.SIGNATURE))
    try:
        if start == proxy_protocol.SIGNATURE:
            start += await _exactly(sock, proxy_protocol.HEAD_SIZE - len(start))
            rest = proxy_protocol.rest(start, proxy_protocol.USUAL_LIMIT)
            return proxy_protocol.decode(start + await _exactly(sock, rest))[0]
        if start.startswith(proxy_text.START):
            return proxy_text.decode(await _line(sock, start))
        raise ValueError(f"it began with {start!r}")
    except ValueError as exc:
        raise ProxyHeaderError(f"no PROXY header from the proxy: {exc}") from exc


async def _line(sock: socket.socket, line: bytes) -> bytes:
    """Receive the rest of a line that is not at its end yet; what follows is only looked at."""
    while len(line) < proxy_text.LONGEST:
        line += await _exactly(sock, 1)
        try:
            ahead = sock.recv(proxy_text.LONGEST - len(line), socket.MSG_PEEK)
        except BlockingIOError:
            ahead = b""
        if not line.endswith(b"\n"):
            own, end, _ = ahead.partition(b"\n")
            line += await _exactly(sock, len(own + end))
        if line.endswith(b"\n"):
            return line
    raise ValueError("a PROXY header without an end")


async def _exactly(sock: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    found = b""
    while len(found) < size:
        received = await loop.sock_recv(sock, size - len(found))
        if not received:
            raise Truncated("the stream ended within the PROXY header")
        found += received
    return found
