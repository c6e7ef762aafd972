"""Tests of ration."""

from __future__ import annotations

import pytest

from tlsify.tls.ration import BYTES_FOR_ONE, MOST, SECONDS_FOR_ONE, Ration


def _spent() -> Ration:
    ration = Ration()
    ration.earn(5, 100.0)
    assert [ration.spend() for _ in range(MOST + 1)] == [True] * MOST + [False]
    ration.left = 0
    return ration


@pytest.mark.parametrize(
    ("received", "now", "left"),
    [
        (5, 100.0, 0),
        (5 + 3 * BYTES_FOR_ONE, 100.0, 3),
        (5, 100.0 + 4 * SECONDS_FOR_ONE, 4),
        (5 + BYTES_FOR_ONE // 2, 100.0 + SECONDS_FOR_ONE / 2, 1),
        (5 + 2**40, 100.0, MOST),
        (5, 100.0 + 1e9, MOST),
    ],
)
def test_earned(received: int, now: float, left: float) -> None:
    """Data and time earn some, never more than there are at the beginning, and only once."""
    ration = _spent()
    for _ in range(2):
        ration.earn(received, now)
        assert ration.left == left


def test_fewer_bytes_than_before() -> None:
    """They cost nothing, and are not earned twice."""
    ration = _spent()
    for received, left in [(5 + 2 * BYTES_FOR_ONE, 2), (5, 2), (5 + 3 * BYTES_FOR_ONE, 3)]:
        ration.earn(received, 100.0)
        assert ration.left == left


def test_time_before_the_first() -> None:
    """It is counted from the first control record on: before that there is enough anyway."""
    ration = Ration(left=0)
    ration.earn(0, 1e9)
    assert not ration.spend()
