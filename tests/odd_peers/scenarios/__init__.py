"""The table: every scenario there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.odd_peers.scenarios import (
    alerts,
    endings,
    key_updates,
    messages,
    openings,
    records,
    tickets,
)

if TYPE_CHECKING:
    from tests.odd_peers.scenario import Scenario

SCENARIOS: tuple[Scenario, ...] = (
    *alerts.SCENARIOS,
    *tickets.SCENARIOS,
    *key_updates.SCENARIOS,
    *messages.SCENARIOS,
    *records.SCENARIOS,
    *endings.SCENARIOS,
    *openings.SCENARIOS,
)
CASES = [case for scenario in SCENARIOS for case in scenario.cases()]
