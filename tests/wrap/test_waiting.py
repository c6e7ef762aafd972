"""Tests of waiting: calls that are answered later."""

from __future__ import annotations

import asyncio
import errno
from typing import cast

from tlsify.wrap.notifications import Call, Notifications
from tlsify.wrap.waiting import WaitingCalls


class _Answers:
    """Keeps the errors that calls are told."""

    def __init__(self) -> None:
        """Begin."""
        self.failed: list[tuple[int, int]] = []

    def fail(self, call: Call, number: int) -> None:
        """Keep one."""
        self.failed.append((call.id, number))


def _call(number: int, tid: int) -> Call:
    return Call(number, tid, "accept", (3, 0, 0, 0, 0, 0))


def test_order() -> None:
    """The first that came is the first; a thread that calls again has left its former place."""

    async def work() -> None:
        waiting = WaitingCalls(cast("Notifications", _Answers()))
        assert (bool(waiting), waiting.first()) == (False, None)
        calls = [_call(1, 7), _call(2, 8), _call(3, 7)]
        for call in calls:
            waiting.add(call, None)
        assert (bool(waiting), waiting.first()) == (True, calls[1])
        assert waiting.take_all() == [calls[1], calls[2]]
        assert not waiting

    asyncio.run(work())


def test_limit() -> None:
    """A call with a limit fails with EAGAIN; one that was answered does not."""

    async def work() -> None:
        answers = _Answers()
        waiting = WaitingCalls(cast("Notifications", answers))
        waiting.add(_call(1, 7), 0.001)
        waiting.add(_call(2, 8), 0)
        waiting.forget(8)
        while waiting:  # noqa: ASYNC110 - nothing else tells
            await asyncio.sleep(0)
        assert answers.failed == [(1, errno.EAGAIN)]

    asyncio.run(work())
