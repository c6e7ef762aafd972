"""Which of the endings are played."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.endings.table import Cell, sample

if TYPE_CHECKING:
    import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is no sample, unless all is asked for."""
    if config.getoption("--every-ending"):
        return
    samples = {carrier: sample(carrier) for carrier in ("relay", "kernel")}
    kept: list[pytest.Item] = []
    beside: list[pytest.Item] = []
    for item in items:
        (beside if _is_beside(item, samples) else kept).append(item)
    config.hook.pytest_deselected(items=beside)
    items[:] = kept


def _is_beside(item: pytest.Item, samples: dict[str, set[str]]) -> bool:
    callspec = getattr(item, "callspec", None)
    cell = None if callspec is None else callspec.params.get("cell")
    if callspec is None or not isinstance(cell, Cell):
        return False
    return cell.id not in samples[callspec.params["carrier"]]
