"""Tests of uvloop's loop; what it does with connections is in tests/aio/test_loop.py."""

from __future__ import annotations

import asyncio

import uvloop

from tlsify.integrations.uvloop import EventLoop


def test_it_is_uvloop() -> None:
    """All that uvloop can, it can."""

    async def work() -> asyncio.AbstractEventLoop:
        await asyncio.sleep(0)
        return asyncio.get_running_loop()

    with asyncio.Runner(loop_factory=EventLoop) as runner:
        assert isinstance(runner.run(work()), uvloop.Loop)
