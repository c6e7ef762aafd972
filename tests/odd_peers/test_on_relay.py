"""Each scenario on the relay, compared with the table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.doubles import RELAY
from tests.odd_peers.play import play
from tests.odd_peers.scenario import Carrier
from tests.odd_peers.scenarios import CASES

if TYPE_CHECKING:
    from tests.doubles import Lab
    from tests.odd_peers.scenario import Case


@pytest.mark.parametrize("case", CASES, ids=str)
def test_scenario(lab: Lab, case: Case) -> None:
    """What the program gets, how it ends for it, and what the peer sees."""
    assert play(lab, case, RELAY) == case.scenario.on(Carrier.RELAY)
