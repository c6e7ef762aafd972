"""Heartbeats: the supervisor detects a worker that hangs, rather than one that is busy."""

from __future__ import annotations

import logging
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tlsify.metrics.counters import Event, beats, count

if TYPE_CHECKING:
    from collections.abc import Collection

    from tlsify.serving.generation import Worker

_log = logging.getLogger("tlsify")

# Checks of the supervisor within the time after which a worker counts as hung.
_LOOKS = 6


@dataclass(slots=True)
class _Heard:
    beats: int
    silence: float


class Heartbeats:
    """Time since each worker's last sign of life.

    Time counts only if the supervisor itself was running: at the wake-up of a machine that was
    suspended, or of a service that was stopped as a whole, a worker has as much time left to show
    a beat as it had before. A worker that has never shown a beat is not judged.

    Attributes:
        due: when to look next, on the monotonic clock.
    """

    def __init__(self, patience: float, now: float) -> None:
        """Begin.

        Args:
            patience: seconds without a beat after which a worker counts as hung.
            now: the monotonic clock's, as everywhere here.
        """
        self._patience = patience
        self._interval = patience / _LOOKS
        self._looked_at = now
        self._heard: dict[int, _Heard] = {}
        self.due = now

    def end_hung(self, workers: Collection[Worker], now: float) -> bool:
        """Kill the workers that hang; return whether there are others.

        Args:
            workers: all that ought to be at work; each beats in its own slot (`counters.beat`).
            now: the time.
        """
        if now >= self.due:
            self._look(workers, now)
        hung = [worker for worker in workers if self._is_hung(worker)]
        for worker in hung:
            if not worker.is_condemned:
                _log.error(
                    "worker %d hangs and is killed: no sign of life for %g seconds",
                    worker.pid,
                    self._patience,
                )
                count(Event.WORKER_HUNG)
                worker.is_condemned = True
                worker.kill(signal.SIGKILL)
        return len(hung) < len(workers)

    def _look(self, workers: Collection[Worker], now: float) -> None:
        elapsed = now - self._looked_at
        if elapsed > 2 * self._interval:  # we were stopped ourselves, or hardly got to run
            elapsed = 0.0
        self._looked_at, self.due = now, now + self._interval
        before, self._heard = self._heard, {}
        for worker in workers:
            found, known = beats(worker.slot), before.get(worker.pid)
            silence = known.silence + elapsed if known and known.beats == found != 0 else 0.0
            self._heard[worker.pid] = _Heard(found, silence)

    def _is_hung(self, worker: Worker) -> bool:
        heard = self._heard.get(worker.pid)
        return heard is not None and heard.silence >= self._patience
