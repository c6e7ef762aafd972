"""Write sessions in a thread of their own: a slow disk stalls no thread that runs connections."""

from __future__ import annotations

import os
import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# Sessions that may wait for the disk; further ones are dropped, for a full handshake later.
_MOST = 1024
_THREAD = "tlsify-sessions"


class _Writer:
    """A thread that lives as long as there is something to write."""

    def __init__(self) -> None:
        # Reentrant: a signal's handler may connect in the midst of this.
        self._changed = threading.Condition(threading.RLock())
        self._jobs: deque[tuple[object, Callable[[], object]]] = deque()
        self._current: object = None
        self._is_running = False

    def add(self, subject: object, job: Callable[[], object]) -> None:
        with self._changed:
            if len(self._jobs) < _MOST:
                self._jobs.append((subject, job))
            if self._is_running:
                return
            self._is_running = True
        try:
            # Not a daemon: what has been taken on is written before the interpreter ends.
            threading.Thread(target=self._run, name=_THREAD, daemon=False).start()
        except (RuntimeError, MemoryError):  # none is to be had, or the interpreter is ending
            self._run()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._current = None
                self._changed.notify_all()
                if not self._jobs:
                    self._is_running = False
                    return
                self._current, job = self._jobs.popleft()
            job()

    def wait_for(self, subject: object, seconds: float) -> None:
        with self._changed:
            first = [each for each in self._jobs if each[0] == subject]
            if first:
                others = [each for each in self._jobs if each[0] != subject]
                self._jobs = deque([*first, *others])
            if first or self._current == subject:
                self._changed.wait_for(lambda: not self._has(subject), seconds)

    def _has(self, subject: object) -> bool:
        return self._current == subject or any(each[0] == subject for each in self._jobs)


_writer = _Writer()
os.register_at_fork(after_in_child=_writer.__init__)  # type: ignore[misc]


def write(subject: object, job: Callable[[], object]) -> None:
    """Run a job in the background; it must not raise.

    Where there is no thread to be had, it is done before this returns.

    Args:
        subject: of the job, for `wait_for`; not None.
        job: called once.
    """
    _writer.add(subject, job)


def wait_for(subject: object, seconds: float) -> None:
    """Put jobs of a subject first, and wait until they are done, for some seconds at most."""
    _writer.wait_for(subject, seconds)
