"""Newcomers of `listen` whose ClientHello has not come: each has a descriptor, and no process."""

from __future__ import annotations

import contextlib
import math
import os
import select
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from tlsify.aio.pending import PendingHandshake, PendingHandshakes
from tlsify.connection.setup.greeting import Greeting

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator


class Newcomer(NamedTuple):
    """A connection that was accepted, and has no place yet.

    Attributes:
        sock: the connection.
        origin: network that it comes from (`aio.pending.origin`).
        address: as ``accept`` gives it.
        since: when it was accepted, on the monotonic clock.
    """

    sock: socket.socket
    origin: bytes | None
    address: object
    since: float


class _Silent(NamedTuple):
    newcomer: Newcomer
    greeting: Greeting
    pending: PendingHandshake


class SilentNewcomers:
    """Newcomers that are waited for, by the poller of the door."""

    def __init__(self, poller: select.epoll, limit: int, patience: float) -> None:
        """Begin with none.

        Args:
            poller: reports those that have sent something.
            limit: how many there may be.
            patience: seconds for each ClientHello.
        """
        self._poller = poller
        self._limit = limit
        self._patience = patience
        self._by_number: dict[int, _Silent] = {}  # the oldest first
        self._pending = PendingHandshakes()

    def __len__(self) -> int:
        """Count them."""
        return len(self._by_number)

    def __contains__(self, number: int) -> bool:
        """Return whether a descriptor is one of theirs."""
        return number in self._by_number

    def number_from(self, origin: bytes | None) -> int:
        """Count those from somewhere."""
        return self._pending.number_from(origin)

    def wait_for(self, newcomer: Newcomer) -> bool:
        """Wait for a newcomer's ClientHello; return False if there is nothing to wait for.

        Raises:
            OSError: there is no memory to wait with.
        """
        greeting = Greeting(newcomer.sock)
        if _has_come(greeting):
            return False
        self._poller.register(newcomer.sock, select.EPOLLIN)
        pending = PendingHandshake(newcomer.sock, newcomer.origin, newcomer.since)
        self._by_number[newcomer.sock.fileno()] = _Silent(newcomer, greeting, pending)
        self._pending.enter(pending)
        return True

    def greeted(self, number: int) -> Newcomer | None:
        """Return the newcomer that has sent something, if there is no more to wait for."""
        found = self._by_number[number]
        if not _has_come(found.greeting):
            return None
        self._forget(found)
        return found.newcomer

    def excess(self, now: float) -> Newcomer | None:
        """Return the newcomer that makes room for another, if all places here are taken."""
        if len(self) < self._limit:
            return None
        return self.stalled(now) or self._leave(next(reversed(self._by_number)))

    def stalled(self, now: float) -> Newcomer | None:
        """Return the newcomer that makes room where a descriptor is wanted, if one has stalled."""
        found = self._pending.stalled(now, pressing=True)
        return self._leave(found.sock.fileno()) if isinstance(found, PendingHandshake) else None

    def late(self, now: float) -> list[Newcomer]:
        """Return those whose ClientHello has taken too long."""
        late = [
            number
            for number, each in self._by_number.items()
            if now - each.newcomer.since >= self._patience
        ]
        return [self._leave(number) for number in late]

    @property
    def due(self) -> float:
        """The time when the next one is late, on the monotonic clock."""
        first = next(iter(self._by_number.values()), None)
        return math.inf if first is None else first.newcomer.since + self._patience

    def close(self) -> None:
        """Close them all."""
        for number in list(self._by_number):
            self._leave(number).sock.close()

    def drop(self) -> None:
        """Close them all in a forked child, at once: their objects stay, and are of no use there.

        One after the other would take longer than all else that the child does.
        """
        for low, high in _ranges(sorted(self._by_number)):
            os.closerange(low, high)

    def _leave(self, number: int) -> Newcomer:
        """Give up a newcomer, whose socket is closed next."""
        found = self._by_number[number]
        self._forget(found)
        found.greeting.drop()
        return found.newcomer

    def _forget(self, found: _Silent) -> None:
        self._poller.unregister(found.newcomer.sock)
        self._pending.leave(found.pending)
        del self._by_number[found.newcomer.sock.fileno()]


def _ranges(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """Return consecutive numbers as the first one, and the one behind the last."""
    for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        found = [number for _, number in run]
        yield found[0], found[-1] + 1


def _has_come(greeting: Greeting) -> bool:
    """Return whether there is no more to wait for; why not, the connection's process will find."""
    with contextlib.suppress(OSError):
        return greeting.has_come()
    return True
