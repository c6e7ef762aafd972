"""Watch a connection that is being served, and end it when it has been still for too long."""

from __future__ import annotations

import asyncio
import errno
import logging
import math
from typing import TYPE_CHECKING

from tlsify.connection.stillness import Stillness, Watch
from tlsify.metrics.counters import Event, count

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tlsify.connection.handoff import Handoff
    from tlsify.connection.plain import Plain
    from tlsify.connection.stillness import Bounds

_log = logging.getLogger("tlsify")

# How long both sides of a connection that has been idle have to end, in seconds, once they know.
_PARTING = 5.0


async def watched(
    work: Awaitable[None], handed: Handoff | Plain, bounds: Bounds, end: Callable[[], bool]
) -> None:
    """Wait for the task of a connection, unless the connection is still for too long.

    Args:
        work: cancelled, it ends the connection without close_notify; what was sent still arrives.
        handed: the connection.
        bounds: how long it may be still.
        end: ends it in good order where it has been idle; then the work has a moment to end, too.
            False says that there is no such end, since something would be missing.

    Raises:
        TimeoutError: the peer has read nothing, and was cut.
        Exception: what the work raises.
    """
    watching = _Watching(Watch(handed, bounds), end)
    try:
        async with asyncio.timeout(None) as limit:
            watching.begin(limit)
            try:
                await work
            finally:
                watching.stop()
    except TimeoutError as exc:
        if watching.found is None or exc.errno is not None:  # it is the work's
            raise
        if watching.found is Stillness.UNREAD:
            raise TimeoutError(errno.ETIMEDOUT, watching.reason) from None


class _Watching:
    """Looks from time to time, on the loop."""

    def __init__(self, watch: Watch, end: Callable[[], bool]) -> None:
        self._loop = asyncio.get_running_loop()
        self._watch = watch
        self._end = end
        self._timer: asyncio.TimerHandle | None = None
        self._limit: asyncio.Timeout
        self.found: Stillness | None = None

    @property
    def reason(self) -> str:
        return self._watch.reason

    def begin(self, limit: asyncio.Timeout) -> None:
        self._limit = limit
        self._wait()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _wait(self) -> None:
        if self._watch.pause < math.inf:
            self._timer = self._loop.call_later(self._watch.pause, self._look)

    def _look(self) -> None:
        self.found = found = self._watch.look()
        if found is None:
            self._wait()
            return
        grace = 0.0
        if found is Stillness.UNREAD:
            count(Event.SEND_TIMED_OUT)
        else:
            count(Event.IDLE_ENDED)
            _log.info("connection ended: %s", self.reason)
            # Where we have ended long ago the end of the other direction is a cut.
            if found is Stillness.IDLE and self._end():
                grace = _PARTING
        self._limit.reschedule(self._loop.time() + grace)
