"""The threads that run relays: few, and each runs as many as there are."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import os
import select
import threading
import time
from typing import NamedTuple, Protocol

from tlsify.connection import exit as interpreter
from tlsify.connection.exit import CarrierThread
from tlsify.system import process

# A second thread pays where OpenSSL can compute in it meanwhile: the interpreter's lock is one.
_MOST = max(1, min(4, len(os.sched_getaffinity(0)) // 2))
# Seconds that a thread outlives the last of its connections, for the next one.
_IDLE = 0.05
_THREAD = "tlsify-relay"

_log = logging.getLogger("tlsify")


class Interest(NamedTuple):
    """What a connection waits for.

    Attributes:
        events: by descriptor, as poll's; 0 for a hang-up alone.
        seconds: until it has its next turn, whatever happens; None for any time.
    """

    events: dict[int, int]
    seconds: float | None


class Relayed(Protocol):
    """A connection that a thread runs, and that never waits by itself."""

    def interest(self) -> Interest:
        """Return what it waits for now."""

    def turn(self, events: dict[int, int]) -> bool:
        """Do what there is to do; true once it is over. `events` is by descriptor, as poll's."""

    def close(self) -> None:
        """Close what it has; nobody watches it any more."""

    def abandon(self, exc: BaseException) -> None:
        """Take note that it cannot go on; it is closed next."""

    def leave(self) -> None:
        """In a forked child: it is the parent's to run."""


class RelayThread:
    """A thread that begins with the first of its connections, and ends after the last."""

    def __init__(self) -> None:
        """Have no thread yet."""
        self._lock = threading.Lock()
        self._new: list[Relayed] = []
        self._watched: dict[Relayed, dict[int, int]] = {}
        self._owners: dict[int, Relayed] = {}
        self._times: list[tuple[float, int, Relayed]] = []
        self._order = itertools.count()
        self.is_running = self._is_idle = False
        self._poller: select.epoll
        self._bell = -1

    def __len__(self) -> int:
        return len(self._watched) + len(self._new)

    def add(self, relay: Relayed) -> None:
        """Run a relay, too.

        Raises:
            OSError: there is no descriptor or memory for a thread's waiting.
            RuntimeError: there is no thread to be had.
        """
        with self._lock:
            if not self.is_running:
                self._start()
            self._new.append(relay)
            os.eventfd_write(self._bell, 1)

    def _start(self) -> None:
        self._poller = select.epoll()
        try:
            self._bell = process.out_of_the_way(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
            self._poller.register(self._bell, select.EPOLLIN)
            # It stays readable for good, which is news only once.
            self._poller.register(interpreter.bell(), select.EPOLLIN | select.EPOLLET)
            CarrierThread(_THREAD, self._run).start()
        except BaseException:
            self._close()
            raise
        self.is_running = True

    def _close(self) -> None:
        self._poller.close()
        if self._bell != -1:
            os.close(self._bell)
        self._bell = -1
        self._times.clear()

    def _run(self) -> None:
        try:
            while self._take():
                for relay, events in self._wait().items():
                    self._turn(relay, events)
        except BaseException as exc:
            with self._lock:
                left = [*self._new, *self._watched]
                self._new, self._watched, self._owners = [], {}, {}
                self.is_running = False
                self._close()
            for relay in left:
                relay.abandon(exc)
                _end(relay)
            raise

    def _take(self) -> bool:
        """Take what has been added; False ends the thread, since there is nothing left."""
        with self._lock:
            # In this order: a fork meanwhile finds each in one of them (`forget`).
            self._watched.update((relay, {}) for relay in self._new)
            new, self._new = self._new, []
            is_idle = not self._watched
            if is_idle and (self._is_idle or interpreter.has_begun()):
                self.is_running = self._is_idle = False
                self._close()
                return False
            self._is_idle = is_idle
        for relay in new:
            self._turn(relay, {})
        return True

    def _wait(self) -> dict[Relayed, dict[int, int]]:
        """Wait until some have something to do; return them, with what has happened."""
        wait = None if self._watched else _IDLE
        if self._watched and self._times:
            wait = max(0.0, self._times[0][0] - time.monotonic())
        found: dict[Relayed, dict[int, int]] = {}
        for number, events in self._poller.poll(wait):
            if number == self._bell:
                os.eventfd_read(self._bell)
            elif number in self._owners:
                found.setdefault(self._owners[number], {})[number] = events
            else:  # the interpreter's end, which concerns all of them
                found |= {relay: found.get(relay, {}) for relay in self._watched}
        now = time.monotonic()
        while self._times and self._times[0][0] <= now:
            relay = heapq.heappop(self._times)[2]
            if relay in self._watched:
                found.setdefault(relay, {})
        return found

    def _turn(self, relay: Relayed, events: dict[int, int]) -> None:
        try:
            is_over = relay.turn(events)
            if not is_over:
                self._watch(relay, relay.interest())
        except BaseException as exc:  # noqa: BLE001 - the others have to go on
            relay.abandon(exc)
            is_over = True
        if is_over:
            self._drop(relay)

    def _watch(self, relay: Relayed, wanted: Interest) -> None:
        """See that its next turn comes.

        Raises:
            OSError: the kernel has no memory for that.
        """
        watched = self._watched[relay]
        for number in [each for each in watched if each not in wanted.events]:
            self._unwatch(watched, number)
        for number, events in wanted.events.items():
            if number not in watched:
                self._poller.register(number, events)
                self._owners[number] = relay
            elif watched[number] != events:
                self._poller.modify(number, events)
            watched[number] = events
        if wanted.seconds is not None:
            due = time.monotonic() + wanted.seconds
            heapq.heappush(self._times, (due, next(self._order), relay))

    def _unwatch(self, watched: dict[int, int], number: int) -> None:
        """Have it done by hand: a forked child may keep what the descriptor stands for open."""
        del watched[number], self._owners[number]
        with contextlib.suppress(OSError, ValueError):  # it was closed, or this thread ends
            self._poller.unregister(number)

    def _drop(self, relay: Relayed) -> None:
        watched = self._watched[relay]
        for number in list(watched):
            self._unwatch(watched, number)
        _end(relay)
        del self._watched[relay]

    def forget(self) -> None:
        """In a forked child: the parent goes on with its connections, the child must not."""
        for relay in {*self._new, *self._watched}:
            with contextlib.suppress(RuntimeError):  # it was just over
                relay.leave()
        if self._bell != -1:
            self._close()
        self.__init__()  # type: ignore[misc]


def _end(relay: Relayed) -> None:
    try:
        relay.close()
    except Exception:  # noqa: BLE001 - the others have to go on
        _log.exception("bug at the end of a relay")


_threads = [RelayThread() for _ in range(_MOST)]


def run(relay: Relayed) -> None:
    """Have a thread run a relay: the one with the fewest.

    Raises:
        OSError: there is no descriptor or memory for the first thread's waiting.
        RuntimeError: there is not one thread to be had.
    """
    best = min(_threads, key=len)
    try:
        best.add(relay)
    except (OSError, RuntimeError, MemoryError):
        others = [each for each in _threads if each.is_running and each is not best]
        if not others:
            raise
        min(others, key=len).add(relay)


def _after_fork() -> None:
    for each in _threads:
        each.forget()


os.register_at_fork(after_in_child=_after_fork)
