"""EventThread: a thread that runs many connections, each in its turn, and ends after the last."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import os
import select
import threading
import time
from typing import Generic, NamedTuple, Protocol, TypeVar

from tlsify.connection import exit as interpreter
from tlsify.connection.exit import CarrierThread
from tlsify.errors import SHORTAGES
from tlsify.system.own_descriptor import OwnDescriptor

# Seconds that a thread outlives the last of its connections, for the next one.
_IDLE = 0.05
# Seconds between two turns where no descriptor is to be had to wait with.
_PAUSE = 0.05

_log = logging.getLogger("tlsify")


class Interest(NamedTuple):
    """Events that a connection waits for.

    Attributes:
        events: masks as epoll's, by descriptor; 0 for a hang-up alone.
        seconds: until its next turn at the latest; None for no limit.
    """

    events: dict[int, int]
    seconds: float | None


class Task(Protocol):
    """A connection that a thread runs, and that never waits by itself."""

    def interest(self) -> Interest:
        """Return the events that it waits for now."""

    def turn(self, events: dict[int, int]) -> bool:
        """Serve the events, by descriptor; return whether the connection is over."""

    def close(self) -> None:
        """Close its descriptors, which the thread no longer watches."""

    def abandon(self, exc: BaseException) -> None:
        """Note the error that ends it; `close` follows."""

    def leave(self) -> None:
        """Forget it in a forked child: the parent runs it."""


_Task = TypeVar("_Task", bound=Task)


class EventThread(Generic[_Task]):
    """A thread that begins with the first of its connections, and ends after the last.

    Attributes:
        is_running: whether there is a thread.
    """

    def __init__(self, name: str) -> None:
        """Prepare, without a thread; `name` is the future thread's."""
        self._name = name
        # Reentrant: a finalizer may add a connection while this thread holds the lock.
        self._lock = threading.RLock()
        self._new: list[_Task] = []
        self._watched: dict[_Task, dict[int, int]] = {}
        self._owners: dict[int, _Task] = {}
        self._times: list[tuple[float, int, _Task]] = []
        self._due: dict[_Task, float] = {}  # the only one of a task's times that counts
        self._order = itertools.count()
        self._holders: set[object] = set()
        self.is_running = self._is_idle = False
        self._poller: select.epoll | None = None
        self._bell: OwnDescriptor | None = None
        self._last_bell = -1  # the interpreter's

    def __len__(self) -> int:
        return len(self._watched) + len(self._new)

    def add(self, task: _Task) -> None:
        """Run one more connection.

        Raises:
            OSError: no descriptor or memory is available for the thread's poller.
            RuntimeError: no thread is available, or the interpreter ends first.
        """
        with self._lock:
            if not self.is_running:
                self._start()
            self._leave(task)

    def hold(self, holder: object) -> None:
        """Start the thread, unless it runs, and keep it for a connection that may come.

        Args:
            holder: has it kept until `let_go`.

        Raises:
            As `add`.
        """
        with self._lock:
            if not self.is_running:
                self._start()
            self._holders.add(holder)

    def let_go(self, holder: object) -> None:
        """End a hold; a no-op if there is none."""
        with self._lock:
            if holder in self._holders:
                self._holders.remove(holder)
                if not self:
                    with contextlib.suppress(OSError):
                        self._ring()

    def stand_by(self) -> None:
        """Start the thread, for connections that are made when no thread can start any more."""
        with self._lock, contextlib.suppress(OSError, RuntimeError, MemoryError):
            if not self.is_running:
                self._start()

    def _leave(self, task: _Task) -> None:
        """Leave a connection to the thread, or to the next one."""
        self._ring()
        self._new.append(task)

    def _ring(self) -> None:
        if self._bell is not None:
            os.eventfd_write(self._bell.check(), 1)

    def _start(self) -> None:
        self.is_running = True
        try:
            self._open()
            CarrierThread(self._name, self._run).start()
        except BaseException:
            self.is_running = False
            self._close()
            raise

    def _open(self) -> None:
        if self._poller is None:
            self._poller = select.epoll()
        self._bell = OwnDescriptor(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
        self._register_bells(self._poller)

    def _register_bells(self, poller: select.epoll) -> None:
        if self._bell is not None and self._bell.is_ours():
            poller.register(self._bell.number, select.EPOLLIN)
        # It stays readable for good, which is news only once.
        self._last_bell = interpreter.bell()
        poller.register(self._last_bell, select.EPOLLIN | select.EPOLLET)

    def _close(self) -> None:
        if self._poller is not None:
            self._poller.close()
        if self._bell is not None:
            self._bell.close()
        self._poller = self._bell = None
        self._times.clear()
        self._due.clear()

    def _run(self) -> None:
        try:
            while self._take():
                for task, events in self._wait().items():
                    self._turn(task, events)
        except BaseException as exc:
            with self._lock:
                left = self._taken()
                self.is_running = self._is_idle = False
                self._close()
            self._fail(left, exc)
            raise

    def _taken(self) -> list[_Task]:
        """Remove all connections from the thread."""
        with self._lock:
            left = [*dict.fromkeys([*self._watched, *self._new])]
            self._new, self._watched, self._owners = [], {}, {}
        return left

    def _fail(self, left: list[_Task], exc: BaseException) -> None:
        """Abandon the connections of a thread that dies."""
        for task in left:
            task.abandon(exc)
            _end(task)

    def _take(self) -> bool:
        """Add new connections; return False, which ends the thread, if none are left."""
        with self._lock:
            if self._bell is None:
                self._open()
            new = list(self._new)  # a finalizer may add another one meanwhile
            # In this order, so that a fork meanwhile finds each in one of the two (`forget`).
            self._watched.update((task, {}) for task in new)
            del self._new[: len(new)]
            is_idle = not self._watched and not self._holders
            is_over = is_idle and self._is_idle and not interpreter.is_near()
            if not self and (is_over or interpreter.has_begun()):
                self.is_running = self._is_idle = False
                self._close()
                return False
            self._is_idle = is_idle
        for task in new:
            self._turn(task, {})
        return True

    def _wait(self) -> dict[_Task, dict[int, int]]:
        """Wait for events or times; return the connections that are due, with their events."""
        has_reason = self._watched or self._holders or interpreter.is_near()
        wait = None if has_reason else _IDLE
        if self._watched and self._times:
            wait = max(0.0, self._times[0][0] - time.monotonic())
        elif not self._watched and interpreter.has_begun():
            wait = 0.0  # its bell may have been news before the last connection was over
        found: dict[_Task, dict[int, int]] = {}
        for number, events in self._poll(wait):
            if self._bell is not None and number == self._bell.number and self._bell.is_ours():
                os.eventfd_read(number)
            elif number in self._owners:
                found.setdefault(self._owners[number], {})[number] = events
            else:  # the interpreter's end concerns all of them
                if number != self._last_bell:
                    with contextlib.suppress(OSError):  # for want of a descriptor: the next time
                        self._renew()
                found |= {task: found.get(task, {}) for task in self._watched}
        now = time.monotonic()
        while self._times and self._times[0][0] <= now:
            due, _, task = heapq.heappop(self._times)
            if self._due.get(task) == due:
                del self._due[task]
                found.setdefault(task, {})
        return found

    def _poll(self, wait: float | None) -> list[tuple[int, int]]:
        if self._poller is None or self._bell is None:
            time.sleep(_PAUSE if wait is None else min(wait, _PAUSE))
            return []
        return self._poller.poll(wait)

    def _renew(self) -> None:
        """Watch with a new epoll: the old one reports what it cannot be told to forget.

        A registration is the open file's, which a forked child or a dup(2) keeps after this
        process has closed the descriptor (epoll(7)).
        """
        poller = select.epoll()
        try:
            self._register_bells(poller)
            for watched in self._watched.values():
                for number, events in watched.items():
                    with contextlib.suppress(OSError):  # closed, as its connection finds out
                        poller.register(number, events)
        except OSError:
            poller.close()
            raise
        if self._poller is not None:
            self._poller.close()
        self._poller = poller

    def _turn(self, task: _Task, events: dict[int, int]) -> None:
        try:
            is_over = task.turn(events)
            if not is_over:
                self._watch(task, task.interest())
        except BaseException as exc:  # noqa: BLE001 - the others have to go on
            task.abandon(exc)
            is_over = True
        if is_over:
            self._drop(task)

    def _watch(self, task: _Task, wanted: Interest) -> None:
        """Arrange for its next turn.

        Raises:
            OSError: the kernel has no memory to watch it, and no time is set for its next turn.
        """
        watched = self._watched[task]
        for number in [each for each in watched if each not in wanted.events]:
            self._unwatch(watched, number)
        try:
            for number, events in wanted.events.items():
                if watched.get(number) != events:
                    self._register(task, number, events)
        except OSError as exc:
            if wanted.seconds is None or exc.errno not in SHORTAGES:
                raise
        if wanted.seconds is not None:
            due, before = time.monotonic() + wanted.seconds, self._due.get(task)
            # A turn that comes too soon does no harm; with a time more for each event a peer
            # could cause as many turns as it likes.
            if before is None or due < before:
                self._due[task] = due
                heapq.heappush(self._times, (due, next(self._order), task))

    def _register(self, task: _Task, number: int, events: int) -> None:
        watched = self._watched[task]
        if self._poller is None:
            return
        if number in watched:
            self._poller.modify(number, events)
        else:
            self._poller.register(number, events)
            self._owners[number] = task
        watched[number] = events

    def _unwatch(self, watched: dict[int, int], number: int) -> None:
        """Unregister a descriptor explicitly: a forked child may keep its socket open."""
        del watched[number], self._owners[number]
        with contextlib.suppress(OSError, ValueError):  # it was closed, or this thread ends
            if self._poller is not None:
                self._poller.unregister(number)

    def _drop(self, task: _Task) -> None:
        watched = self._watched[task]
        for number in list(watched):
            self._unwatch(watched, number)
        _end(task)
        self._due.pop(task, None)
        del self._watched[task]

    def forget(self) -> None:
        """Forget all connections in a forked child: the parent goes on with them."""
        for task in {*self._new, *self._watched}:
            with contextlib.suppress(RuntimeError):  # it was just over
                task.leave()
        self._close()
        self.__init__(self._name)  # type: ignore[misc]


def _end(task: Task) -> None:
    try:
        task.close()
    except Exception:  # noqa: BLE001 - the others have to go on
        _log.exception("bug at the end of a connection")
