"""Tests of heartbeats; what a supervisor makes of them is tested in test_workers."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tlsify.metrics.counters import counters
from tlsify.serving import heartbeats
from tlsify.serving.generation import Worker
from tlsify.serving.heartbeats import Heartbeats

_PATIENCE = 30.0


class Ward:
    """A worker that is none, so that it cannot be killed, and who watches over it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Begin at time 0, with one beat."""
        self.beats, self.now = 1, 0.0
        self.worker = Worker(pid=0, slot=1, started=0.0, is_condemned=True)
        self.watch = Heartbeats(_PATIENCE, self.now)
        monkeypatch.setattr(heartbeats, "beats", lambda _: self.beats)
        self._look()

    def _look(self) -> bool:
        return not self.watch.end_hung([self.worker], self.now)

    def live(self, seconds: float, *, hung: bool = False) -> bool:
        """Let time pass, with the supervisor's looks; return whether the worker is hung then."""
        until = self.now + seconds
        while self.watch.due <= until:
            self.now = self.watch.due
            self.beats += not hung
            self._look()
        self.now = until
        return self._look()

    def sleep(self, seconds: float) -> bool:
        """Suspend the machine, the supervisor included; is the worker hung at the wake-up?"""
        self.now += seconds
        return self._look()


@pytest.fixture
def ward(monkeypatch: pytest.MonkeyPatch) -> Ward:
    """One that works."""
    return Ward(monkeypatch)


def test_worker_that_works(ward: Ward) -> None:
    """It never counts as hung."""
    assert not ward.live(10_000)


def test_worker_that_hangs(ward: Ward) -> None:
    """It counts as hung after the time for that, and at most one more look."""
    ward.live(100)
    assert not ward.live(_PATIENCE - 1, hung=True)
    assert ward.live(_PATIENCE / 6 + 1, hung=True)


def test_worker_that_comes_back(ward: Ward) -> None:
    """A beat makes up for all silence before it."""
    for _ in range(10):
        assert not ward.live(_PATIENCE - 5, hung=True)
        ward.live(6)


def test_suspended_machine(ward: Ward) -> None:
    """However long it sleeps, a worker has time to show a beat when it wakes up."""
    ward.live(100)
    for _ in range(100):
        assert not ward.live(20, hung=True)
        assert not ward.sleep(100_000)
        assert not ward.live(10)


def test_worker_that_hangs_across_a_suspension(ward: Ward) -> None:
    """It is found out all the same."""
    ward.live(15, hung=True)
    assert not ward.sleep(100_000)
    assert ward.live(20, hung=True)


def test_worker_without_a_heart(ward: Ward) -> None:
    """Who never showed a beat is not judged."""
    ward.beats = 0
    assert not ward.live(1000, hung=True)


def test_replacement(ward: Ward) -> None:
    """A slot's next worker begins anew."""
    assert ward.live(1000, hung=True)
    ward.worker = Worker(pid=-1, slot=1, started=0.0, is_condemned=True)
    assert not ward.live(_PATIENCE - 1, hung=True)
    assert ward.live(_PATIENCE, hung=True)


def test_no_worker() -> None:
    """Where there is none, none is alive."""
    watch = Heartbeats(_PATIENCE, 0.0)
    assert not watch.end_hung([], 1.0)


def test_killing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A worker that hangs is killed once, though it is stopped; the others are left alone."""
    monkeypatch.setattr(heartbeats, "beats", lambda slot: 1 if slot == 1 else time.monotonic_ns())
    before = counters()["worker_hung"]
    pids = [os.posix_spawn("/bin/sleep", ["sleep", "1000"], os.environ) for _ in range(2)]
    workers = [Worker(pid, slot, 0.0) for slot, pid in enumerate(pids, 1)]
    os.kill(pids[0], signal.SIGSTOP)
    watch = Heartbeats(_PATIENCE, 0.0)
    assert all(watch.end_hung(workers, now) for now in range(60))
    assert os.waitpid(pids[0], 0)[1] == signal.SIGKILL
    assert os.waitpid(pids[1], os.WNOHANG)[0] == 0
    assert [record.getMessage() for record in caplog.records] == [
        f"worker {pids[0]} hangs and is killed: no sign of life for 30 seconds"
    ]
    assert counters()["worker_hung"] == before + 1
    os.kill(pids[1], signal.SIGKILL)
    os.waitpid(pids[1], 0)
