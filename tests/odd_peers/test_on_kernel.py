"""Each scenario on this kernel, compared with the table; the sample is elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.doubles import KERNEL
from tests.odd_peers.play import play
from tests.odd_peers.scenario import Carrier
from tests.odd_peers.scenarios import CASES
from tlsify.ktls.probe import capabilities

if TYPE_CHECKING:
    from tests.doubles import Lab
    from tests.odd_peers.scenario import Case

pytestmark = pytest.mark.ktls


@pytest.mark.parametrize("case", [case for case in CASES if not case.is_sampled], ids=str)
def test_scenario(lab: Lab, case: Case) -> None:
    """What the program gets, how it ends for it, and what the peer sees."""
    carrier = Carrier.KERNEL if capabilities().rekey else Carrier.OLD_KERNEL
    assert play(lab, case, KERNEL) == case.scenario.on(carrier)
