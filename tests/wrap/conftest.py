"""The certificates of the command's tests; and what a supervisor's process is, tests' are not."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import pytest

from tests.cli.conftest import pki

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["pki"]

_PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture(autouse=True)
def _no_reaper() -> Iterator[None]:
    """Adopt nobody's orphans afterwards: who waits for their end would wait for ever."""
    yield
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
