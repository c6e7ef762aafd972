"""The handshake on the loop, which it does not block; then the connection is handed over."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

from tlsify.config import KtlsPolicy
from tlsify.connection.establish import PendingConnection, take
from tlsify.connection.setup import handshake
from tlsify.connection.setup.dialing import closed_on_error
from tlsify.errors import HandshakeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlsify.config import ClientConfig, ServerConfig
    from tlsify.connection.handoff import Handoff


# How long one connection may keep the loop, in seconds.
_LONGEST_TURN = 0.001


async def hand_over(
    sock: socket.socket,
    config: ClientConfig | ServerConfig,
    policy: KtlsPolicy | None = None,
    timeout: float | None = None,
    stranger: Callable[[bytes], bytes] | None = None,
) -> Handoff:
    """Do a handshake without blocking the loop, and hand the connection over.

    Args:
        sock: connected TCP socket; the connection is taken out of it (`establish.take`).
        config: decides the role.
        policy: when to offload; AUTO if None.
        timeout: seconds for the handshake; the configuration's own if None.
        stranger: answers a peer that speaks no TLS, as `handshake.conversation` has it.

    Raises:
        As `establish.connect`.
    """
    seconds = config.timeout if timeout is None else timeout
    sock = take(sock)
    with closed_on_error(sock):
        sock.settimeout(0)
        opening = PendingConnection(sock, config, policy or KtlsPolicy())
        with handshake.undelayed(sock):
            try:
                async with asyncio.timeout(seconds):
                    await _drive(sock, handshake.conversation(opening.engine, stranger))
            except HandshakeError:
                await _part(sock)
                raise
            except TimeoutError as exc:
                if exc.errno is not None:  # as in `handshake.run`
                    raise
                raise handshake.too_slow(seconds, opening.engine) from exc
        handed = opening.commit()
        handed.sock.settimeout(0)
        return handed


async def _drive(sock: socket.socket, steps: handshake.Conversation) -> None:
    loop = asyncio.get_running_loop()
    step = next(steps, None)
    spent = 0.0
    while step is not None:
        if spent > _LONGEST_TURN:  # what is there already is received without waiting
            spent = 0.0
            await asyncio.sleep(0)
        received = None
        try:
            if isinstance(step, int):
                received = await loop.sock_recv(sock, step)
            elif isinstance(step, bytes):
                await loop.sock_sendall(sock, step)
            elif isinstance(step, float):
                await asyncio.sleep(step)
            else:
                await _readable(loop, step)
        except OSError as exc:
            step = steps.throw(exc)
            continue
        began = loop.time()
        try:
            step = steps.send(received)
        except StopIteration:
            return
        spent += loop.time() - began


async def _readable(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    """Wait until a socket is readable, or closed by its other end."""
    ready = asyncio.Event()
    number = sock.fileno()
    loop.add_reader(number, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(number)


async def _part(sock: socket.socket) -> None:
    """Leave a refused peer as `handshake.part` does, so that it gets its alert."""
    loop = asyncio.get_running_loop()
    budget = handshake.PARTING_BYTES
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(handshake.PARTING_TIME):
            while budget > 0 and (received := await loop.sock_recv(sock, budget)):
                budget -= len(received)
