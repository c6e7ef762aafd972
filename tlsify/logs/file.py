"""A log's file: opened before rights are given up, and appended to by several processes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import mmap
import os
import select
import socket
import stat
import time

from tlsify.errors import AgentError, TlsifyError, errno_name, unusable
from tlsify.metrics.counters import Event, count
from tlsify.system import scm_rights
from tlsify.system.modes import open_to_append

_log = logging.getLogger("tlsify")

STDOUT = "-"
# POSIX's least PIPE_BUF is smaller; this is Linux's. What is no longer is written as a whole, also
# to a pipe.
LONGEST = 4096
_ABOVE_STREAMS = 3
_QUIET = 60.0  # seconds between two messages that lines are lost
_COUNT = 8  # bytes


class LogFile:
    """Lines for a file, or for stdout.

    Each line is written by one call at the file's end, so that those of several processes do not
    mix. A line that cannot be written now, because a disk is full or a pipe is not read, is lost
    and counted: the service goes on.

    The process that has made it may open it anew for those that it has forked, which may have
    neither the right nor a path to it.
    """

    def __init__(self, path: str) -> None:
        """Open it.

        Args:
            path: `STDOUT` for stdout.

        Raises:
            ConfigError: it cannot be opened.
        """
        self._path = path
        self._number = -1
        self._news = _News()
        self._poller: select.poll | None = None
        self._is_torn = False
        self._quiet_until = 0.0
        self._open()

    def reopen(self) -> None:
        """Open the file that has the path now, for forked processes, too.

        The one before may have been renamed. If the new one cannot be opened, the one before stays
        open, and a warning says so.
        """
        try:
            self._open()
        except TlsifyError as exc:
            _log.warning("%s; lines go on to the file of before", exc)
            return
        self._news.put(self._number)

    def _open(self) -> None:
        try:
            number = _stdout() if self._path == STDOUT else open_to_append(self._path)
        except OSError as exc:
            what = f"cannot open {self._path} for --access-log"
            raise unusable(what, exc, _hint(exc)) from exc
        self._change(number)

    def _change(self, number: int) -> None:
        if self._number != -1:
            os.close(self._number)
        self._number, self._is_torn = number, False
        self._poller = None
        if not stat.S_ISREG(os.fstat(number).st_mode):
            self._poller = select.poll()
            self._poller.register(number, select.POLLOUT)

    def append(self, line: bytes) -> None:
        """Write a line; never fails, and does not wait for a reader.

        Args:
            line: no longer than `LONGEST`, with its newline.
        """
        if (number := self._news.take()) is not None:
            self._change(number)
        try:
            if self._poller is not None and not self._poller.poll(0):
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            whole = b"\n" + line if self._is_torn else line
            is_whole = os.write(self._number, whole) == len(whole)
        except OSError as exc:
            self._lose(f"{errno_name(exc.errno or 0)}: {exc.strerror}")
        else:
            self._is_torn = not is_whole
            if not is_whole:
                self._lose("there was room for the beginning of a line only")

    def _lose(self, why: str) -> None:
        count(Event.LOG_LINE_LOST)
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + _QUIET
            _log.warning("lines of the access log are lost: %s", why)


class _News:
    """A descriptor for all processes that are forked later; each next one replaces it.

    It is in a message that they all look at, and none takes out; a count in shared memory says that
    there is a new one, so that looking costs no system call.
    """

    def __init__(self) -> None:
        self._count = mmap.mmap(-1, _COUNT)
        self._seen = bytes(_COUNT)
        self._sender, self._receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def __del__(self) -> None:
        self._sender.close()
        self._receiver.close()

    def put(self, number: int) -> None:
        """Leave a descriptor, which stays open here, for the others."""
        with contextlib.suppress(BlockingIOError):
            self._receiver.recv(1, socket.MSG_DONTWAIT)
        scm_rights.send(self._sender, b"\0", number)
        self._seen = (int.from_bytes(self._seen, "big") + 1).to_bytes(_COUNT, "big")
        self._count[:] = self._seen

    def take(self) -> int | None:
        """Return a copy of the descriptor if there is a new one, and it can be had now."""
        count = self._count[:]
        if count == self._seen:
            return None
        try:
            _, number = scm_rights.receive(self._receiver, 1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except (OSError, AgentError):  # it is being replaced; or there are too many open files
            return None
        self._seen = count
        return number


def _stdout() -> int:
    """Return a descriptor of our own for stdout: a keeper lets go of the other.

    A pipe or terminal is opened anew, not to wait: it may have room for the beginning of a line, or
    another worker may fill it between `poll` and `write`.
    """
    mode = os.fstat(1).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISSOCK(mode)):
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        with contextlib.suppress(OSError):  # another user's
            return os.open("/proc/self/fd/1", flags)
    return fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, _ABOVE_STREAMS)


def _hint(exc: OSError) -> str:
    if exc.errno == errno.EISDIR:
        return "name a file, or write --access-log=- for stdout"
    if exc.errno == errno.ENXIO:
        return "start the reader of the pipe first"
    return "name a file in a folder that this user may write to"
