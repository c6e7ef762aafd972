"""Tests of census."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.doubles import check_descriptors, descriptors
from tlsify import census
from tlsify.handoff import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

_TEXTS = st.text(max_size=20)
_PAIRS = st.none() | st.tuples(st.integers(0, 2**64), st.integers(0, 2**64))
_ADDRESSES = st.none() | st.tuples(_TEXTS, st.integers(0, 65535))
ENTRIES = st.builds(
    census.Entry,
    local=_ADDRESSES,
    peer=_ADDRESSES,
    server_name=st.none() | _TEXTS,
    alpn=st.none() | _TEXTS,
    version=_TEXTS,
    suite=_TEXTS,
    group=_TEXTS,
    resumed=st.booleans(),
    offload=_TEXTS,
    reason=st.none() | st.builds(Reason, _TEXTS, _TEXTS, st.none() | _TEXTS),
    age=st.floats(0, 1e9),
    rekeys=_PAIRS,
    records=_PAIRS,
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXTS, inner, max_size=4),
    max_leaves=8,
)
ENTRY = census.Entry(
    local=("192.0.2.1", 443),
    peer=("192.0.2.7", 50000),
    server_name="example.org",
    alpn="h2",
    version="TLSv1.3",
    suite="TLS_AES_128_GCM_SHA256",
    group="X25519",
    resumed=True,
    offload="relay",
    reason=Reason("no-tls-ulp", "no ULP", None),
    age=1.5,
    rekeys=None,
    records=None,
)
HEAD = {"roster": census.FORMAT, "network": 5, "connections": 1, "fields": [*census.FIELDS]}


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


def _answering(path: Path, answer: bytes) -> census.Census:
    """Ask a process that says this."""
    with _listener(path) as listener:
        asking = census._reach_all

        def reach_all(stack: object) -> object:
            found = asking(stack)  # type: ignore[arg-type]
            with listener.accept()[0] as accepted:
                accepted.sendall(answer)
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(census, "_reach_all", reach_all)
            return census.ask(10)


# -- rows


@given(st.lists(ENTRIES, max_size=5))
def test_there_and_back(entries: list[census.Entry]) -> None:
    """Whatever is known of connections arrives as it is."""
    line = json.dumps([census.row(entry) for entry in entries])
    assert "\n" not in line
    assert census.read_rows(line) == entries


@given(_JSON)
def test_any_json(value: object) -> None:
    """What is no list of rows is refused, and nothing else goes wrong."""
    text = json.dumps(value)
    if value == []:
        assert census.read_rows(text) == []
    else:
        with pytest.raises(ValueError, match=r"."):
            census.read_rows(text)


@given(st.binary(max_size=200))
def test_any_bytes(line: bytes) -> None:
    """Nor does any text."""
    with suppress(ValueError):
        census.read_rows(line)


@given(ENTRIES, st.integers(0, len(census.FIELDS) - 1), _JSON)
def test_any_field(entry: census.Entry, at: int, value: object) -> None:
    """A field of another type makes a row none."""
    row = census.row(entry)
    row[at] = value
    try:
        census.read_rows(json.dumps([row]))
    except ValueError:
        return
    assert type(value) in list(census.FIELDS.values())[at]


@pytest.mark.parametrize("text", ["[" * 100_000, "[[" + "1" * 5000 + "]]", "[NaN]", "", "\xff"])
def test_odd_text(text: str) -> None:
    """Neither depth nor length does harm."""
    with pytest.raises(ValueError, match=r"."):
        census.read_rows(text)


# -- answers


def test_answer(folder: Path) -> None:
    """Who answers is known by the kernel, what he says by his word."""
    text = f"{json.dumps(HEAD)}\n{json.dumps([census.row(ENTRY)])}\n[]".encode()
    (found,) = _answering(folder / "1-a", text).rosters
    assert found == census.Roster(os.getpid(), os.getuid(), 5, (ENTRY,))


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\n",
        b"\xff",
        b"[]",
        b"{}",
        json.dumps(HEAD | {"roster": 2, "connections": 0}).encode(),
        json.dumps(HEAD).encode(),
        json.dumps(HEAD | {"connections": 0, "network": None}).encode(),
        json.dumps(HEAD | {"connections": 0, "fields": ["local"]}).encode(),
        json.dumps(HEAD).encode() + b"\n[[]]",
        b"[" * 100_000,
    ],
)
def test_odd_answer(folder: Path, answer: bytes) -> None:
    """Whatever else somebody says is counted, and not believed."""
    assert _answering(folder / "1-a", answer) == census.Census((), 1)


def test_endless_answer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes more room than any roster is given up."""
    monkeypatch.setattr(census, "_MOST_BYTES", 1000)
    monkeypatch.setattr(census, "_CHUNK", 100)
    assert _answering(folder / "1-a", json.dumps([census.row(ENTRY)] * 100).encode()).silent == 1


def test_who_is_stuck(folder: Path) -> None:
    """Who does not answer in time is counted; others are heard."""
    with _listener(folder / "1-a") as stuck, _listener(folder / "2-b", 0) as full:
        full.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(folder / "2-b"))
            before = time.monotonic()
            assert census.ask(0.05) == census.Census((), 2)
        assert time.monotonic() - before < 5
        assert stuck.fileno() != -1


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
    system, shared = Path("/run/tlsify/roster"), Path("/tmp/tlsify-7/roster")  # noqa: S108
    assert census.places() == [system, Path("/run/user/7/tlsify/roster"), shared]
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert census.places() == [system, Path("/run/user/7/tlsify/roster"), shared]
    monkeypatch.setenv("XDG_RUNTIME_DIR", "relative")
    assert census.places() == [system, shared]
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert census.places() == [system, Path("/tmp/tlsify-0/roster")]  # noqa: S108
    monkeypatch.setenv(census.VARIABLE, "/some/where")
    assert census.places() == census._all_places() == [Path("/some/where")]
    monkeypatch.setenv(census.VARIABLE, "off")
    assert census.places() == census._all_places() == []


def test_root_looks_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root finds the folders of users."""
    monkeypatch.delenv(census.VARIABLE, raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for name in ("_SYSTEM", "_USERS", "_SHARED"):
        monkeypatch.setattr(census, name, tmp_path / name)
    theirs = [tmp_path / "_USERS/7/tlsify/roster", tmp_path / "_SHARED/tlsify-8/roster"]
    for each in theirs:
        each.mkdir(parents=True)
    assert census._all_places()[2:] == theirs
