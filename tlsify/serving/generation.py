"""Forked workers: one of them, and a generation, which begins and ends together."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from tlsify.metrics.counters import occupy
from tlsify.system.children import be_child
from tlsify.system.process import fork

_log = logging.getLogger("tlsify")

# A worker that dies sooner than this after its start waits for its replacement: a second the first
# time, twice as long each time after that, up to the last of these; in seconds.
_PROMPT, _PAUSE, _LONGEST_PAUSE = 10.0, 1.0, 30.0
# Signals that the supervisor acts on.
STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})
SIGNALS = STOP_SIGNALS | {signal.SIGCHLD, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}


def ended() -> Iterator[tuple[int, int]]:
    """Return each child that has ended: its pid, and its exit code as subprocess has it."""
    with contextlib.suppress(ChildProcessError):  # there are none left
        while (found := os.waitpid(-1, os.WNOHANG))[0] != 0:
            yield found[0], os.waitstatus_to_exitcode(found[1])


class WorkerHandle:
    """A worker's handle of itself.

    Attributes:
        index: which of its generation it is, from 0.
    """

    def __init__(self, index: int, write_end: int) -> None:
        """Keep both."""
        self.index = index
        self._write_end = write_end

    def ready(self) -> None:
        """Notify the supervisor that connections are accepted; to be called once."""
        with contextlib.suppress(OSError):  # it has ended, which SIGCHLD reports
            os.write(self._write_end, b"\0")
        os.close(self._write_end)


# What one process does: accept until SIGTERM, then drain and return.
Work: TypeAlias = Callable[[WorkerHandle], None]


@dataclass(eq=False, slots=True)
class Worker:
    """One process.

    Attributes:
        pid: its number.
        slot: where it counts (`counters.occupy`).
        started: when, on the monotonic clock.
        read_end: of the pipe on which it says that it is ready; -1 afterwards.
        is_ready: whether it has.
        deadline: when it is killed, or None.
        is_condemned: whether it has been killed because it hung.
    """

    pid: int
    slot: int
    started: float
    read_end: int = -1
    is_ready: bool = False
    deadline: float | None = None
    is_condemned: bool = False

    def listen(self) -> None:
        """Read its message, which is that it is ready, or its end."""
        self.is_ready = bool(os.read(self.read_end, 1))
        self.forget_pipe()

    def forget_pipe(self) -> None:
        """Close our end of the pipe; a no-op the second time."""
        if self.read_end != -1:
            os.close(self.read_end)
            self.read_end = -1

    def kill(self, number: signal.Signals) -> None:
        """Send it a signal."""
        with contextlib.suppress(ProcessLookupError):  # it was waited for just now
            os.kill(self.pid, number)

    def kill_late(self, now: float) -> None:
        """Kill it if its deadline has passed."""
        if self.deadline is not None and self.deadline <= now:
            _log.warning("process %d did not end in time and is killed", self.pid)
            self.kill(signal.SIGKILL)
            self.deadline = None


@dataclass(eq=False, slots=True)
class Generation:
    """Workers that were started together, with the same configuration.

    Attributes:
        work: what each does.
        deadline: by when all must be ready, on the monotonic clock.
        members: by index; in place of a worker that has ended, the time of its replacement.
    """

    work: Work
    deadline: float
    members: dict[int, Worker | float]
    _failures: dict[int, int] = field(default_factory=dict)

    def workers(self) -> list[Worker]:
        """Return the live workers."""
        return [each for each in self.members.values() if isinstance(each, Worker)]

    def is_ready(self) -> bool:
        """Return whether all of them accept connections."""
        return all(isinstance(each, Worker) and each.is_ready for each in self.members.values())

    def due(self) -> list[float]:
        """Return the times of replacements."""
        return [each for each in self.members.values() if isinstance(each, float)]

    def index(self, worker: Worker) -> int | None:
        """Find a worker's place; None if it is no member."""
        return next((at for at, each in self.members.items() if each is worker), None)

    def mourn(self, index: int, now: float) -> None:
        """A member has died: set the time of its replacement."""
        worker = self.members[index]
        if not isinstance(worker, Worker):
            return
        lived = now - worker.started
        failures = self._failures.get(index, 0) + 1 if lived < _PROMPT else 0
        self._failures[index] = failures
        pause = min(_PAUSE * 2.0 ** (failures - 1), _LONGEST_PAUSE) if failures else 0.0
        self.members[index] = max(worker.started + pause, now)

    def fork(
        self, index: int, slot: int, caught: frozenset[signal.Signals], leave: Callable[[], None]
    ) -> None:
        """Start a worker in a place; if there can be no process now, it is tried again later.

        Args:
            index: the place.
            slot: for its counts.
            caught: the signals that have handlers here.
            leave: closes, in the worker, the supervisor's own descriptors.
        """
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        try:
            # A terminal's signals are for the supervisor, which passes their meaning on.
            pid = fork(ignored=caught - {signal.SIGTERM, signal.SIGCHLD})
            if pid == 0:
                os.close(read_end)
                run = partial(self._run, WorkerHandle(index, write_end), slot, leave)
                be_child(run, f"worker {os.getpid()}")
            self.members[index] = Worker(pid, slot, time.monotonic(), read_end)
        except OSError as exc:
            _log.warning("cannot fork: %s", exc)
            os.close(read_end)
            self.members[index] = time.monotonic() + _PAUSE
        finally:
            os.close(write_end)

    def _run(self, post: WorkerHandle, slot: int, leave: Callable[[], None]) -> None:
        """Run as the worker."""
        leave()
        occupy(slot)
        self.work(post)
