"""Tells whoever reads pytest's output of each test as it ends.

`scripts/test` runs several pytests at once, some of them in guests, and shows how far each is. It
finds JSON texts amid what pytest prints, marked as in RFC 7464: behind a record separator, in front
of a line feed.
"""

from __future__ import annotations

import json
import os

import pytest

VARIABLE = "TLSIFY_TEST_PROGRESS"
MARK = b"\x1e"
_STDOUT = 1
_RANK = ("passed", "skipped", "failed")


class Progress:
    """A pytest plugin that writes `{"total": N}`, and then an object for each test."""

    def __init__(self) -> None:
        """Start with nothing told."""
        self._totalled = False
        self._unfinished: dict[str, tuple[str, float]] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Return how many tests there will be, if this process runs them itself."""
        if session.items:
            self._tell_total(len(session.items))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """Return how many tests there will be, when the first of the workers has found them."""
        self._tell_total(len(ids))

    def _tell_total(self, count: int) -> None:
        if not self._totalled:
            self._totalled = True
            self._write({"total": count})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Report a test after its teardown; the worst of its three parts counts."""
        outcome, seconds = self._unfinished.pop(report.nodeid, ("passed", 0.0))
        outcome = max(outcome, report.outcome, key=_RANK.index)
        seconds += report.duration
        if report.when == "teardown":
            self._write({"test": report.nodeid, "outcome": outcome, "seconds": seconds})
        else:
            self._unfinished[report.nodeid] = outcome, seconds

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Report a module that cannot be collected: it counts as a failed test."""
        if report.failed:
            self._write({"test": report.nodeid, "outcome": "failed", "seconds": 0.0})

    def _write(self, event: dict[str, object]) -> None:
        # pytest gives the descriptor back between the parts of a test, when it calls these hooks.
        os.write(_STDOUT, MARK + json.dumps(event).encode() + b"\n")


def register(config: pytest.Config) -> None:
    """Load the plugin where somebody wants to know; not in xdist's workers, whose parent tells."""
    if os.environ.pop(VARIABLE, "") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Progress())
