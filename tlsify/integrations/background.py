"""Concurrent handshakes in a background thread, for servers whose loop must not block."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from tlsify.aio.handshake import hand_over, readable
from tlsify.aio.limits import most_handshakes
from tlsify.aio.outcomes import FAILURES
from tlsify.aio.pending import PendingHandshake, PendingHandshakes, origin
from tlsify.connection.relay import threads
from tlsify.connection.setup.eligibility import host_refusal
from tlsify.errors import DeadlineExceeded, ResourceError
from tlsify.metrics.counters import Event, count

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine

    from tlsify.connection.handoff import Handoff
    from tlsify.sslcontext.context import SSLContext

    Failed: TypeAlias = Callable[[BaseException], None]

_log = logging.getLogger("tlsify")

# Seconds until another attempt to accept, for want of descriptors or memory.
_ACCEPT_PAUSE = 0.1
_STALLED, _OVER = "its handshake has stalled", "the server ends"


def _nobody(_: BaseException) -> None:
    """Report to nobody."""


class Handshakes:
    """Takes accepted sockets, and gives those back that have done their handshake."""

    def __init__(self, context: SSLContext, limit: int | Callable[[], int] | None = None) -> None:
        """Prepare; the thread begins with the first connection, in the process that accepts it.

        Args:
            context: a server's.
            limit: handshakes under way at a time, or what returns their number now (`look_again`);
                as many as of `Limits` if None. Further connections get the places of those that
                have stalled.

        Raises:
            ConfigError: the context is unusable.
        """
        context.server_config()
        self._context = context
        number = most_handshakes() if limit is None else limit
        self._limit = number if callable(number) else lambda: number
        self._turn = asyncio.Lock()
        self._left = asyncio.Event()
        self._pending = PendingHandshakes()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._tasks: dict[socket.socket, asyncio.Task[None]] = {}

    def begin(
        self,
        sock: socket.socket,
        done: Callable[[Handoff], None],
        failed: Failed = _nobody,
    ) -> None:
        """Begin a handshake.

        Args:
            sock: connected; it is closed if the handshake fails, of which a line is logged.
            done: called in the background's thread, with a connection that it has to take over;
                it must not take its time.
            failed: called instead, in that thread or at once, with the reason.
        """
        try:
            loop = self._start()
        except (RuntimeError, OSError) as exc:  # no thread or descriptor; the next may find one
            count(Event.HANDSHAKE_RESOURCES)
            self._refuse(sock, exc, failed, logging.WARNING)
            return
        loop.call_soon_threadsafe(self._begin, loop, sock, done, failed)

    def listen(self, listener: socket.socket, done: Callable[[Any, Handoff], None]) -> None:
        """Accept connections in the background, and do their handshakes.

        Args:
            listener: is the caller's to close, after `close`.
            done: called as by `begin`, with the client's address first.

        Raises:
            OSError: there is no descriptor for it.
            RuntimeError: there is no thread for it.
        """
        listener.settimeout(0)
        loop = self._start()
        accepting = partial(self._accept, loop, listener, done)
        loop.call_soon_threadsafe(self._keep, loop, listener, accepting)

    def _start(self) -> asyncio.AbstractEventLoop:
        """Start the thread, unless it runs; return its loop."""
        if self._loop is None:
            loop = asyncio.new_event_loop()
            thread = threading.Thread(
                target=loop.run_forever, name="tlsify-handshakes", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:
                loop.close()
                raise
            self._loop, self._thread = loop, thread
        return self._loop

    def make_room(self, *, pressing: bool) -> None:
        """Abort a handshake that has stalled, if there is one.

        Args:
            pressing: as of `PendingHandshakes.stalled`.
        """
        if (loop := self._loop) is not None:
            loop.call_soon_threadsafe(partial(self._find_stalled, loop, pressing=pressing))

    def look_again(self) -> None:
        """See whether there may be more handshakes by now."""
        if (loop := self._loop) is not None:
            loop.call_soon_threadsafe(self._left.set)

    def _find_stalled(
        self, loop: asyncio.AbstractEventLoop, *, pressing: bool
    ) -> PendingHandshake | float | None:
        """Abort the handshake that `PendingHandshakes.stalled` finds; return what that returns."""
        found = self._pending.stalled(loop.time(), pressing=pressing)
        if isinstance(found, PendingHandshake):
            self._pending.leave(found)
            self._tasks[found.sock].cancel(_STALLED)
        return found

    def _keep(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        work: Callable[[], Coroutine[Any, Any, None]],
    ) -> asyncio.Task[None]:
        self._tasks[sock] = task = loop.create_task(work())
        task.add_done_callback(lambda _: self._tasks.pop(sock))
        return task

    async def _accept(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: socket.socket,
        done: Callable[[Any, Handoff], None],
    ) -> None:
        is_failing = False
        while True:
            await readable(loop, listener)
            try:
                sock, address = self._accept_one(listener)
            except BlockingIOError:
                continue
            except (OSError, ResourceError) as exc:
                count(Event.ACCEPT_FAILED)
                found = self._find_stalled(loop, pressing=True)
                if isinstance(found, PendingHandshake) and not is_failing:  # which makes room
                    await asyncio.wait([self._tasks[found.sock]], timeout=_ACCEPT_PAUSE)
                else:
                    if not is_failing:
                        _log.warning("accept() failed, retrying in %s s: %s", _ACCEPT_PAUSE, exc)
                    await asyncio.sleep(_ACCEPT_PAUSE)
                is_failing = True
                continue
            is_failing = False
            self._begin(loop, sock, partial(done, address))
            await asyncio.sleep(0)
            async with self._turn:  # as long as one waits for a place, others do so in the kernel
                pass

    def _accept_one(self, listener: socket.socket) -> tuple[socket.socket, Any]:
        """Accept a connection once there is a thread for its relay, which it keeps until `_ended`.

        Raises:
            OSError: as of ``accept``.
            ResourceError: there is no thread.
        """
        if host_refusal(self._context.policy) is None:
            return listener.accept()
        threads.hold(self)
        try:
            sock, address = listener.accept()
            threads.hold(sock)
        finally:
            threads.let_go(self)
        return sock, address

    def _begin(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        done: Callable[[Handoff], None],
        failed: Failed = _nobody,
    ) -> None:
        task = self._keep(loop, sock, partial(self._do, loop, sock, done))
        task.add_done_callback(partial(self._ended, sock, failed))

    def _ended(self, sock: socket.socket, failed: Failed, task: asyncio.Task[None]) -> None:
        threads.let_go(sock)
        try:
            error = task.exception()
        except asyncio.CancelledError as exc:
            error = DeadlineExceeded(*exc.args)
        if error is not None:
            if not isinstance(error, FAILURES):
                _log.error("bug in a handshake", exc_info=error)
            self._refuse(sock, error, failed)

    def _refuse(
        self, sock: socket.socket, why: BaseException, failed: Failed, level: int = logging.INFO
    ) -> None:
        sock.close()
        _log.log(level, "connection refused: %s", why)
        failed(why)

    async def _do(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, done: Callable[[Handoff], None]
    ) -> None:
        opening = PendingHandshake(sock, origin(sock.getpeername()), loop.time())
        await self._enter(loop, opening)
        try:
            config = self._context.server_config()
            handed = await hand_over(sock, config, self._context.policy)
        finally:
            self._pending.leave(opening)
            self._left.set()
        self._pending.took(loop.time() - opening.since)
        try:
            done(handed)
        except BaseException:
            handed.abort()
            raise

    async def _enter(self, loop: asyncio.AbstractEventLoop, opening: PendingHandshake) -> None:
        """Wait for a place; it may be one that a stalled handshake has to give up."""
        async with self._turn:
            while len(self._pending) >= self._limit():
                count(Event.FULL_OF_HANDSHAKES)
                found = self._find_stalled(loop, pressing=True)
                if isinstance(found, PendingHandshake):
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
            task.cancel(_OVER)
        await asyncio.gather(*tasks, return_exceptions=True)
