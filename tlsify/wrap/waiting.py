"""Calls that wait: for a connection, or for data."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tlsify.wrap.notifications import Call, Notifications


class WaitingCalls:
    """Blocking calls in the order in which they came, one for each thread.

    A call that a signal has interrupted stays until its thread calls again, or its turn comes:
    answering it is no error.
    """

    def __init__(self, notifications: Notifications) -> None:
        """Begin without any."""
        self._notifications = notifications
        self._calls: dict[int, tuple[Call, asyncio.TimerHandle | None]] = {}

    def __bool__(self) -> bool:
        """Return whether there may be one."""
        return bool(self._calls)

    def add(self, call: Call, limit: float | None) -> None:
        """Let a call wait.

        Args:
            call: to be answered later.
            limit: seconds, after which it fails with EAGAIN (socket(7) SO_RCVTIMEO); None for any.
        """
        self.forget(call.tid)
        timer = None
        if limit is not None:
            timer = asyncio.get_running_loop().call_later(limit, self._time_out, call)
        self._calls[call.tid] = call, timer

    def _time_out(self, call: Call) -> None:
        del self._calls[call.tid]
        self._notifications.fail(call, errno.EAGAIN)

    def forget(self, tid: int) -> None:
        """Drop a thread's former call, which has ended."""
        _, timer = self._calls.pop(tid, (None, None))
        if timer is not None:
            timer.cancel()

    def first(self) -> Call | None:
        """Return the call that has waited longest."""
        return next((call for call, _ in self._calls.values()), None)

    def take_all(self) -> list[Call]:
        """Return all of them, in order; none waits any more."""
        calls = [call for call, _ in self._calls.values()]
        for call in calls:
            self.forget(call.tid)
        return calls
