"""Tests of watching: what becomes of the work, and what is counted."""

from __future__ import annotations

import asyncio
import errno
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.doubles import CLOSE_NOTIFY, OFFLOADS, RELAY
from tlsify.aio import watching
from tlsify.aio.watching import watched
from tlsify.connection import stillness
from tlsify.connection.stillness import Bounds, Stillness, Watch
from tlsify.metrics.counters import counters

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.doubles import Lab
    from tlsify.config import KtlsPolicy
    from tlsify.connection.handoff import Handoff

both = pytest.mark.parametrize("policy", OFFLOADS)
NAMES = ("idle_ended", "send_timed_out")


def counted(work: Callable[[], Awaitable[None]], handed: Handoff, bounds: Bounds) -> list[int]:
    """Watch, and tell how often what was counted."""
    before = counters()
    asyncio.run(watched(work(), handed, bounds, partial(_end, handed)), debug=True)
    return [counters()[name] - before[name] for name in NAMES]


def _end(handed: Handoff) -> bool:
    handed.shutdown()
    return True


async def for_ever() -> None:
    """Do some endless work."""
    await asyncio.get_running_loop().create_future()


def test_work_that_ends(lab: Lab) -> None:
    """Nothing is counted, and no timer stays; what it raises is raised."""
    handed, _ = lab.server(RELAY)
    assert counted(_nothing, handed, Bounds(3600)) == [0, 0]
    with pytest.raises(TimeoutError, match="the work's own"):
        counted(_fail, handed, Bounds(3600))
    with pytest.raises(TimeoutError) as raised:
        counted(_time_out, handed, Bounds(3600))
    assert raised.value.errno == errno.ETIMEDOUT


async def _nothing() -> None:
    await asyncio.sleep(0)


async def _fail() -> None:
    raise TimeoutError("the work's own")


async def _time_out() -> None:
    raise TimeoutError(errno.ETIMEDOUT, "TCP's own")


def test_without_bounds(lab: Lab) -> None:
    """A connection may be still for any time."""
    handed, _ = lab.server(RELAY)
    assert counted(_nothing, handed, Bounds()) == [0, 0]


@both
@pytest.mark.parametrize("ends", [True, False])
def test_idle(lab: Lab, monkeypatch: pytest.MonkeyPatch, policy: KtlsPolicy, *, ends: bool) -> None:
    """It ends in good order, and the work after it, or a moment later."""
    monkeypatch.setattr(watching, "_PARTING", 60 if ends else 0.01)
    handed, peer = lab.server(policy)

    async def work() -> None:
        if not ends:
            await for_ever()
        peer.sock.setblocking(True)
        assert await asyncio.to_thread(peer.recv) == CLOSE_NOTIFY

    assert counted(work, handed, Bounds(idle=0.2)) == [1, 0]
    if not ends:
        assert peer.recv() == CLOSE_NOTIFY
    assert peer.recv() is None


def test_idle_in_the_midst_of_something(lab: Lab) -> None:
    """What cannot end in good order is cut at once."""
    handed, _ = lab.server(RELAY)
    before = counters()
    asyncio.run(watched(for_ever(), handed, Bounds(idle=0.2), lambda: False))
    assert [counters()[name] - before[name] for name in NAMES] == [1, 0]


@pytest.mark.parametrize("found", [Stillness.UNREAD, Stillness.UNENDED])
def test_peer_that_takes_nothing_or_does_not_end(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, found: Stillness
) -> None:
    """The work is cancelled at once; only one of the two is an error."""
    handed, _ = lab.server(RELAY)
    monkeypatch.setattr(Watch, "look", lambda watch: watch._found(found, 30))
    monkeypatch.setattr(stillness, "_LOOKS", 10_000)
    before = counters()
    cancelled = []

    async def work() -> None:
        try:
            await for_ever()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def run() -> None:
        await watched(work(), handed, Bounds(send=30), lambda: pytest.fail("not in good order"))

    if found is Stillness.UNENDED:
        asyncio.run(run())
    else:
        with pytest.raises(TimeoutError, match="nothing of the sent data for 30 s") as raised:
            asyncio.run(run())
        assert raised.value.errno == errno.ETIMEDOUT
    assert cancelled
    now = [counters()[name] - before[name] for name in NAMES]
    assert now == ([0, 1] if found is Stillness.UNREAD else [1, 0])


def test_cancelled_from_outside(lab: Lab) -> None:
    """That is none of the watch's affairs."""
    handed, _ = lab.server(RELAY)

    async def run() -> None:
        task = asyncio.create_task(watched(for_ever(), handed, Bounds(3600), lambda: True))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
