"""Each cell of the table, on both carriers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.endings.arena import Arena
from tests.endings.table import Cell, cells

if TYPE_CHECKING:
    from collections.abc import Iterator

    import trustme


@pytest.fixture(scope="module")
def arena(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """Where they are played."""
    folder = tmp_path_factory.mktemp("endings")
    folder.chmod(0o700)
    with Arena(folder, authority) as made:
        yield made


@pytest.mark.parametrize("cell", [pytest.param(cell, id=cell.id) for cell in cells()])
@pytest.mark.parametrize(
    "carrier",
    [pytest.param("relay"), pytest.param("kernel", marks=pytest.mark.ktls)],
)
def test_ending(arena: Arena, cell: Cell, carrier: str) -> None:
    """The peer sees what it should, the program is told what it should be, and it ends."""
    arena.play(cell, carrier)
