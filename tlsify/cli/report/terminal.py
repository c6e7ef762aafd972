"""How wide reports may be, and text that is wrapped to fit."""

from __future__ import annotations

import shutil
import sys
import textwrap

_LEAST = 24  # columns that a text has, however narrow the terminal


def width() -> int | None:
    """Return how many columns stdout has; None if it is no terminal."""
    if sys.stdout is None or not sys.stdout.isatty():
        return None
    return shutil.get_terminal_size().columns


def beside(head: str, text: str, columns: int | None) -> str:
    """Return a text on the right of a head, wrapped there.

    Args:
        head: with the blanks between the two; later lines are as far to the right.
        text: one line.
        columns: of the terminal; None wraps nothing.
    """
    if columns is None:
        return head + text
    room = max(columns - len(head), _LEAST)
    lines = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False)
    return head + f"\n{'':{len(head)}}".join(lines)
