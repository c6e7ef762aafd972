"""Tests of forked; what a supervisor makes of it is tested in test_workers."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

from tests.doubles import check_descriptors, descriptors
from tlsify.serving import generation
from tlsify.serving.generation import Generation, Worker, WorkerHandle

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

_CAUGHT = frozenset({signal.SIGTERM, signal.SIGHUP})


def _fork(work: Callable[[WorkerHandle], None]) -> tuple[Generation, Worker]:
    generation = Generation(work, 0.0, {})
    generation.fork(3, 0, _CAUGHT, lambda: None)
    (worker,) = generation.workers()
    return generation, worker


def _status(worker: Worker) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(worker.pid, 0)[1])


def test_worker_that_gets_ready() -> None:
    """It knows its place, says that it is ready, and ends with 0."""
    before = descriptors()

    def work(post: WorkerHandle) -> None:
        if post.index == 3:
            post.ready()

    generation, worker = _fork(work)
    assert not generation.is_ready()
    worker.listen()
    assert generation.is_ready()
    assert generation.index(worker) == 3
    assert _status(worker) == 0
    check_descriptors(before)


def test_worker_that_fails() -> None:
    """It says nothing, and ends with 1, whatever it raises; its parent's code is never run."""

    def work(_: WorkerHandle) -> None:
        raise RuntimeError("planted")

    generation, worker = _fork(work)
    worker.listen()
    worker.forget_pipe()
    assert not generation.is_ready()
    assert _status(worker) == 1


def test_signals_of_a_worker() -> None:
    """What is the supervisor's to act on is ignored, and SIGTERM ends who does not care for it."""

    def work(post: WorkerHandle) -> None:
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & generation.SIGNALS
        post.ready()
        signal.pause()

    _, worker = _fork(work)
    worker.listen()
    assert worker.is_ready
    worker.kill(signal.SIGTERM)
    assert _status(worker) == -signal.SIGTERM
    worker.kill(signal.SIGTERM)  # nobody is there any more


def test_no_process_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again after a while, and nothing is left open."""
    before = descriptors()

    def fail() -> int:
        raise BlockingIOError(11, "planted")

    monkeypatch.setattr(os, "fork", fail)
    generation = Generation(lambda _: None, 0.0, {})
    generation.fork(0, 0, _CAUGHT, lambda: None)
    assert generation.workers() == []
    assert not generation.is_ready()
    (due,) = generation.due()
    assert 0 < due - time.monotonic() <= 1
    check_descriptors(before)


def test_replacements() -> None:
    """Who has lived long is replaced at once; who dies young, again and again, ever later."""
    generation = Generation(lambda _: None, 0.0, {0: Worker(1, 1, 0.0), 1: Worker(2, 2, 0.0)})
    generation.mourn(0, 100.0)
    assert generation.members[0] == 100.0
    assert isinstance(generation.members[1], Worker)
    pauses = []
    for _ in range(8):
        generation.members[0] = Worker(1, 1, 200.0)
        generation.mourn(0, 200.5)
        pauses.append(generation.due()[0] - 200.0)
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]
    generation.members[0] = Worker(1, 1, 300.0)
    generation.mourn(0, 309.0)
    generation.members[0] = Worker(1, 1, 400.0)
    generation.mourn(0, 411.0)
    assert generation.due() == [411.0], "long enough"
    generation.members[0] = Worker(1, 1, 500.0)
    generation.mourn(0, 500.1)
    assert generation.due() == [501.0], "and the count begins anew"
