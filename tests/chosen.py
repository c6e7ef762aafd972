"""Has pytest make only the tests that were chosen before.

`scripts/test` finds out on the host which tests a guest has to run. To make all others there, only
to leave them out, takes half as long as to run the chosen ones: under emulation Python is slow.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

VARIABLE = "TLSIFY_CHOSEN_TESTS"


def functions(text: str) -> list[str]:
    """Find the functions, ``path::name`` each, in what ``pytest --collect-only -q`` prints."""
    tests = [line for line in text.splitlines() if ".py::" in line]
    return list(dict.fromkeys(test.partition("[")[0] for test in tests))


class Chosen:
    """A pytest plugin that passes over every function but the chosen ones, and their folders."""

    def __init__(self, chosen: list[str], root: Path) -> None:
        """Note functions, as `functions` finds them, and the folder that their paths begin at."""
        self._root = root
        self._functions = set(chosen)
        files = [root / each.partition("::")[0] for each in chosen]
        self._paths = {*files, *(folder for file in files for folder in file.parents)}

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """Pass over files and folders without a chosen function."""
        return None if collection_path in self._paths else True

    def pytest_pycollect_makeitem(
        self, collector: pytest.Module | pytest.Class, name: str, obj: object
    ) -> list[pytest.Item] | None:
        """Pass over the functions of a module that are not chosen."""
        if not callable(obj) or isinstance(obj, type) or not name.startswith("test"):
            return None
        file = collector.path.relative_to(self._root).as_posix()
        return None if f"{file}::{name}" in self._functions else []


def register(config: pytest.Config) -> None:
    """Load the plugin if tests have been chosen."""
    if chosen := os.environ.pop(VARIABLE, ""):
        config.pluginmanager.register(Chosen(chosen.split(), config.rootpath))
