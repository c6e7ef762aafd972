"""Tests of plain_files."""

from __future__ import annotations

import gzip
import io
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tlsify.system.plain_files import descriptor

if TYPE_CHECKING:
    from collections.abc import Callable


def _made(path: Path, content: bytes = b"data") -> Path:
    path.write_bytes(content)
    return path


def _pipe() -> io.BufferedReader:
    reader, writer = os.pipe()
    os.close(writer)
    return os.fdopen(reader, "rb")


class _Shifted(io.FileIO):
    """A file that reads other bytes than its descriptor has."""


FILES: dict[str, tuple[bool, Callable[[Path], io.IOBase]]] = {
    "buffered": (True, lambda path: _made(path).open("rb")),
    "raw": (True, lambda path: _made(path).open("rb", buffering=0)),
    "both ways": (True, lambda path: _made(path).open("r+b")),
    "empty": (False, lambda path: _made(path, b"").open("rb")),
    "only to write": (False, lambda path: path.open("wb")),
    "raw, only to write": (False, lambda path: _made(path).open("ab", buffering=0)),
    "text": (False, lambda path: _made(path).open()),
    "in memory": (False, lambda _: io.BytesIO(b"data")),
    "gzip": (False, lambda path: gzip.open(_made(path, gzip.compress(b"data")))),
    "buffered gzip": (
        False,
        lambda path: io.BufferedReader(gzip.open(_made(path, gzip.compress(b"data")))),
    ),
    "a subclass": (False, lambda path: _Shifted(_made(path))),
    "proc": (False, lambda _: Path("/proc/self/status").open("rb")),
    "device": (False, lambda _: Path("/dev/zero").open("rb")),
    "pipe": (False, lambda _: _pipe()),
}


@pytest.mark.parametrize("name", FILES)
def test_kinds(tmp_path: Path, name: str) -> None:
    """Only of plain files, read by Python's own classes, the descriptor will do."""
    is_plain, opened = FILES[name]
    with opened(tmp_path / "file") as file:
        assert descriptor(file) == (file.fileno() if is_plain else None)


def test_other_objects() -> None:
    """They are for their own read."""
    assert descriptor(object()) is None


def test_what_is_not_flushed() -> None:
    """It is sent, too."""
    with tempfile.TemporaryFile() as file:
        file.write(b"data")
        number = descriptor(file)
        assert number is not None
        assert os.fstat(number).st_size == 4
