"""docs/endings.md says what the tests of the endings test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.endings.table import DOORS, PEERS, PROGRAMS, Answer, answer

PROJECT = Path(__file__).resolve().parents[2]


def test_the_page_is_current() -> None:
    """It is what its script writes."""
    words = [sys.executable, str(PROJECT / "scripts/endings_doc"), "--check"]
    subprocess.run(words, check=True)


def test_every_door_has_a_test_for_every_program_that_it_can_have() -> None:
    """What a door cannot have has a reason; whatever else there is, is played with some peer."""
    for door, there in DOORS.items():
        assert set(there.without) <= set(PROGRAMS)
        assert set(there.peers_without) <= set(PEERS)
        for program in PROGRAMS:
            found = [answer(door, program, peer) for peer in PEERS]
            is_played = any(isinstance(each, Answer) for each in found)
            assert is_played != (program in there.without), (door, program)
