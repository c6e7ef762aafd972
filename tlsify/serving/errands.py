"""Errands: what a process of its own does now and then beside the workers, such as a renewal."""

from __future__ import annotations

import logging
import math
import os
import signal
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

from tlsify.metrics.counters import Event, Gauge, count, put
from tlsify.renewal.report import Report
from tlsify.serving.generation import SIGNALS
from tlsify.system.children import be_child
from tlsify.system.process import fork
from tlsify.system.sandbox import Reach

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_log = logging.getLogger("tlsify")

# Seconds after which an errand is killed, and until the next one after one that failed.
_LONGEST = 1800.0
_PAUSES = (60.0, 300.0, 900.0, 3600.0)
_MAX_REPORT = 4096
_INTERVAL = 3.0  # seconds between two looks
_MOMENTS = {
    Event.ACME_OBTAINED: Gauge.ACME_OBTAINED_AT,
    Event.OCSP_FETCHED: Gauge.OCSP_FETCHED_AT,
}


class Work(Protocol):
    """What an errand does, in a process of its own."""

    def __call__(self, *, insisting: bool) -> Report:
        """Do what is due; ``insisting`` if an administrator has asked for it."""


class Errand(NamedTuple):
    """Something to be done now and then.

    Attributes:
        what: its name in messages.
        work: does it.
        reach: what the process needs besides the interpreter.
        settle: called in the supervisor whenever the process has ended, however that was.
        watch: its value is looked at every few seconds; when it changes, the errand is due. Or
            None.
    """

    what: str
    work: Work
    reach: Callable[[], Reach] = Reach
    settle: Callable[[], None] = lambda: None
    watch: Callable[[], object] | None = None


class _Runner:
    """One errand: the process that is at it, or when there will be one."""

    def __init__(self, errand: Errand) -> None:
        self.errand = errand
        self.due = 0.0
        self.pid = 0
        self._read_end = -1
        self._deadline = 0.0
        self._failures = 0
        self.is_woken = self.is_urgent = False
        self._seen: object = None
        self._look_at = math.inf if errand.watch is None else 0.0

    @property
    def next(self) -> float:
        return min(self._deadline if self.pid else self.due, self._look_at)

    def look(self, now: float) -> None:
        """Be due if what is watched has changed, which a process at work has seen by itself."""
        if self.errand.watch is not None and self._look_at <= now:
            self._look_at = now + _INTERVAL
            before, self._seen = self._seen, self.errand.watch()
            if self._seen != before and not self.pid:
                self.due = 0.0

    def begin(self, prepare: Callable[[Errand], None]) -> None:
        now = time.monotonic()
        insisting, self.is_urgent, self.is_woken = self.is_urgent, False, False
        try:
            self._read_end, write_end = os.pipe2(os.O_CLOEXEC)
            try:
                pid = fork(ignored=SIGNALS - {signal.SIGTERM, signal.SIGCHLD})
                if pid == 0:
                    os.close(self._read_end)
                    work = partial(self._work, prepare, write_end, insisting=insisting)
                    be_child(work, f"the process for {self.errand.what}")
            except OSError:
                self._close()
                raise
            finally:
                os.close(write_end)
        except OSError as exc:
            _log.warning("%s: cannot fork: %s", self.errand.what, exc)
            self.due = now + _PAUSES[0]
            return
        self.pid, self._deadline = pid, now + _LONGEST

    def _work(self, prepare: Callable[[Errand], None], write_end: int, *, insisting: bool) -> None:
        prepare(self.errand)
        os.write(write_end, self.errand.work(insisting=insisting).encode())

    def bury(self, code: int) -> tuple[Event, ...]:
        """Take the report of the process, which has ended; return its events."""
        report = Report.decode(os.read(self._read_end, _MAX_REPORT)) if code == 0 else None
        self.forget()
        if report is not None:
            self._failures = 0
            self.due = 0.0 if self.is_woken else time.monotonic() + report.pause
            return report.events
        self._failures += 1
        pause = _PAUSES[min(self._failures, len(_PAUSES)) - 1]
        _log.error("%s: its process ended with status %d", self.errand.what, code)
        self.due = time.monotonic() + pause
        return (Event.ERRAND_FAILED,)

    def forget(self) -> None:
        """Go on without the process; its end means nothing any more."""
        if self.errand.watch is not None:
            self._seen = self.errand.watch()  # what it has done itself
        self.drop()
        self.pid = 0
        self.errand.settle()

    def kill(self) -> None:
        if self.pid:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def kill_late(self, now: float) -> None:
        if self.pid and self._deadline <= now:
            _log.warning("%s: its process did not end in time and is killed", self.errand.what)
            self.kill()
            self._deadline = now + _LONGEST

    def drop(self) -> None:
        """Close what a forked process has no use for."""
        if self._read_end != -1:
            self._close()

    def _close(self) -> None:
        os.close(self._read_end)
        self._read_end = -1


class Errands:
    """All errands of a server, each in a process of its own, one at a time of each."""

    def __init__(self, errands: Iterable[Errand], prepare: Callable[[Errand], None]) -> None:
        """Prepare; the first `tend` begins.

        Args:
            errands: what there is to do.
            prepare: called in each process before its work: leaves what is the server's, and gives
                up rights.
        """
        self._runners = [_Runner(errand) for errand in errands]
        self._prepare = prepare

    def due(self) -> list[float]:
        """Return when something is to be done, on the monotonic clock."""
        return [runner.next for runner in self._runners]

    def tend(self, now: float) -> None:
        """Begin what is due, and end what takes too long."""
        for runner in self._runners:
            runner.kill_late(now)
            runner.look(now)
            if not runner.pid and runner.due <= now:
                runner.begin(self._prepare)

    def wake(self, *, insisting: bool = False) -> None:
        """Have all of it looked after at once: something has changed, or someone insists."""
        for runner in self._runners:
            runner.due, runner.is_woken = 0.0, True
            runner.is_urgent = runner.is_urgent or insisting

    def bury(self, pid: int, code: int) -> bool:
        """Take note of the end of a process; return whether it was one of these."""
        for runner in self._runners:
            if runner.pid == pid:
                for event in runner.bury(code):
                    count(event)
                    if event in _MOMENTS:
                        put(_MOMENTS[event], int(time.time()))
                return True
        return False

    def end(self) -> None:
        """Kill all processes, and forget them: what they were at is done again."""
        for runner in self._runners:
            runner.kill()
            runner.forget()

    def drop(self) -> None:
        """Close, in a forked process, what it has no use for."""
        for runner in self._runners:
            runner.drop()
