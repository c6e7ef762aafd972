"""Concurrent handshakes in a background thread, for servers whose loop must not block."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from typing import TYPE_CHECKING

from tlsify.aio.handshake import hand_over
from tlsify.aio.pending import PendingHandshake, PendingHandshakes, origin
from tlsify.connection.setup.dialing import closed_on_error
from tlsify.errors import TlsifyError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from tlsify.connection.handoff import Handoff
    from tlsify.sslcontext.context import SSLContext

_log = logging.getLogger("tlsify")

# Limit on simultaneous handshakes; further connections get the places of those that have stalled.
_LIMIT = 1000


class Handshakes:
    """Takes accepted sockets, and gives those back that have done their handshake."""

    def __init__(self, context: SSLContext, limit: int = _LIMIT) -> None:
        """Prepare; the thread begins with the first connection, in the process that accepts it.

        Args:
            context: a server's.
            limit: handshakes under way at a time.

        Raises:
            ConfigError: the context is unusable.
        """
        context.server_config()
        self._context = context
        self._limit = limit
        self._turn = asyncio.Lock()
        self._left = asyncio.Event()
        self._pending = PendingHandshakes()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._tasks: dict[socket.socket, asyncio.Task[None]] = {}

    def begin(self, sock: socket.socket, done: Callable[[Handoff], None]) -> None:
        """Begin a handshake.

        Args:
            sock: connected; it is closed if the handshake fails, of which a line is logged.
            done: called in the background's thread, with a connection that it has to take over;
                it must not take its time.
        """
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=self._loop.run_forever, name="tlsify-handshakes", daemon=True
            )
            self._thread.start()
        self._loop.call_soon_threadsafe(self._begin, self._loop, sock, done)

    def _begin(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, done: Callable[[Handoff], None]
    ) -> None:
        self._tasks[sock] = task = loop.create_task(self._do(loop, sock, done))
        task.add_done_callback(lambda _: self._tasks.pop(sock))

    async def _do(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, done: Callable[[Handoff], None]
    ) -> None:
        try:
            with closed_on_error(sock):
                opening = PendingHandshake(sock, origin(sock.getpeername()), loop.time())
                await self._enter(loop, opening)
            try:
                with closed_on_error(sock):
                    config = self._context.server_config()
                handed = await hand_over(sock, config, self._context.policy)
            finally:
                self._pending.leave(opening)
                self._left.set()
        except (TlsifyError, OSError) as exc:
            _log.info("connection refused: %s", exc)
        except asyncio.CancelledError:
            sock.close()
            raise
        else:
            self._pending.took(loop.time() - opening.since)
            done(handed)

    async def _enter(self, loop: asyncio.AbstractEventLoop, opening: PendingHandshake) -> None:
        """Wait for a place; it may be one that a stalled handshake has to give up."""
        async with self._turn:
            while len(self._pending) >= self._limit:
                found = self._pending.stalled(loop.time(), pressing=True)
                if isinstance(found, PendingHandshake):
                    _log.info("a stalled handshake gives up its place")
                    self._pending.leave(found)
                    self._tasks[found.sock].cancel()
                    break
                self._left.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._left.wait(), found)
            self._pending.enter(opening)

    def close(self) -> None:
        """Abort handshakes under way, and end the thread."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        self._loop = self._thread = None
        asyncio.run_coroutine_threadsafe(self._cancel(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    async def _cancel(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
