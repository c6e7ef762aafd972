"""Tests of libc."""

from __future__ import annotations

import errno
import os

import pytest

from tlsify.system import libc


def test_result() -> None:
    """What the function gives is given."""
    assert libc.call("getpid") == os.getpid()


def test_failure() -> None:
    """Minus one is an error, which names the function and the reason."""
    with pytest.raises(OSError, match="'close'") as caught:
        libc.call("close", -1)
    assert caught.value.errno == errno.EBADF
