"""Tests of the systemd units in share/tlsify."""

from __future__ import annotations

import configparser
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.cli.harness import run
from tests.interop.programs import require

UNITS = Path(__file__).parents[2] / "share/tlsify"
PARTS = sorted(UNITS.glob("*@.*"))


@pytest.mark.parametrize("path", PARTS, ids=[path.suffix for path in PARTS])
def test_systemd_understands_the_unit(path: Path, tmp_path: Path) -> None:
    """It has no complaint about any line."""
    require("systemd-analyze")
    for each in PARTS:
        (tmp_path / each.name).write_text(each.read_text())
    said = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / path.name.replace("@", "@www"))],
        capture_output=True,
        text=True,
        check=False,
    )
    about = [
        line for line in said.stderr.splitlines() if str(tmp_path) in line or "tlsify@" in line
    ]
    assert not about


def test_the_service_runs_a_file(tmp_path: Path) -> None:
    """ExecStart is the command as it stands, with the instance's file."""
    unit = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNITS / "tlsify@.service")
    file = tmp_path / "www.toml"
    words = shlex.split(unit["Service"]["ExecStart"].replace("/etc/tlsify/%i.toml", str(file)))
    assert words[:2] == ["/usr/bin/env", "tlsify"]
    run(*words[2:]).failed(96, f"cannot read configuration {file}")
    file.write_text('verb = "serve"\noperands = ["/nowhere"]\n')
    run(*words[2:]).failed(96, "cannot serve /nowhere")
