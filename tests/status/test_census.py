"""Tests of census."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import threading
import time
import tracemalloc
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.doubles import check_descriptors, descriptors
from tests.status.test_entries import ENTRY
from tests.strangers import LOT, UID, only_root, opening, stranger
from tlsify.status import census, entries, hearing, roster
from tlsify.status.hearing import Roster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tlsify.status.entries import Address, Entry


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The only place where rosters are; nothing is left open."""
    made = Path(tempfile.mkdtemp(prefix="tlsify-"))
    monkeypatch.setenv(census.VARIABLE, str(made))
    before = descriptors()
    yield made
    shutil.rmtree(made)
    check_descriptors(before)


def _listener(path: Path, backlog: int = 8) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    made.listen(backlog)
    return made


# -- asking


def test_answer(folder: Path) -> None:
    """Who answers is heard, and who does not, or says something else, is counted."""
    answers = [opening(1) + next(entries.lines([ENTRY])).encode(), b"something else"]
    with ExitStack() as stack:
        for number, answer in enumerate(answers):
            listener = stack.enter_context(_listener(folder / f"{number}-a"))

            def answer_one(listener: socket.socket = listener, answer: bytes = answer) -> None:
                with listener.accept()[0] as accepted:
                    accepted.sendall(answer)

            thread = threading.Thread(target=answer_one)
            thread.start()
            stack.callback(thread.join)
        found = census.ask(10)
    assert found == census.Census((Roster(os.getpid(), os.geteuid(), (ENTRY,)),), 1)


def test_who_is_stuck(folder: Path) -> None:
    """Who does not answer in time is counted; others are heard."""
    with _listener(folder / "1-a") as stuck, _listener(folder / "2-b", 0) as full:
        full.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(folder / "2-b"))
            before = time.monotonic()
            assert census.ask(0.05) == census.Census((), 2)
        assert time.monotonic() - before < 30
        assert stuck.fileno() != -1


# -- strangers


def _entry_of(local: Address, peer: Address) -> Entry:
    return ENTRY._replace(local=local, peer=peer)


@only_root
def test_stranger() -> None:
    """Root hears of others' connections, and believes each user about his own."""
    with stranger(None) as (local, peer, _):
        assert census.ask(0.01, lambda: {(local, peer): UID}).silent == 1
    assert ENTRY.local is not None
    assert ENTRY.peer is not None
    answer = opening(1) + next(entries.lines([ENTRY])).encode()
    with stranger(answer):
        (found,) = census.ask(60, lambda: {(ENTRY.local, ENTRY.peer): UID}).rosters  # type: ignore[dict-item]
        assert (found.uid, found.entries) == (UID, (ENTRY,))
        (found,) = census.ask(60, lambda: {(ENTRY.local, ENTRY.peer): 0}).rosters  # type: ignore[dict-item]
        assert (found.uid, found.entries) == (UID, ())


