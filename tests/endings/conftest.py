"""Which of the endings are played on the kernel path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.endings.table import Cell

if TYPE_CHECKING:
    import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is no sample: a guest takes a second for what takes the host a moment."""
    if config.getoption("--every-ending"):
        return
    kept: list[pytest.Item] = []
    beside: list[pytest.Item] = []
    for item in items:
        (beside if _is_beside(item) else kept).append(item)
    config.hook.pytest_deselected(items=beside)
    items[:] = kept


def _is_beside(item: pytest.Item) -> bool:
    callspec = getattr(item, "callspec", None)
    cell = None if callspec is None else callspec.params.get("cell")
    if callspec is None or not isinstance(cell, Cell):
        return False
    return callspec.params["carrier"] == "kernel" and not cell.is_sample
