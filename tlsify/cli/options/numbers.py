"""Numbers among the values of options: seconds, counts, descriptors, each within its bounds."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T", int, float)

_MAX_COUNT = 1024
_MAX_SECONDS = 10**6  # what poll takes in milliseconds
_MAX_DESCRIPTOR = 2**20


def _number(parse: Callable[[str], T], fits: Callable[[T], bool], kind: str) -> Callable[[str], T]:
    """Return what reads a number, for argparse.

    Args:
        parse: raises ValueError for what is none.
        fits: whether it is within its bounds.
        kind: what is expected, for the message.
    """

    def read(text: str) -> T:
        try:
            number = parse(text)
        except ValueError:
            pass
        else:
            if fits(number):
                return number
        raise argparse.ArgumentTypeError(f'"{text}" is not {kind}')

    return read


def whole(least: int, most: int) -> Callable[[str], int]:
    """Return what reads a whole number within bounds."""
    kind = f"a whole number from {least} to {most}"
    return _number(int, lambda number: least <= number <= most, kind)


# Processes, connections in one process, attempts.
count = whole(1, _MAX_COUNT)
descriptor = whole(0, _MAX_DESCRIPTOR)
seconds = _number(
    float,
    lambda number: 0 < number <= _MAX_SECONDS,
    f"a number of seconds above 0, up to {_MAX_SECONDS}",
)
# Where 0 means that there is no such time.
seconds_or_0 = _number(
    float,
    lambda number: 0 <= number <= _MAX_SECONDS,
    f"a number of seconds from 0 to {_MAX_SECONDS}",
)
