"""Tests of folder."""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING

import pytest

from tests.doubles import Endpoint
from tlsify.errors import ConfigError
from tlsify.renewal.folder import MAX_FILE, Folder
from tlsify.system.process import fork, status_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A folder that is not there yet."""
    return Folder(tmp_path / "folder", "the folder").check()


def names(folder: Folder) -> set[str]:
    """Return what is in it."""
    return {path.name for path in folder.path.iterdir()}


def test_files(folder: Folder) -> None:
    """They are private whatever the umask is, replaced as a whole, and removed once."""
    before = os.umask(0)
    try:
        for content in (b"one", b"another"):
            folder.write("name", content)
            assert folder.read("name") == content
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in (folder.path, folder.path / "name")] == [
        0o700,
        0o600,
    ]
    assert names(folder) == {"name"}
    for _ in range(2):
        folder.remove("name")
    assert folder.read("name") is None
    folder.write("long", bytes(MAX_FILE + 1))
    assert folder.read("long") is None


def test_folder_that_is_not_made(tmp_path: Path) -> None:
    """Where it is only looked at, it may be missing; it may not be another kind of thing."""
    folder = Folder(tmp_path / "folder", "the folder").check(make=False)
    assert not folder.path.exists()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "link"):
        with pytest.raises(ConfigError, match="ENOTDIR"):
            Folder(tmp_path / name, "the folder").check(make=False)


def test_place_that_cannot_be_private(tmp_path: Path) -> None:
    """Neither a folder that others may read is used, nor a link, nor what is none."""
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "link").symlink_to("open")
    (tmp_path / "file").touch()
    for name, why in {
        "open": "not private",
        "link": "ENOTDIR",
        "file": "ENOTDIR",
        "none/folder": "ENOENT",
    }.items():
        with pytest.raises(ConfigError, match=why):
            Folder(tmp_path / name, "the folder").check()


def _within(limit: int, folder: Folder, name: str) -> int:
    """Write in a process that may write so much; return the errno."""
    pid = fork()
    if pid == 0:
        number = 0
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            if name:
                folder.write(name, bytes(5000))
            else:
                with folder.reserved():
                    pass
        except OSError as exc:
            number = exc.errno or 255
        finally:
            os._exit(number)
    return status_of(pid)


def test_no_room(folder: Folder) -> None:
    """The file in its place is as it was, and none is left behind; a reservation shows it first."""
    folder.write("name", b"before")
    assert _within(4096, folder, "name") == 27  # EFBIG: the limit's own ENOSPC
    assert folder.read("name") == b"before"
    assert _within(4096, folder, "") == 27
    assert names(folder) == {"name"}
    assert _within(2**20, folder, "") == 0
    assert names(folder) == {"name"}


def test_one_at_a_time(folder: Folder) -> None:
    """Another process, or another object here, finds the lock taken, until it is given back."""
    other = Folder(folder.path, "the folder")
    with folder.locked() as ours, other.locked() as theirs:
        assert (ours, theirs) == (True, False)
        pid = fork()
        if pid == 0:
            with other.locked() as forked:
                os._exit(int(forked))
        assert status_of(pid) == 0
    with other.locked() as theirs:
        assert theirs


def test_lock_of_a_killed_process(folder: Folder) -> None:
    """It ends with the process."""
    read_end, write_end = os.pipe()
    pid = fork()
    if pid == 0:
        with folder.locked():
            os.write(write_end, b"x")
            os.kill(os.getpid(), 9)
    os.close(write_end)
    assert Endpoint(lambda: os.read(read_end, 1)).result() == b"x"
    assert status_of(pid) == 128 + 9
    os.close(read_end)
    with folder.locked() as ours:
        assert ours
