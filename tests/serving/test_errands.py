"""Tests of errands: each forks, and its end is waited for."""

from __future__ import annotations

import logging
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.doubles import check_descriptors, descriptors
from tlsify.metrics.counters import Event, Gauge, counters, gauge
from tlsify.renewal.report import Report
from tlsify.serving import errands
from tlsify.serving.errands import Errand, Errands

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def _no_descriptor_is_left() -> Iterator[None]:
    before = descriptors()
    yield
    check_descriptors(before)


class Beside:
    """Errands in the place of a supervisor, with one errand in them."""

    def __init__(self, work: Callable[[bool], Report], **more: Any) -> None:
        """Prepare."""

        def wrapped(*, insisting: bool) -> Report:
            return work(insisting)

        self.errands = Errands([Errand("it", wrapped, **more)], lambda _: None)

    def tend(self) -> None:
        """Begin what is due."""
        self.errands.tend(time.monotonic())

    def reap(self) -> int:
        """Wait for the process; return its status."""
        pid, status = os.waitpid(-1, 0)
        code = os.waitstatus_to_exitcode(status)
        assert self.errands.bury(pid, code)
        assert not self.errands.bury(pid, code)
        return code

    def pause(self) -> int:
        """Return the seconds until the next."""
        (due,) = self.errands.due()
        return round(due - time.monotonic())


def test_report() -> None:
    """What it reports is counted here, and it is due again when it says so."""
    before, settled = counters(), []
    report = Report(70.0, (Event.ACME_OBTAINED, Event.OCSP_FAILED, Event.OCSP_FAILED))
    beside = Beside(lambda _: report, settle=lambda: settled.append(os.getpid()))
    beside.tend()
    beside.tend()  # one at a time
    assert beside.reap() == 0
    assert beside.pause() == 70
    assert settled == [os.getpid()]
    after = counters()
    for event, times in ((Event.ACME_OBTAINED, 1), (Event.OCSP_FAILED, 2), (Event.OCSP_FETCHED, 0)):
        assert after[event.value] - before[event.value] == times
    assert abs(gauge(Gauge.ACME_OBTAINED_AT) - time.time()) < 3600
    beside.tend()  # not due
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_failures(caplog: pytest.LogCaptureFixture) -> None:
    """Each is told and counted, and makes the pause longer, until one goes well."""

    def raising(_: bool) -> Report:
        raise ValueError("planted")

    def killed(_: bool) -> Report:
        os.kill(os.getpid(), signal.SIGKILL)
        return Report()

    works = [raising, killed, raising, raising, raising]

    def work(insisting: bool) -> Report:
        return works[0](insisting)

    beside = Beside(work)
    before = counters()[Event.ERRAND_FAILED.value]
    for pause, code in ((60, 1), (300, -9), (900, 1), (3600, 1), (3600, 1)):
        beside.tend()
        assert beside.reap() == code
        works.pop(0)
        assert beside.pause() == pause
        assert f"it: its process ended with status {code}" in caplog.text
        beside.errands.wake()
    assert counters()[Event.ERRAND_FAILED.value] - before == 5
    works.append(lambda _: Report(5.0))
    beside.tend()
    beside.reap()
    works[0] = raising
    beside.errands.wake()
    beside.tend()
    beside.reap()
    assert beside.pause() == 60


def test_report_that_is_none() -> None:
    """A process that was taken over says what it likes: it counts as one that failed."""

    class Forged(Report):
        def encode(self) -> bytes:
            return b"\xff" * 5000

    beside = Beside(lambda _: Forged())
    beside.tend()
    assert beside.reap() == 0
    assert beside.pause() == 60


def test_process_that_takes_too_long(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is killed, and that is a failure like others."""
    monkeypatch.setattr(errands, "_LONGEST", 0.0)

    def endless(_: bool) -> Report:
        signal.pause()
        return Report()

    beside = Beside(endless)
    beside.tend()
    beside.tend()
    assert beside.reap() == -signal.SIGKILL
    assert "did not end in time" in caplog.text
    assert beside.pause() == 60


def test_wish_for_another_look() -> None:
    """One that comes while a process is at work is not lost; who insists is told apart."""
    read_end, write_end = os.pipe()

    def work(insisting: bool) -> Report:
        os.read(read_end, 1)
        return Report(1000.0 if insisting else 2000.0)

    beside = Beside(work)
    beside.tend()
    beside.errands.wake(insisting=True)
    os.write(write_end, b"x")
    beside.reap()
    assert beside.pause() < 1
    os.write(write_end, b"x")
    beside.tend()
    beside.reap()
    assert beside.pause() == 1000
    beside.errands.wake()
    os.write(write_end, b"x")
    beside.tend()
    beside.reap()
    assert beside.pause() == 2000
    os.close(read_end)
    os.close(write_end)


def test_something_that_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """When it changes the errand is due, unless that was its own work."""
    monkeypatch.setattr(errands, "_INTERVAL", 0.0)
    seen = [0]
    beside = Beside(lambda _: Report(70.0), watch=lambda: seen[0])
    beside.tend()
    seen[0] = 1  # by its own work
    beside.reap()
    beside.tend()
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    seen[0] = 2
    beside.tend()
    beside.reap()


def test_end(caplog: pytest.LogCaptureFixture) -> None:
    """At the end of the server it is killed, which is no failure, and has settled."""
    caplog.set_level(logging.INFO)
    settled = []

    def endless(_: bool) -> Report:
        signal.pause()
        return Report()

    beside = Beside(endless, settle=lambda: settled.append(1))
    beside.tend()
    beside.errands.end()
    pid, status = os.waitpid(-1, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    assert not beside.errands.bury(pid, -signal.SIGKILL)
    assert settled == [1]
    assert not caplog.text


def test_preparation() -> None:
    """It precedes the work, in the same process; one that fails is a failure."""

    def refuse(errand: Errand) -> None:
        raise PermissionError(1, f"not {errand.what}")

    found = Errands([Errand("it", lambda *, insisting: Report(float(insisting)))], refuse)
    found.tend(time.monotonic())
    pid, status = os.waitpid(-1, 0)
    assert found.bury(pid, os.waitstatus_to_exitcode(status))
    assert round(found.due()[0] - time.monotonic()) == 60
