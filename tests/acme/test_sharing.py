"""Tests of sharing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.doubles import Endpoint, until
from tlsify.acme import sharing
from tlsify.acme.board import Board
from tlsify.acme.sharing import Sharing
from tlsify.renewal.folder import Folder
from tlsify.system.process import fork, status_of

if TYPE_CHECKING:
    from pathlib import Path

_DIGEST = bytes(32)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """An empty one."""
    return Folder(tmp_path / "folder", "the folder").check()


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Have nobody sleep; return for how long each would have."""
    found: list[float] = []
    monkeypatch.setattr(sharing.time, "sleep", found.append)  # type: ignore[attr-defined]
    return found


def test_server_alone(folder: Folder, slept: list[float]) -> None:
    """Its own processes count as none: it gives nobody time to notice."""
    alone = Sharing(folder, Board())
    for joins in (False, True):
        if joins:
            alone.join()
        alone.publish({"a.example": _DIGEST}, {})
        pid = fork()
        if pid == 0:
            alone.publish({"a.example": _DIGEST}, {})
            os._exit(bool(slept))
        assert status_of(pid) == 0
        assert alone.board.tls("a.example") is not None
        alone.clear()
        assert alone.board.tls("a.example") is None
    assert slept == []


def test_server_that_is_not_alone(folder: Folder, slept: list[float]) -> None:
    """It waits, until the other one has ended with its last process."""
    ours = Sharing(folder, Board())
    ours.join()
    read_end, write_end = os.pipe()
    pid = fork()
    if pid == 0:
        os.close(write_end)
        Sharing(folder, Board()).join()
        ours.publish({}, {})
        os.read(read_end, 1)
        os._exit(0)
    until(lambda: ours.watch() is not None)
    for _ in range(2):
        ours.publish({}, {})
    assert slept == [sharing._NOTICE] * 2
    os.close(write_end)
    assert status_of(pid) == 0
    os.close(read_end)
    ours.publish({}, {})
    assert len(slept) == 2


def test_following(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows what the other has pending, as long as that has the folder's lock, and no longer."""
    monkeypatch.setattr(sharing, "_PACE", 0.01)
    ours, theirs = (Sharing(folder, Board()) for _ in range(2))
    with folder.locked():
        following = Endpoint(theirs.follow)
        ours.publish({"a.example": _DIGEST}, {})
        until(lambda: theirs.board.tls("a.example"))
        ours.publish({}, {"token": "x"})
        until(lambda: theirs.board.http("token"))
        assert theirs.board.tls("a.example") is None
        ours.clear()
        until(lambda: theirs.board.http("token") is None)
        ours.publish({}, {"token": "x"})
        until(lambda: theirs.board.http("token"))
    following.result()
    assert theirs.board.http("token") is None


def test_server_that_hangs(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not followed for ever."""
    monkeypatch.setattr(sharing, "_LONGEST", 0.05)
    monkeypatch.setattr(sharing, "_PACE", 0.01)
    theirs = Sharing(folder, Board())
    theirs.publish({}, {"token": "x"})
    with folder.locked():
        theirs.follow()
    assert theirs.board.http("token") is None
