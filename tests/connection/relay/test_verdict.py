"""Tests of verdict: entries that processes share."""

from __future__ import annotations

import pytest

from tests.want import Want
from tlsify.connection.relay.verdict import Verdict


def test_no_memory_for_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is none then, and nothing of one that could be left to others."""
    monkeypatch.setattr(Verdict, "_free", [])
    with Want("mmap", 1), pytest.raises(OSError, match="memory"):
        Verdict()
    assert not Verdict._free
    assert not Verdict().in_order


def test_verdicts_are_not_taken_for_others() -> None:
    """An entry that is used again says nothing to who asks for the one before."""
    verdict = Verdict()
    assert verdict.failure() is None
    verdict.give(None)
    before = verdict._page, verdict._at, verdict._generation
    stale = object.__new__(Verdict)
    stale._page, stale._at, stale._generation = before
    assert stale.failure() is None
    del verdict
    again = Verdict()
    assert (again._page, again._at) == before[:2]
    assert isinstance(stale.failure(), ConnectionResetError)
    before_and_after = [again.in_order]
    again.end_in_order()
    assert [*before_and_after, again.in_order] == [False, True]
    assert not stale.in_order


def test_many_verdicts() -> None:
    """More than a page has."""
    made = [Verdict() for _ in range(3000)]
    assert len({(id(each._page), each._at) for each in made}) == 3000
    assert all(each.is_ours for each in made)
