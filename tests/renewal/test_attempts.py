"""Tests of attempts."""

from __future__ import annotations

import itertools
import random
import time
from typing import TYPE_CHECKING

import pytest

from tlsify.renewal.attempts import PAUSES, SHORTEST, Attempts
from tlsify.renewal.folder import Folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_NAME = ".name.json"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """An empty one."""
    return Folder(tmp_path / "folder", "the folder").check()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that goes as far as it is told, and back."""
    now = [1e9]

    def go(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(time, "time", lambda: now[0])
    monkeypatch.setattr(random, "random", lambda: 0.0)
    return go


def read(folder: Folder) -> Attempts:
    """Read it as another process would."""
    return Attempts.read(folder, _NAME)


def test_pauses(folder: Folder, clock: Callable[[float], None]) -> None:
    """Each failure makes the next pause longer, up to a day; they outlive the process."""
    assert read(folder).left() == 0
    for pause in itertools.chain(PAUSES, PAUSES[-1:]):
        found = read(folder)
        found.begin(folder, _NAME)
        assert read(folder).left() == pause
        found.fail(folder, _NAME, "why")
        assert (read(folder).why, read(folder).left()) == ("why", pause)
        clock(pause - 1)
        assert read(folder).left() == 1
        clock(1)
        assert read(folder).left() == 0


def test_interruption(folder: Folder, clock: Callable[[float], None]) -> None:
    """An attempt that has no end counts as one that failed."""
    clock(0)
    read(folder).begin(folder, _NAME)
    assert read(folder).failures == 1
    assert "interrupted" in read(folder).why


def test_insistence(
    folder: Folder, clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who insists waits some seconds only, since the last attempt."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    for _ in range(3):
        read(folder).begin(folder, _NAME)
    assert (read(folder).turn(insisting=False), slept) == (PAUSES[2], [])
    assert (read(folder).turn(insisting=True), slept) == (0, [SHORTEST])
    clock(SHORTEST)
    assert (read(folder).turn(insisting=True), slept) == (0, [SHORTEST, 0])


def test_wish_of_the_authority(folder: Folder, clock: Callable[[float], None]) -> None:
    """It may ask for more time, and not for more than the longest pause."""
    clock(0)
    found = read(folder)
    found.begin(folder, _NAME)
    for wish, pause in ((1, PAUSES[0]), (700, 700), (1e12, PAUSES[-1])):
        found.fail(folder, _NAME, "why", wish)
        assert read(folder).left() == pause


def test_clock_that_is_set(folder: Folder, clock: Callable[[float], None]) -> None:
    """Back: a pause ends all the same, and at once if it was far. Ahead: it is over."""
    read(folder).begin(folder, _NAME)
    clock(-PAUSES[0] / 2)
    assert read(folder).left() == PAUSES[0]
    clock(PAUSES[0])
    assert read(folder).left() == PAUSES[0] / 2
    clock(-1e8)
    assert read(folder).left() == 0
    clock(2e8)
    assert read(folder).left() == 0


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"garbage", b"[]", b"{}", b"[" * 10**5, b"\xff"),
        b'{"failures": 1, "tried": 1, "pause": 1e9, "why": ""}',
        b'{"failures": 1, "tried": 1, "pause": NaN, "why": ""}',
        b'{"failures": "x", "tried": 1, "pause": 1, "why": ""}',
        b'{"failures": 1e999, "tried": 1, "pause": 1, "why": ""}',
    ],
)
def test_file_of_no_use(folder: Folder, content: bytes) -> None:
    """It says nothing."""
    folder.write(_NAME, content)
    assert read(folder) == Attempts()
