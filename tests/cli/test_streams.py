"""Tests of streams; test_connect has what connect does with them, test_main what is printed."""

from __future__ import annotations

import errno
import os
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.doubles import Endpoint, recv_exactly
from tlsify.cli import streams

if TYPE_CHECKING:
    from collections.abc import Iterator

_MUCH = os.urandom(2**18)


class Pipe:
    """Both ends of a pipe, which never wait."""

    def __init__(self) -> None:
        """Make it."""
        self.reader, self.writer = os.pipe2(os.O_NONBLOCK)

    def fill(self) -> int:
        """Write until nothing fits; return how much did."""
        size = 0
        with suppress(BlockingIOError):
            while True:
                size += os.write(self.writer, bytes(2**12))
        return size

    def close(self) -> None:
        """Close what is still open."""
        for number in (self.reader, self.writer):
            with suppress(OSError):
                os.close(number)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """A pipe, closed afterwards."""
    made = Pipe()
    yield made
    made.close()


def test_reading_waits(pipe: Pipe) -> None:
    """For data, and for the end; the flags stay."""
    reading = Endpoint(lambda: streams.read(pipe.reader, 100))
    os.write(pipe.writer, b"some")
    assert reading.result() == b"some"
    reading = Endpoint(lambda: streams.read(pipe.reader, 100))
    os.close(pipe.writer)
    assert reading.result() == b""
    assert not os.get_blocking(pipe.reader)


def test_writing_waits(pipe: Pipe) -> None:
    """Whoever reads slowly gets everything, once; the flags stay."""
    filled = pipe.fill()
    writing = Endpoint(lambda: streams.write(pipe.writer, _MUCH))
    received = b""
    while len(received) < filled + len(_MUCH):
        received += streams.read(pipe.reader, 1000)
    writing.result()
    assert received[filled:] == _MUCH
    assert not os.get_blocking(pipe.writer)


def test_reading_all(pipe: Pipe) -> None:
    """Up to the end, however it comes, or to the limit."""
    reading = Endpoint(lambda: streams.read_all(pipe.reader, 100))
    os.write(pipe.writer, b"some")
    os.write(pipe.writer, b"more")
    os.write(pipe.writer, bytes(92))
    assert reading.result() == b"somemore" + bytes(92)
    reading = Endpoint(lambda: streams.read_all(pipe.reader, 100))
    os.write(pipe.writer, b"rest")
    os.close(pipe.writer)
    assert reading.result() == b"rest"


def test_what_cannot_be_used(pipe: Pipe) -> None:
    """The error says which descriptor it is."""
    folder = os.open("/", os.O_RDONLY)
    with pytest.raises(OSError, match="descriptor") as raised:
        streams.read(folder, 1)
    os.close(folder)
    assert (raised.value.errno, raised.value.filename) == (errno.EISDIR, f"descriptor {folder}")
    os.close(pipe.reader)
    with pytest.raises(BrokenPipeError, match="descriptor"):
        streams.write(pipe.writer, b"x")
    with open("/dev/full", "wb") as full, pytest.raises(OSError, match="No space"):
        streams.write(full.fileno(), b"x")


def test_sending_a_descriptor_waits() -> None:
    """A receiver that is behind gets it all the same."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        filled = 0
        with suppress(BlockingIOError):
            while True:
                filled += ours.send(bytes(1000))
        sending = Endpoint(lambda: streams.send_descriptor(ours.fileno(), sys.stderr.fileno()))
        recv_exactly(theirs, filled)
        message, numbers, _, _ = socket.recv_fds(theirs, 1, 1)
        sending.result()
        assert message == b"\0"
        assert os.path.sameopenfile(numbers[0], sys.stderr.fileno())
        os.close(numbers[0])
        assert not ours.getblocking()


def test_leading_nowhere(pipe: Pipe) -> None:
    """What is written is gone, and the other end is told."""
    streams.discard(pipe.writer)
    os.write(pipe.writer, b"x")
    assert os.read(pipe.reader, 1) == b""
