"""Tests of last_callback: what runs behind atexit's other callbacks."""

from __future__ import annotations

import subprocess
import sys

import pytest

_PROGRAM = """
import atexit, threading
def early():
    from tlsify.system import last_callback
    print("early", last_callback.has_passed, flush=True)
atexit.register(early)
{imports}
def late():
    from tlsify.system.last_callback import at_exit
    at_exit(lambda: print("last", flush=True))
    print("late", flush=True)
atexit.register(late)
"""


@pytest.mark.parametrize(
    ("imports", "said"),
    [("import tlsify", "late last early True"), ("", "late early True")],
    ids=["in time", "too late"],
)
def test_order(imports: str, said: str) -> None:
    """It comes after all callbacks that were registered once tlsify was there, or never."""
    words = [sys.executable, "-c", _PROGRAM.format(imports=imports)]
    done = subprocess.run(words, timeout=60, check=True, stdout=subprocess.PIPE, text=True)
    assert done.stdout.split() == said.split()
