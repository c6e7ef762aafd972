"""The handshake on the loop, without blocking it, and the hand-over of the connection."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

from tlsify.config import KtlsPolicy, ServerConfig
from tlsify.connection.establish import PendingConnection
from tlsify.connection.setup import handshake
from tlsify.connection.setup.dialing import closed_on_error
from tlsify.connection.setup.greeting import Greeting
from tlsify.errors import HandshakeError

if TYPE_CHECKING:
    from tlsify.config import ClientConfig
    from tlsify.connection.handoff import Handoff
    from tlsify.isolation.remote_engine import RemoteEngine
    from tlsify.tls.engine import Engine, Stranger


# How long one connection may keep the loop, in seconds.
_LONGEST_TURN = 0.001


async def hand_over(
    sock: socket.socket,
    config: ClientConfig | ServerConfig,
    policy: KtlsPolicy | None = None,
    timeout: float | None = None,
    stranger: Stranger | None = None,
    *,
    is_inline: bool = False,
) -> Handoff:
    """Do a handshake without blocking the loop, and hand the connection over.

    Args:
        sock: connected TCP socket, which is the handshake's from here on: it is closed on an error.
        config: decides the role.
        policy: when to offload; AUTO if None.
        timeout: seconds for the handshake; the configuration's own if None.
        stranger: answers a peer that speaks no TLS, as an `Engine` has it.
        is_inline: whether the caller carries the data by `pump.carry`, or attaches a transport.

    Raises:
        As `establish.connect`.
    """
    seconds = config.timeout if timeout is None else timeout
    engine: Engine | RemoteEngine | None = None
    with contextlib.ExitStack() as stack:
        stack.enter_context(closed_on_error(sock))
        sock.settimeout(0)
        try:
            async with asyncio.timeout(seconds):
                if isinstance(config, ServerConfig):
                    await _await_greeting(sock)
                opening = PendingConnection(
                    sock, config, policy or KtlsPolicy(), is_inline=is_inline
                )
                stack.enter_context(opening)
                engine = opening.engine
                engine.stranger = stranger
                await _drive(sock, engine)
        except HandshakeError:
            await _part(sock)
            raise
        except TimeoutError as exc:
            if exc.errno is not None:  # as in `handshake.run`
                raise
            raise handshake.too_slow(seconds, engine) from exc
        handed = opening.commit()
        handed.sock.settimeout(0)
        return handed


async def _await_greeting(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    greeting = Greeting(sock)
    try:
        while not greeting.has_come():
            await readable(loop, sock)
    except BaseException:
        greeting.drop()
        raise


async def _drive(sock: socket.socket, engine: Engine | RemoteEngine) -> None:
    loop = asyncio.get_running_loop()
    spent = 0.0
    while True:
        if output := engine.output():
            await loop.sock_sendall(sock, output)
        if engine.result() is not None:
            return
        if spent > _LONGEST_TURN:  # what is there already is received without waiting
            spent = 0.0
            await asyncio.sleep(0)
        received = await loop.sock_recv(sock, engine.need())
        began = loop.time()
        try:
            engine.feed(received)
            spent += loop.time() - began
            if engine.is_remote:
                for what in engine.attend():
                    await (asyncio.sleep(what) if isinstance(what, float) else readable(loop, what))
        except HandshakeError:
            with contextlib.suppress(OSError):  # the peer may have gone, and need no alert
                await loop.sock_sendall(sock, engine.output())
            raise


async def readable(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
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