def _rows(line: bytes) -> bytes:
    return opening(LOT // 100) + (line + b"\n") * (LOT // len(line))


_SHORT = ["", 0, "", 0, None, None, "", "", "", True, "relay", None, "", None, 0, *[None] * 4]
# Made when they are wanted: each is of 60 MB.
_BURDENS: dict[str, Callable[[], bytes]] = {
    "lists": lambda: b"[" + b"[]," * (LOT // 3),
    "lists behind a head": lambda: opening(1) + b"[" + b"[]," * (LOT // 3),
    "empty lines": lambda: opening(0) + b"[]\n" * (LOT // 3),
    "depth": lambda: opening(1) + b"[" * LOT,
    "blanks": lambda: b" " * LOT,
    "one line": lambda: opening(1) + b'["' + b"x" * LOT,
    "rows of nothing": lambda: _rows(json.dumps([_SHORT] * 1000).encode()),
    "sound rows": lambda: _rows(next(entries.lines([ENTRY] * 256)).encode()),
}


@only_root
@pytest.mark.parametrize("burden", _BURDENS)
def test_burden(burden: str) -> None:
    """Whatever a stranger says, and however much, root reads a little of it, which is said."""
    with stranger(_BURDENS[burden]()) as (_, _, told):
        census.ask(60)
        tracemalloc.start()
        found = census.ask(60)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found.silent + len(found.cut) == 1
        assert not [entry for each in found.rosters for entry in each.entries]
        told.readline()
        assert int(told.readline()) < 2**20  # what waits in between is the kernel's
        assert peak < 4 * 2**20


@only_root
def test_burden_of_many_processes() -> None:
    """It grows with a stranger's processes by little; and there is an end to how many are asked."""
    with stranger(_BURDENS["lists"](), census._MOST_OF_OTHERS + 1):
        tracemalloc.start()
        found = census.ask(1)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found.cut == {UID}
        assert 0 < found.silent <= census._MOST_OF_OTHERS
        assert peak < 4 * 2**20


@only_root
def test_own_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of a stranger's is heard before everything of our own is."""
    heard: list[set[int]] = []

    def hear(asked: dict[socket.socket, int], *rest: Any) -> Any:
        heard.append(set(asked.values()))
        return hearing.hear(asked, *rest)

    with roster.publish(), stranger(b"") as _:
        there = Path(os.environ[census.VARIABLE])
        monkeypatch.setattr(census, "hear", hear)
        monkeypatch.setattr(census, "places", lambda: [folder])
        monkeypatch.setattr(census, "_others", lambda: [there])
        assert [each.pid for each in census.ask(60).rosters] == [os.getpid()]
    assert heard == [{os.geteuid()}, {UID}]


# -- places


def test_dead(folder: Path) -> None:
    """The socket of a dead process is removed; one that is only about to listen is not."""
    for name in ("1-a", ".2-b", ".3-c"):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(folder / name))
    os.utime(folder / ".3-c", (0, 0))
    assert census.ask() == census.Census((), 0)
    assert [path.name for path in folder.iterdir()] == [".2-b"]


def test_what_is_no_socket(folder: Path, tmp_path: Path) -> None:
    """Files, folders and links are left alone, whatever a link leads to."""
    elsewhere = Path(tempfile.mkdtemp(prefix="tlsify-")) / "sock"
    with _listener(elsewhere):
        (folder / "file").touch()
        (folder / "folder").mkdir()
        (folder / "link").symlink_to(elsewhere)
        (folder / "loose").symlink_to(tmp_path / "nothing")
        assert census.ask() == census.Census((), 0)
    assert len(list(folder.iterdir())) == 4
    shutil.rmtree(elsewhere.parent)


def test_folder_that_others_may_enter(folder: Path) -> None:
    """Nobody is asked in a folder that is not private."""
    with _listener(folder / "1-a"):
        folder.chmod(0o750)
        assert census.ask() == census.Census((), 0)
        folder.chmod(0o700)


def test_folder_that_is_a_link(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor in one that somebody has put a link in place of."""
    link = folder.with_name(f"{folder.name}-link")
    link.symlink_to(folder)
    monkeypatch.setenv(census.VARIABLE, str(link))
    with _listener(folder / "1-a"):
        assert census.ask() == census.Census((), 0)
    link.unlink()


def test_socket_of_somebody_else(folder: Path) -> None:
    """A user's folder leads root to that user's sockets only."""
    with _listener(folder / "1-a"), census.opened(folder) as (number, owner):
        assert census.reach(number, "1-a", owner + 1) is None
        found = census.reach(number, "1-a", owner)
        assert found is not None
        found.close()


def test_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where to publish depends on who one is; root looks into everybody's."""
    monkeypatch.delenv(census.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    monkeypatch.setattr(os, "geteuid", lambda: 7)
    system, shared = Path("/run/tlsify/roster"), Path("/tmp/tlsify-7/roster")
    assert census.places() == [system, Path("/run/user/7/tlsify/roster"), shared]
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert census.places() == [system, Path("/run/user/7/tlsify/roster"), shared]
    monkeypatch.setenv("XDG_RUNTIME_DIR", "relative")
    assert census.places() == [system, shared]
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert census.places() == [system, Path("/tmp/tlsify-0/roster")]
    monkeypatch.setenv(census.VARIABLE, "/some/where")
    assert census.places() == census._others() == [Path("/some/where")]
    monkeypatch.setenv(census.VARIABLE, "off")
    assert census.places() == census._others() == []


@pytest.fixture
def everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host's folders, looked at by root; all is ours, who are taken for users 7 and 8."""
    monkeypatch.delenv(census.VARIABLE, raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for name in ("_SYSTEM", "_USERS", "_SHARED"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(census, name, tmp_path / name)
    return tmp_path


def _shared_by(monkeypatch: pytest.MonkeyPatch, *found: tuple[int, int]) -> None:
    monkeypatch.setattr(census, "_shared", lambda: iter(found))


def test_root_looks_everywhere(everywhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root finds the folders of users, those of the system and of people before those of others."""
    (everywhere / "_USERS/7").mkdir()
    (everywhere / "_USERS/x").mkdir()
    _shared_by(monkeypatch, (8, 8), (1, 9), (0, 0), (100_000, 100_000))
    places = [
        (everywhere / f"_USERS/{uid}/tlsify/roster", everywhere / f"_SHARED/tlsify-{uid}/roster")
        for uid in (7, 8, 100_000)
    ]
    system = everywhere / "_SYSTEM/roster"
    assert census._others() == [system, *(place for both in places for place in both)]
    monkeypatch.setattr(os, "geteuid", lambda: 7)
    assert census._others() == []


def test_shared_folder(everywhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where everybody may make folders, those with a number are looked at, whosever they are."""
    for name in ("tlsify-5", "tlsify-x", "tlsify-٣", "other-5", "tlsify-"):
        (everywhere / "_SHARED" / name).mkdir()
    assert list(census._shared()) == [(os.getuid(), 5)]
    for number in range(20):
        (everywhere / "_SHARED" / f"a{number}").touch()
    monkeypatch.setattr(census, "_MOST_NAMES", 3)
    init = Path("/proc/1").stat().st_uid  # a process that stays, unlike most
    assert {(uid, uid) for uid in (init, os.getuid())} <= set(census._shared())


@only_root
def test_many_places(everywhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more users than can be asked the last ones are left out, which is said."""
    monkeypatch.setattr(census, "_MOST_PLACES", 2)
    _shared_by(monkeypatch, *((uid, uid) for uid in (11, 12, 13)))
    for uid in (11, 12, 13):
        place = everywhere / f"_SHARED/tlsify-{uid}/roster"
        place.mkdir(0o700, parents=True)
        os.chown(place, uid, uid)
    assert census.ask() == census.Census((), 0, 0, frozenset({13}))


def test_link_in_the_way(everywhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that somebody has put a link in the place of leads nowhere."""
    (everywhere / "elsewhere/roster").mkdir(0o700, parents=True)
    (everywhere / "_SHARED/tlsify-9").symlink_to(everywhere / "elsewhere")
    with pytest.raises(NotADirectoryError), census.opened(everywhere / "_SHARED/tlsify-9/roster"):
        pass
    monkeypatch.setenv(census.VARIABLE, str(everywhere / "_SHARED/tlsify-9/roster"))
    with census.opened(everywhere / "_SHARED/tlsify-9/roster"):
        pass  # whoever names it is to be trusted


@only_root
def test_user_of_a_service(everywhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Systemd makes the system's place for a service's user, by way of a link: root finds him."""
    _shared_by(monkeypatch)
    (everywhere / "_SYSTEM").rmdir()
    (everywhere / "private/roster").mkdir(0o700, parents=True)
    (everywhere / "_SYSTEM").symlink_to(everywhere / "private")
    with _listener(everywhere / "private/roster/1-a"):
        for path in (everywhere / "private/roster", everywhere / "private/roster/1-a"):
            os.chown(path, 7, 7)
        assert census.ask(0.01).silent == 1, "it was asked"
        with census.opened(everywhere / "_SYSTEM/roster") as (_, owner):
            assert owner == 7


def test_closed_places(everywhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Users are told that there are others' connections; root sees them."""
    monkeypatch.setattr(os, "geteuid", lambda: 7)
    _shared_by(monkeypatch, (7, 7))
    (everywhere / "_SYSTEM").rmdir()
    assert not census._is_closed()
    _shared_by(monkeypatch, (7, 7), (8, 8))
    assert census._is_closed()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert not census._is_closed()
