"""A server's stderr: one that nobody reads stops nothing."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import socket
import stat
from typing import TYPE_CHECKING

from tlsify.metrics.counters import Event, count

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

    _Stream = logging.StreamHandler[TextIO]
else:
    _Stream = logging.StreamHandler

_NUMBER = 2


class Stderr(_Stream):
    """Writes messages to stderr, apart from those for which there is no room there now.

    They are lost and counted, and the next message that is written says how many they were.
    """

    def __init__(self, stream: TextIO) -> None:
        """Begin with a stream that has stderr's descriptor."""
        super().__init__(stream)
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message."""
        self.put(self.format(record))

    def put(self, text: str) -> None:
        """Write lines; never fails, and does not wait for a reader."""
        told = f" ({self._lost} messages before it lost)" if self._lost else ""
        line = f"{text}{told}\n".encode(errors="backslashreplace")
        written = 0
        with contextlib.suppress(OSError):
            written = _write(line)
        if written:
            self._lost = 0
        else:
            self._lost += 1
            count(Event.LOG_LINE_LOST)


def _write(line: bytes) -> int:
    """Write as much as there is room for; return how many bytes that is.

    The open file may belong to other programs, too, so that it stays as it is: one that blocks.
    """
    mode = os.fstat(_NUMBER).st_mode
    if stat.S_ISSOCK(mode) and (number := _opened(lambda: os.dup(_NUMBER))) is not None:
        with socket.socket(fileno=number) as sock:
            return sock.send(line, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    is_plain = stat.S_ISREG(mode) or stat.S_ISSOCK(mode)
    if not is_plain and (number := _opened(_open_anew)) is not None:
        try:
            return os.write(number, line)
        finally:
            os.close(number)
    if not stat.S_ISREG(mode):
        poller = select.poll()
        poller.register(_NUMBER, select.POLLOUT)
        if not poller.poll(0):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return os.write(_NUMBER, line)


def _opened(attempt: Callable[[], int]) -> int | None:
    """Return a descriptor; None where there is none left, or it is another user's."""
    try:
        return attempt()
    except OSError:
        return None


def _open_anew() -> int:
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    return os.open(f"/proc/self/fd/{_NUMBER}", flags)
