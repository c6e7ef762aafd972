"""Each cell of the table, on both carriers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.endings.arena import Arena
from tests.endings.table import Cell, cells

if TYPE_CHECKING:
    from collections.abc import Iterator

    import trustme


# For how many programs it pays to import everything beforehand.
_MANY = 10


@pytest.fixture(scope="module")
def arena(
    request: pytest.FixtureRequest, authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Arena]:
    """Where they are played."""
    folder = tmp_path_factory.mktemp("endings")
    folder.chmod(0o700)
    many = sum(item.path == request.path for item in request.session.items) > _MANY
    with Arena(folder, authority, many=many) as made:
        yield made


# Whose kernels may differ: where records and the end of TCP meet.
_EACH_KERNEL = {
    "TLSSocket-close-breaks",
    "TLSSocket-return-tickets",
    "agent-close-tickets",
    "keeper-close-tickets",
    "wrap-close-slow",
}


def _of_every_carrier() -> Iterator[object]:
    for cell in cells("relay"):
        yield pytest.param(cell, "relay", id=f"{cell.id}-relay")
    for cell in cells("kernel"):
        marks = [pytest.mark.ktls]
        if cell.id in _EACH_KERNEL:
            marks.append(pytest.mark.each_kernel)
        yield pytest.param(cell, "kernel", id=f"{cell.id}-kernel", marks=marks)


@pytest.mark.parametrize(("cell", "carrier"), [*_of_every_carrier()])
def test_ending(arena: Arena, cell: Cell, carrier: str) -> None:
    """The peer sees what it should, the program is told what it should be, and it ends."""
    arena.play(cell, carrier)
