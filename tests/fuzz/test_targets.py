"""What fuzzing has found worth keeping, fed once more; and that fuzzing itself still works."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import corpus
from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", TARGETS)
def test_corpus(name: str) -> None:
    """Nothing that is kept breaks its target."""
    for data in corpus.inputs(name):
        TARGETS[name].feed(data)


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris has no wheel here")
def test_what_coverage_suggests() -> None:
    """A short while of it finds nothing either."""
    words = [sys.executable, "-m", "scripts.fuzzing", "--seconds", "30", "--runs", "3000"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(" 0 targets broken\n")
