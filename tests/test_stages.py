"""Tests of the stages of scripts/test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.testing import stages
from scripts.testing.stages import KERNELS, LATEST, QUICK
from tests import chosen

OPTION = "--every-ending"
FUNCTIONS = ["a.py::test", "b.py::test", "a.py::test_more", "c.py::test"]


@pytest.fixture(autouse=True)
def _files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is collected."""
    monkeypatch.setattr(stages, "_chosen", lambda _: FUNCTIONS)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("quick", [False, True])
def test_whole_run(*, full: bool, quick: bool) -> None:
    """Every ending is played everywhere if all is asked for."""
    *guests, host = stages.everything(full=full, quick=quick)
    halves = [f"{QUICK}-1", f"{QUICK}-2"]
    assert [stage.name for stage in guests] == ([*halves, *KERNELS] if quick else [*KERNELS[::-1]])
    assert [OPTION in stage.words for stage in guests] == [full] * len(guests)
    assert host.name == "host"
    assert (OPTION in host.words) == full
    if quick:
        given = [set(stage.environment[chosen.VARIABLE].splitlines()) for stage in guests[:2]]
        assert given == [{*FUNCTIONS[::2], FUNCTIONS[3]}, {FUNCTIONS[1]}], "and each file is whole"


@pytest.mark.parametrize("full", [False, True])
def test_named(*, full: bool) -> None:
    """What is named runs here and in guests, which play each of its endings if asked to."""
    host, guest = stages.named(["tests/endings"], [LATEST], full=full)
    assert host.words[-1] == "tests/endings"
    assert guest.words[-2:] == (
        ["tests/endings", OPTION] if full else ["ktls or own_kernel", "tests/endings"]
    )


def test_what_depends_on_the_build_is_there() -> None:
    """What is moved or renamed does not drop out of the newest kernel's tests unseen."""
    root = Path(__file__).resolve().parents[1]
    assert all((root / path).exists() for path in stages.OF_THE_BUILD)


def test_option_is_known_whatever_is_named() -> None:
    """No other folder's tests are refused for it."""
    words = [sys.executable, "-m", "pytest", "--collect-only", "-qq", OPTION, __file__]
    root = Path(__file__).resolve().parents[1]
    subprocess.run(words, cwd=root, check=True, stdout=subprocess.DEVNULL)
