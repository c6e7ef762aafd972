"""Tests of warm_up."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# What is imported from the second handshake on, and for a connection to a backend.
_PROGRAM = """
import socket, sys
from tlsify.serving.warm_up import rehearse
rehearse()
before = set(sys.modules)
rehearse()
socket.getaddrinfo("127.0.0.1", 1)
print(*set(sys.modules) - before)
print("tlsify.tls.conclusion" in before)
"""


def test_nothing_is_left_to_load() -> None:
    """A second handshake finds everything there, as does a connection to a backend."""
    out = subprocess.run(
        [sys.executable, "-c", _PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert out == "\nTrue\n"


# How many pieces of memory malloc takes from the kernel for one that is as large as a relay's.
_MEMORY = """
import ctypes
from tlsify.serving.warm_up import rehearse

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "a b c hblks e f g h i j".split()]

rehearse()
ask = ctypes.CDLL(None).mallinfo2
ask.restype = Info
before = ask().hblks
piece = bytes(2**19)
print(ask().hblks - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="no glibc, or an old one")
def test_memory_is_kept() -> None:
    """Pieces of the size of what relays move are malloc's own, and not fetched each time."""
    words = [sys.executable, "-c", _MEMORY]
    out = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert out == "0\n"
