"""Tests of chosen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests import chosen

_ROOT = Path(__file__).resolve().parents[1]
_FOLDER = "tests/status"


def _collect(*functions: str) -> str:
    """Collect a folder's tests, if need be only the chosen ones; return what pytest says."""
    words = [sys.executable, "-m", "pytest", "--collect-only", "-q", _FOLDER]
    environment = os.environ | ({chosen.VARIABLE: "\n".join(functions)} if functions else {})
    done = subprocess.run(words, cwd=_ROOT, env=environment, stdout=subprocess.PIPE, check=True)
    return done.stdout.decode()


def test_chosen_functions_alone_are_made() -> None:
    """Each with all of its parameters, and none of another function or file."""
    whole = _collect()
    functions = chosen.functions(whole)
    files = dict.fromkeys(function.partition("::")[0] for function in functions)
    assert len(functions) > len(files) > 2
    some = [functions[0], functions[-1]]
    made = _collect(*some)
    assert chosen.functions(made) == some
    tests = [line for line in whole.splitlines() if line.partition("[")[0] in some]
    assert [line for line in made.splitlines() if "::" in line] == tests
    assert f"{len(tests)} tests collected" in made, "and none had to be left out"
