"""Tests of changes: a value counts as changed once it stays so."""

from __future__ import annotations

from tlsify.serving.changes import Changes


def test_change_that_settles() -> None:
    """A certificate and its key are replaced one after the other: both are waited for."""
    changes = Changes("old")
    assert [changes.look(each) for each in ("old", "half", "new", "new")] == [False] * 3 + [True]
    changes.accept("new")
    assert not changes.look("new")


def test_pause() -> None:
    """The next look is sooner while something changes."""
    changes = Changes("old")
    usual = changes.pause
    changes.look("new")
    assert changes.pause < usual
    changes.look("new")
    assert changes.pause == usual


def test_change_that_is_taken_back() -> None:
    """It is none."""
    changes = Changes("old")
    assert [changes.look(each) for each in ("new", "old", "old")] == [False] * 3


def test_change_that_does_not_settle() -> None:
    """Where something changes all the time, the rest need not wait for that."""
    changes = Changes(0)
    looks = next(number for number in range(1, 100) if changes.look(number))
    assert looks > 10
    changes.accept(looks)
    assert not changes.look(looks + 1)
