"""The page of differences: up to date, complete, and found from the contract."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.odd_peers.reasons import Reason
from tests.odd_peers.scenarios import CASES, SCENARIOS

PROJECT = Path(__file__).resolve().parents[2]


def test_page_is_up_to_date() -> None:
    """The script that writes it has nothing to add."""
    subprocess.run(
        [sys.executable, "scripts/differences_doc", "--check"], cwd=PROJECT, check=True, timeout=60
    )


def test_every_reason_is_one_of_something() -> None:
    """None is left over, and a difference is one: the outcomes are not the same."""
    found = set()
    for scenario in SCENARIOS:
        for difference in scenario.differs.values():
            found.add(difference.reason)
            assert difference.outcome != scenario.expected, scenario.name
    assert found == set(Reason)


def test_there_are_many() -> None:
    """As many as the page promises, each with a name of its own for a version and a role."""
    assert len({str(case) for case in CASES}) == len(CASES) >= 800


def test_contract_leads_to_it() -> None:
    """Who reads the contract learns where it is kept otherwise."""
    assert "(differences.md)" in (PROJECT / "docs/handoff.md").read_text()
