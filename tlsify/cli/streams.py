"""stdin, stdout and other inherited descriptors: wait where they would block."""

from __future__ import annotations

import io
import os
import select
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

STDOUT, STDERR = 1, 2
_NAMES = {0: "stdin", STDOUT: "stdout", STDERR: "stderr"}

# A descriptor's flags are shared by all processes that have it: changing O_NONBLOCK would break the
# one that set it. So it stays as it is.


def read(number: int, size: int) -> bytes:
    """Read up to ``size`` bytes as soon as there are any; empty at the end.

    Raises:
        OSError: it cannot be read; ``filename`` tells which descriptor it is.
    """
    while True:
        try:
            return os.read(number, size)
        except BlockingIOError:
            _wait(number, select.POLLIN)
        except OSError as exc:
            raise _named(exc, number) from exc


def read_all(number: int, limit: int) -> bytes:
    """Read up to the end, or to the limit; raises as `read`."""
    found = b""
    while len(found) < limit and (more := read(number, limit - len(found))):
        found += more
    return found


def write(number: int, data: ReadableBuffer) -> None:
    """Write all of it.

    Raises:
        OSError: it cannot be written; ``filename`` tells which descriptor it is.
    """
    view = memoryview(data).cast("B")
    while view:
        view = view[write_some(number, view) :]


def write_some(number: int, data: ReadableBuffer) -> int:
    """Write what there is room for, as soon as there is any; return how much; raises as `write`."""
    while True:
        try:
            return os.write(number, data)
        except BlockingIOError:
            _wait(number, select.POLLOUT)
        except OSError as exc:
            raise _named(exc, number) from exc


def send_descriptor(through: int, descriptor: int) -> None:
    """Pass a descriptor on, with one byte of data, since a message must have some.

    Raises:
        OSError: there is no reader.
    """
    with socket.socket(fileno=os.dup(through)) as channel:
        while True:
            try:
                socket.send_fds(channel, [b"\0"], [descriptor])
            except BlockingIOError:
                _wait(through, select.POLLOUT)
            except OSError as exc:
                raise _named(exc, through) from exc
            else:
                return


def discard(number: int) -> None:
    """Redirect it to nowhere from here on."""
    with suppress(OSError):
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, number)
        os.close(sink)


def prepare() -> None:
    """Make printing wait for slow readers; printing to a closed stdout is an error.

    A stream that has failed once leads nowhere afterwards: the interpreter, which tries once more
    at its end, would complain. What cannot be said on stderr cannot be said.
    """
    if sys.stdout is sys.__stdout__:
        is_terminal = os.isatty(STDOUT)
        # The names of folders may be any bytes.
        sys.stdout = _text(STDOUT, sys.stdout, line_buffering=is_terminal)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(STDERR, sys.stderr, line_buffering=True)


def _text(number: int, before: io.TextIOBase | None, *, line_buffering: bool) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(number)),
        encoding=getattr(before, "encoding", "utf-8"),
        errors="backslashreplace",
        line_buffering=line_buffering,
    )


class _Output(io.RawIOBase):
    """stdout or stderr, as the layers of `print` want it."""

    def __init__(self, number: int) -> None:
        self._number = number

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return os.isatty(self._number)

    def write(self, data: ReadableBuffer, /) -> int:
        view = memoryview(data).cast("B")
        try:
            write(self._number, view)
        except OSError:
            discard(self._number)
            if self._number != STDERR:
                raise
        return len(view)


def _wait(number: int, event: int) -> None:
    poller = select.poll()
    poller.register(number, event)
    poller.poll()


def _named(error: OSError, number: int) -> OSError:
    return OSError(error.errno, error.strerror, _NAMES.get(number, f"descriptor {number}"))
