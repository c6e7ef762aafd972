"""Tests of a server's stderr."""

from __future__ import annotations

import io
import os
import resource
import select
import signal
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.want import no_descriptors
from tlsify.logs.stderr import Stderr
from tlsify.metrics.counters import Event, counters

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def stderr(number: int) -> Iterator[Stderr]:
    """Have another descriptor as stderr's."""
    before = os.dup(2)
    os.dup2(number, 2)
    try:
        yield Stderr(io.StringIO())
    finally:
        os.dup2(before, 2)
        os.close(before)


def lost() -> int:
    """Return the number of lines that were lost in this process."""
    return counters().get(Event.LOG_LINE_LOST.value, 0)


def ends(kind: str, folder: Path) -> tuple[int, int]:
    """Return both ends of a way on which something can be read later: reading, and writing."""
    if kind == "pipe":
        return os.pipe()
    if kind == "named pipe":
        os.mkfifo(folder / "pipe")
        reading = os.open(folder / "pipe", os.O_RDONLY | os.O_NONBLOCK)
        writing = os.open(folder / "pipe", os.O_WRONLY)
        os.set_blocking(reading, True)
        return reading, writing
    if kind == "terminal":
        return os.openpty()
    ours, theirs = socket.socketpair()
    return ours.detach(), theirs.detach()


@pytest.mark.parametrize("kind", ["pipe", "named pipe", "socket", "terminal"])
def test_without_a_reader(kind: str, tmp_path: Path) -> None:
    """A message that there is no room for is lost and counted, and the next one tells of it."""
    reading, writing = ends(kind, tmp_path)
    with stderr(writing) as ours:
        before = lost()
        while lost() < before + 3:
            ours.put("x" * 1000)
        told = b"3 messages before it lost"
        read = b""
        while told not in read:
            read += os.read(reading, 2**16)
            if not select.select([reading], [], [], 0)[0]:
                ours.put("again")
        ours.put("and so on")
        while not read.endswith((b"and so on\n", b"and so on\r\n")):
            read += os.read(reading, 2**16)
        assert read.count(b"lost") == 1
        assert os.get_blocking(2)
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_without_descriptors(kind: str, tmp_path: Path) -> None:
    """A server that has none left can say so."""
    reading, writing = ends(kind, tmp_path)
    with stderr(writing) as ours, no_descriptors():
        ours.put("none left")
    assert os.read(reading, 100) == b"none left\n"
    os.close(reading)
    os.close(writing)


def test_reader_that_is_gone() -> None:
    """It is as one that does not read."""
    reading, writing = os.pipe()
    os.close(reading)
    before = lost()
    with stderr(writing) as ours:
        ours.put("x")
    os.close(writing)
    assert lost() == before + 1


def test_full_disk(tmp_path: Path) -> None:
    """It is as well, and there may be room again."""
    path = tmp_path / "log"
    before, limits = lost(), resource.getrlimit(resource.RLIMIT_FSIZE)
    with path.open("wb") as file, stderr(file.fileno()) as ours:
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
        try:
            ours.put("x")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)
        ours.put("y")
    assert lost() == before + 1
    assert path.read_text() == "y (1 messages before it lost)\n"
