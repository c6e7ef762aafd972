"""Pre-forked accept loops: readiness, restart, drain."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable
from typing import TypeAlias

_log = logging.getLogger("tlsify")

# A worker that dies sooner than this after its start is not restarted at once.
_MINIMUM_LIFE = 1.0
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

# To be called once connections are accepted.
Ready: TypeAlias = Callable[[], None]
# What one process does: accept until SIGTERM, then drain and return.
Worker: TypeAlias = Callable[[Ready], None]


class _Supervisor:
    def __init__(
        self,
        count: int,
        worker: Worker,
        on_stop: Callable[[], None],
        before_fork: Callable[[], None],
    ) -> None:
        self._before_fork = before_fork
        self._count = count
        self._worker = worker
        self._on_stop = on_stop
        self._started: dict[int, float] = {}
        self._stopping = False

    def run(self, ready: Ready) -> None:
        for number in _STOP_SIGNALS:
            signal.signal(number, self._stop)
        read_end, write_end = os.pipe()
        for _ in range(self._count):
            self._spawn(write_end, read_end)
        os.close(write_end)
        self._await_readiness(read_end, ready)
        while self._started:
            self._reap()

    def _await_readiness(self, read_end: int, ready: Ready) -> None:
        waiting = self._count
        while waiting > 0 and (arrived := os.read(read_end, waiting)):
            waiting -= len(arrived)
        os.close(read_end)
        if waiting == 0:
            ready()
        elif not self._stopping:
            _log.error("%d of %d workers did not start", waiting, self._count)

    def _spawn(self, write_end: int | None = None, read_end: int | None = None) -> None:
        self._before_fork()
        # A signal between fork and the child's own handlers would run the parent's in the child.
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
        pid = os.fork()
        if pid:
            self._started[pid] = time.monotonic()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
            return
        status = 1
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent passes it on as SIGTERM
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
            if read_end is not None:
                os.close(read_end)
            self._worker(lambda: _tell(write_end))
            status = 0
        except Exception:  # noqa: BLE001 - a child must never return into its parent's code
            _log.exception("worker %d failed", os.getpid())
        finally:
            os._exit(status)

    def _reap(self) -> None:
        pid, status = os.wait()
        started = self._started.pop(pid, 0.0)
        if self._stopping:
            return
        code = os.waitstatus_to_exitcode(status)
        _log.warning("worker %d ended with status %d and is replaced", pid, code)
        lived = time.monotonic() - started
        if lived < _MINIMUM_LIFE:
            time.sleep(_MINIMUM_LIFE - lived)
        if not self._stopping:
            self._spawn()

    def _stop(self, _signal: int, _frame: object) -> None:
        self._stopping = True
        self._on_stop()
        for pid in self._started:
            with contextlib.suppress(ProcessLookupError):  # it was waited for just now
                os.kill(pid, signal.SIGTERM)


def _tell(write_end: int | None) -> None:
    if write_end is not None:
        os.write(write_end, b"\0")
        os.close(write_end)


def run(
    count: int,
    worker: Worker,
    ready: Ready,
    on_stop: Callable[[], None] = lambda: None,
    before_fork: Callable[[], None] = lambda: None,
) -> None:
    """Run a worker in this process, or in several forked ones.

    Args:
        count: 1 runs it here.
        worker: inherits the listening socket, configuration and probe results.
        ready: called once when every worker accepts connections.
        on_stop: called in the parent of forked workers when they are told to drain; it has to
            close the listening socket, or connections would wait in it for nobody.
        before_fork: called in the parent before each worker is forked.
    """
    if count == 1:
        worker(ready)
    else:
        _Supervisor(count, worker, on_stop, before_fork).run(ready)
