"""Tests of connecting on the loop to names with several addresses."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from tests.connection.setup.test_dialing import KINDS, PATIENCE, Names, alive, dead, named, refusing
from tests.doubles import check_descriptors, descriptors
from tests.want import Want
from tlsify.aio import dialing

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["named"]

LOOPS = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])


@pytest.fixture(autouse=True, scope="module")
def warm() -> None:
    """Make uvloop open what it opens once."""
    uvloop.run(asyncio.sleep(0))


def run(loop: Callable[[], Any], *where: Any, **how: Any) -> socket.socket:
    """Connect, on a loop of its own."""
    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(dialing.connect(*where, **how))


@LOOPS
@pytest.mark.parametrize(
    "kinds",
    [["alive"], ["dead", "alive"], ["refusing", "alive"], ["dead", "no-way", "refusing", "alive"]],
)
def test_some_are_dead(named: Names, loop: Callable[[], Any], kinds: list[str]) -> None:
    """They cost a moment, and leave nothing open."""
    with ExitStack() as stack:
        found = [stack.enter_context(KINDS[kind]()) for kind in kinds]
        named.known["several.test"] = found
        before = descriptors()
        with run(loop, "several.test", 1, PATIENCE) as sock:
            assert sock.getpeername() == found[-1][4]
            assert sock.gettimeout() == 0
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        check_descriptors(before)


@LOOPS
@pytest.mark.parametrize(
    ("kinds", "number"),
    [
        (["dead", "refusing", "no-way"], errno.ECONNREFUSED),
        (["no-way", "dead"], None),
        (["no-way"], errno.ENETUNREACH),
    ],
)
def test_all_are_dead(
    named: Names, loop: Callable[[], Any], kinds: list[str], number: int | None
) -> None:
    """One limit holds for all; the error that says most is told, and nothing stays open."""
    with ExitStack() as stack:
        named.known["several.test"] = [stack.enter_context(KINDS[kind]()) for kind in kinds]
        before = descriptors()
        with pytest.raises(OSError, match=r".+") as caught:
            run(loop, "several.test", 1, 0.6)
        assert caught.value.errno == number
        assert isinstance(caught.value, TimeoutError) is (number is None)
        check_descriptors(before)


def test_cancelled(named: Names) -> None:
    """Who is told to stop leaves nothing open."""

    async def work() -> None:
        task = asyncio.create_task(dialing.connect("several.test", 1))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with dead() as one, dead() as other:
        named.known["several.test"] = [one, other]
        before = descriptors()
        asyncio.run(work())
        check_descriptors(before)


def test_resolver_that_hangs(named: Names) -> None:
    """Many wait for one answer, none longer than it wants to, and the end for nobody."""

    async def work() -> None:
        attempts = (dialing.connect("silent.test", 1, 0.05) for _ in range(20))
        outcomes = await asyncio.gather(*attempts, return_exceptions=True)
        assert {str(each) for each in outcomes} == {"its name server does not answer"}
        assert all(isinstance(each, TimeoutError) for each in outcomes)

    asyncio.run(work())
    assert named.asked == 1
    (thread,) = (each for each in threading.enumerate() if each.name == "tlsify-look-up")
    assert thread.daemon
    named.silence.set()
    thread.join(PATIENCE)
    assert not dialing._under_way


def test_many_at_once(named: Names) -> None:
    """Who asks for the same name at the same time is given the same answer."""

    async def work(port: int) -> None:
        socks = await asyncio.gather(*(dialing.connect("several.test", port) for _ in range(20)))
        for sock in socks:
            sock.close()

    with alive() as found:
        named.known["several.test"] = [found]
        asyncio.run(work(1))
    assert named.asked == 1
    assert not dialing._under_way


def test_no_thread_for_a_look_up(named: Names) -> None:
    """What was found last is tried; a name of which nothing is known cannot be."""

    async def work() -> None:
        (await dialing.connect("several.test", 1)).close()
        with Want("thread", 0):
            (await dialing.connect("several.test", 1)).close()
            with pytest.raises(OSError, match="no thread to look the name up"):
                await dialing.connect("several.test", 2)

    with alive() as found:
        named.known["several.test"] = [found]
        asyncio.run(work())
    assert named.asked == 1
    for number in range(200):
        dialing._keep((number,), [])
    assert len(dialing._found) == 64


def test_name_that_does_not_exist() -> None:
    """The resolver's own error is told to each."""

    async def work() -> None:
        attempts = (dialing.connect("name.invalid", 1) for _ in range(3))
        outcomes = await asyncio.gather(*attempts, return_exceptions=True)
        assert all(isinstance(each, socket.gaierror) for each in outcomes)

    asyncio.run(work())


def test_local_address(named: Names) -> None:
    """Where to connect from can be said, for a family that is there."""
    with alive() as found:
        named.known["several.test"] = [found]
        with run(asyncio.new_event_loop, "several.test", 1, local_addr=("127.0.0.2", 0)) as sock:
            assert sock.getsockname()[0] == "127.0.0.2"
        with pytest.raises(OSError, match="no local address of this family"):
            run(asyncio.new_event_loop, "several.test", 1, local_addr=("::1", 0))
    with refusing() as found, pytest.raises(OSError, match="assign"):
        run(asyncio.new_event_loop, *found[4], local_addr=("192.0.2.1", 0))
