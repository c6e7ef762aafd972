"""An agent for tests that do it no harm."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

from tests.agent.harness import PATIENCE, Agent
from tests.doubles import check_descriptors, descriptors
from tlsify.agent import awaiting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.agent.harness import Files


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine an agent takes a session late, and is no worse for it."""
    monkeypatch.setattr(awaiting, "PATIENCE", PATIENCE)
    monkeypatch.setattr(awaiting, "_STALLED", PATIENCE)


@pytest.fixture(scope="module")
def running(files: Files) -> Iterator[Agent]:
    """An agent that meets all kinds of requests, and ends well all the same."""
    words = ("--cert", str(files.certificate), "--key", files.key)
    with Agent(*words, workers=2) as it:
        yield it
        it.at_rest()
        assert it.stop() == (0, "")


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Leave this process's descriptors as they were."""
    before = descriptors()
    yield
    gc.collect()
    check_descriptors(before)
