"""Tests of warm_up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# What is imported from the second handshake on.
_PROGRAM = """
import sys
from tlsify.serving.warm_up import rehearse
rehearse()
before = set(sys.modules)
rehearse()
print(*set(sys.modules) - before)
print("service_identity" in before)
"""


def test_nothing_is_left_to_load() -> None:
    """A second handshake finds everything there."""
    out = subprocess.run(
        [sys.executable, "-c", _PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert out == "\nTrue\n"
