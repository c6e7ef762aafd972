"""Tests of children."""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING

import pytest

from tests.cli.forked import Forked
from tlsify.errors import ConfigError
from tlsify.system.children import be_child

if TYPE_CHECKING:
    from collections.abc import Callable


def _refuse() -> None:
    raise ConfigError("it is refused", hint="allow it")


def _lack() -> None:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


@pytest.mark.parametrize(
    ("work", "status", "said"),
    [
        pytest.param(lambda: None, 0, "", id="it returns"),
        pytest.param(_refuse, 1, "a child failed: it is refused\n", id="it is refused"),
        pytest.param(_lack, 1, "a child failed: EMFILE: Too many open files\n", id="want"),
        pytest.param(lambda: sys.exit(0), 1, "", id="it leaves"),
    ],
)
def test_child_never_returns_to_its_parents_code(
    work: Callable[[], object], status: int, said: str
) -> None:
    """Its status says whether its work is done; what is lacking is one line in the log."""
    with Forked(command=lambda _: be_child(work, "a child")) as child:
        assert child.end() == status
        assert child.said() == said


def test_bug() -> None:
    """It is reported with a traceback."""
    with Forked(command=lambda _: be_child(lambda: 1 / 0, "a child")) as child:
        with pytest.raises(AssertionError, match="ZeroDivisionError"):
            child.end()
        assert child.said().startswith("a child failed\nTraceback")
