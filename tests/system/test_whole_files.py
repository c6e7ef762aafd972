"""Tests of reading files whole, and of listing folders."""

from __future__ import annotations

import errno
import os
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from tlsify.system import whole_files
from tlsify.system.whole_files import names, read

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MOST = 2**10
CONTENT = b"x" * MOST  # as much as there may be


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(MOST + 1)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


# What is in the file's place, and the error where no pipe is waited for, and where one is.
UNFIT: dict[str, tuple[Callable[[Path], object], int, int]] = {
    "one byte more": (lambda path: path.write_bytes(CONTENT + b"x"), errno.EFBIG, errno.EFBIG),
    "a hole": (_sparse, errno.EFBIG, errno.EFBIG),
    "no size": (lambda path: path.symlink_to("/proc/self/maps"), errno.EFBIG, errno.EFBIG),
    "a folder": (lambda path: path.mkdir(), errno.EISDIR, errno.EISDIR),
    "nothing": (lambda _: None, errno.ENOENT, errno.ENOENT),
    "a socket": (_socket, errno.ENXIO, errno.ENXIO),
    "a pipe without a writer": (os.mkfifo, errno.EINVAL, errno.ETIMEDOUT),
    "an endless device": (lambda path: path.symlink_to("/dev/zero"), errno.EINVAL, errno.EFBIG),
}


@pytest.mark.parametrize("name", UNFIT)
def test_unfit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Whatever is in a file's place: an error, at once, and no more bytes than there may be."""
    make, *expected = UNFIT[name]
    monkeypatch.setattr(whole_files, "_PATIENCE", 0.0 if "pipe" in name else 60.0)
    path = tmp_path / "it"
    make(path)
    for waits, number in zip((False, True), expected, strict=True):
        with pytest.raises(OSError, match=r".") as caught:
            read(path, MOST, waits=waits)
        assert caught.value.errno == number


def test_file_within_its_bound(tmp_path: Path) -> None:
    """A file may have all of its bytes; a link leads to it."""
    (tmp_path / "file").write_bytes(CONTENT)
    (tmp_path / "link").symlink_to("file")
    assert read(tmp_path / "link", MOST) == CONTENT
    assert read("/proc/sys/kernel/ostype", MOST) == b"Linux\n", "a file without a size"
    assert read("/dev/null", MOST, waits=True) == b""


@pytest.mark.parametrize("more", [b"", b"x"])
def test_pipe(tmp_path: Path, more: bytes) -> None:
    """What is written into a pipe is read, whoever opens it first, and no more than may be."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=[CONTENT + more])
    writer.start()
    if more:
        with pytest.raises(OSError, match="more than 1 KiB"):
            read(path, MOST, waits=True)
    else:
        assert read(path, MOST, waits=True) == CONTENT
    writer.join()


def test_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder's names are sorted, and only so many."""
    monkeypatch.setattr(whole_files, "MOST_NAMES", 3)
    for name in "cab":
        (tmp_path / name).touch()
    assert names(tmp_path) == ["a", "b", "c"]
    (tmp_path / "d").touch()
    with pytest.raises(OSError, match="more than 3 names") as caught:
        names(tmp_path)
    assert caught.value.errno == errno.EFBIG
