"""Servers that are wrapped in guests: fetched, and one of them compiled, for guests to see."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "vm"))

from lane import cache
from lane.peers import GO, SERVERS

# The folders, each with its programs in a folder of that name: tests/provision.py looks there.
VARIABLE = "TLSIFY_SERVERS"
_SOURCE = ROOT / "tests/wrap/servers/server.go"


def provide() -> None:
    """Have stages that begin from now on find the servers.

    Raises:
        LaneError: they cannot be had on this machine.
    """
    compiler = GO.tree
    key = cache.digest("go-server 1", cache.file_digest(_SOURCE), compiler.name)
    compiled = cache.build("go-server", key, "compiling a server in Go", _compile)
    os.environ[VARIABLE] = f"{SERVERS.tree}{os.pathsep}{compiled}"


def mounts() -> list[str]:
    """Return the options of vm/run by which a guest sees them."""
    folders = os.environ.get(VARIABLE, "").split(os.pathsep)
    return [f"--mount={folder}" for folder in folders if folder]


def _compile(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as home:
        subprocess.run(
            [GO.program("go"), "build", "-trimpath", "-o", folder / "programs/go-server", _SOURCE],
            env={"HOME": home, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "PATH": os.defpath},
            cwd=home,
            check=True,
        )
