"""Connect on the loop to a name with several addresses, some of which may be dead (RFC 8305)."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from tlsify.connection.setup import dialing
from tlsify.connection.setup.dialing import ATTEMPT_DELAY, Address, Silence, truest
from tlsify.connection.setup.keepalive import keep_alive

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# What a look-up for `connect` asks for, unless its caller wants something else.
STREAM = {"family": 0, "type": socket.SOCK_STREAM, "proto": 0, "flags": 0}

_Key: TypeAlias = "tuple[object, ...]"


class _Outcome(NamedTuple):
    """Outcome of a look-up; a value, since an exception might never be retrieved."""

    found: list[Address]
    failure: OSError | ValueError | None


# Look-ups in progress: callers with the same arguments share one.
_under_way: dict[_Key, asyncio.Future[_Outcome]] = {}
# What look-ups have found, the last ones: where there is no thread for another, it is used again.
_found: dict[_Key, list[Address]] = {}
_MOST_FOUND = 64


async def connect(
    host: Any,
    port: Any,
    seconds: float | None = None,
    *,
    family: int = 0,
    proto: int = 0,
    flags: int = 0,
    local_addr: tuple[Any, Any] | None = None,
    happy_eyeballs_delay: float | None = ATTEMPT_DELAY,
) -> socket.socket:
    """Resolve a name, and connect to the first of its addresses that answers.

    Args:
        host: name or address.
        port: number, or name of a service.
        seconds: for all of it; None sets no limit.
        family: as ``loop.create_connection`` has it, and so all others.
        proto: likewise.
        flags: likewise.
        local_addr: likewise.
        happy_eyeballs_delay: likewise.

    Returns:
        A non-blocking socket that sends each piece at once, with keepalive.

    Raises:
        Silence: it takes too long.
        OSError: every address failed; of several errors the one that says most.
    """
    wanted = {"family": family, "type": socket.SOCK_STREAM, "proto": proto, "flags": flags}
    delay = math.inf if happy_eyeballs_delay is None else happy_eyeballs_delay
    failures: list[OSError] = []
    is_named = False
    try:
        async with asyncio.timeout(seconds):
            local = await look_up(*local_addr, **wanted) if local_addr is not None else []
            found = await look_up(host, port, **wanted)
            is_named = True
            sock = await _drive(dialing.race(found, failures, local, delay))
    except TimeoutError as exc:
        if exc.errno is not None:
            raise
        raise truest([*failures, Silence(is_named=is_named)]) from exc
    with contextlib.suppress(OSError):  # broken already, as the next call on it will say
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    keep_alive(sock)
    return sock


async def _drive(steps: Any) -> socket.socket:
    ready: list[socket.socket] | None = None
    try:
        while True:
            step = next(steps) if ready is None else steps.send(ready)
            ready = await _writable(step.socks, step.seconds)
    except StopIteration as end:
        sock: socket.socket = end.value
        return sock
    finally:
        steps.close()


async def _writable(socks: Sequence[socket.socket], seconds: float | None) -> list[socket.socket]:
    loop = asyncio.get_running_loop()
    ready: list[socket.socket] = []
    told = asyncio.Event()

    def note(sock: socket.socket) -> None:
        loop.remove_writer(sock)
        ready.append(sock)
        told.set()

    for sock in socks:
        loop.add_writer(sock, note, sock)
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await told.wait()
    finally:
        for sock in socks:
            loop.remove_writer(sock)
    return ready


async def look_up(host: Any, port: Any, **wanted: int) -> list[Address]:
    """Resolve a name as ``loop.getaddrinfo`` does, but in a thread that may be abandoned.

    The loop's own threads are few, and joined at the end: a resolver that hangs would block both.

    Raises:
        OSError: there is no such name.
    """
    if (numeric := dialing.read(host, port, **wanted)) is not None:
        return numeric
    loop = asyncio.get_running_loop()
    name = (host, port, *sorted(wanted.items()))
    key = (loop, *name)
    if (future := _under_way.get(key)) is None:
        future = loop.create_future()

        def settle(outcome: _Outcome) -> None:
            _under_way.pop(key, None)
            if not future.done():
                future.set_result(outcome)

        def work() -> None:
            outcome = _ask(lambda: socket.getaddrinfo(host, port, **wanted))
            try:
                loop.call_soon_threadsafe(settle, outcome)
            except RuntimeError:  # the loop was closed
                _under_way.pop(key, None)

        try:
            dialing.start_look_up(work)
        except OSError:
            if (known := _found.get(name)) is None:
                raise
            return known
        _under_way[key] = future  # `settle` comes in a later round of the loop
    found, failure = await asyncio.shield(future)
    if failure is not None:
        raise failure
    _keep(name, found)
    return found


def _keep(name: _Key, found: list[Address]) -> None:
    _found.pop(name, None)
    _found[name] = found
    if len(_found) > _MOST_FOUND:
        del _found[next(iter(_found))]


def _ask(attempt: Callable[[], Any]) -> _Outcome:
    try:
        return _Outcome(attempt(), None)
    except (OSError, ValueError) as exc:
        return _Outcome([], exc)
