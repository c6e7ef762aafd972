"""Every contender that is there still runs, and what it says can be read. No figure is judged."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]


_SUITES = ("startup", "handshakes", "relay")
_MORE = ("tunnel", "engine", "agent", "handoff", "pieces", "first_byte", "scale", "bulk", "http2")


@pytest.mark.parametrize(
    "suite",
    [*_SUITES, *(pytest.param(name, marks=pytest.mark.occasional) for name in _MORE)],
)
def test_a_suite_runs(suite: str, tmp_path: Path) -> None:
    """A run as small as can be: who is there has figures, and nobody has failed."""
    words = [sys.executable, str(_ROOT / "scripts/bench/run"), suite, "--smoke", "--native"]
    said: list[str] = []
    # A dozen programs of others are told ports that are free, and are seldom too late to take them.
    while len(said) < 2:
        done = subprocess.run(
            [*words, "--out", str(tmp_path)], capture_output=True, text=True, check=False
        )
        said.append(done.stderr)
        if done.returncode == 0:
            break
    else:
        pytest.fail("\n\n".join(said))
    record = json.loads((tmp_path / f"{suite}.json").read_text())
    assert record["experiments"]
    for experiment in record["experiments"]:
        assert not experiment["failed"]
        assert experiment["figures"].keys() | experiment["missing"].keys() == set(
            experiment["contenders"]
        )
        assert any("tlsify" in name for name in experiment["figures"]) or suite == "handoff"
        for figures in experiment["figures"].values():
            assert experiment["figure"] in figures
            assert all(math.isfinite(value) for values in figures.values() for value in values)
        assert f"### {experiment['title']}\n" in (tmp_path / "README.md").read_text()


def test_a_smoke_run_publishes_nothing() -> None:
    """Its figures mean nothing: the records that are there stay as they are."""
    published = _ROOT / "docs/benchmarks"
    before = {path: path.read_bytes() for path in published.iterdir()}
    words = [sys.executable, str(_ROOT / "scripts/bench/run"), "handoff", "--smoke", "--native"]
    subprocess.run(words, check=True)
    assert {path: path.read_bytes() for path in published.iterdir()} == before
