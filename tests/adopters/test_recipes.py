"""Tests of the page of recipes itself."""

from __future__ import annotations

from pathlib import Path

from tests.adopters.recipes import recipes


def test_every_recipe_is_run() -> None:
    """Some test names it."""
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert [name for name in recipes() if f'"{name}"' not in tests] == []
