"""Tests of report."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tlsify.metrics.counters import Event
from tlsify.renewal.report import LONGEST_PAUSE, Report

_EVENTS = (Event.ACME_OBTAINED, Event.OCSP_FAILED, Event.OCSP_FAILED)


def test_report() -> None:
    """It arrives as it was sent, with a pause that is neither too long nor none."""
    assert Report.decode(Report(7.0, _EVENTS).encode()) == Report(7.0, _EVENTS)
    for pause, bounded in ((-1.0, 1.0), (1e9, LONGEST_PAUSE)):
        assert Report.decode(Report(pause).encode()) == Report(bounded)


def test_several() -> None:
    """The first to be due decides, and all events count."""
    assert Report.of([]) == Report(LONGEST_PAUSE)
    parts = [Report(9.0, _EVENTS[:1]), Report(7.0), Report(8.0, _EVENTS[1:])]
    assert Report.of(parts) == Report(7.0, _EVENTS)


@given(st.binary(max_size=20))
def test_no_report(raw: bytes) -> None:
    """The process has read what strangers sent: whatever it says is within bounds, or nothing."""
    found = Report.decode(raw)
    if found is not None:
        assert 1.0 <= found.pause <= LONGEST_PAUSE
        assert Report.decode(found.encode()) == found


def test_reports_that_are_none() -> None:
    """They are too short, or out of bounds."""
    good = Report(7.0).encode()
    for raw in (b"", good[:-1], good + b"\xff", bytes(8), b"\xff" * 8):
        assert Report.decode(raw) is None
