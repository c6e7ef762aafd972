"""Certificates in files, and an agent for tests that do it no harm."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

from tests.agent.harness import PATIENCE, Agent, Files
from tests.doubles import check_descriptors, descriptors
from tlsify.agent import awaiting

if TYPE_CHECKING:
    from collections.abc import Iterator

    import trustme

    from tlsify.credentials.key_pair import KeyPair


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine an agent takes a session late, and is no worse for it."""
    monkeypatch.setattr(awaiting, "PATIENCE", PATIENCE)
    monkeypatch.setattr(awaiting, "_STALLED", PATIENCE)


@pytest.fixture(scope="session")
def files(
    authority: trustme.CA, key_pair: KeyPair, tmp_path_factory: pytest.TempPathFactory
) -> Files:
    """Certificates and keys."""
    return Files.save(tmp_path_factory.mktemp("agent"), authority, key_pair)


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
