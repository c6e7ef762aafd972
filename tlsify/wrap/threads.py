"""Threads of a wrapped program: which process each one is of, and what it has open."""

from __future__ import annotations

import errno
import os
import stat
from typing import NamedTuple

from tlsify.wrap.holders import process_of

_MOST = 32  # each takes a descriptor
_SHORTAGE = {errno.EMFILE, errno.ENFILE}


class Thread:
    """A thread that has called, as its folder in /proc shows it.

    The folder stays this thread's: once it has ended nothing is found there, even where another
    one has its number by then.

    Attributes:
        pid: its process.
    """

    __slots__ = ("_folder", "pid")

    def __init__(self, tid: int) -> None:
        """Look for it.

        Raises:
            ProcessLookupError: it has ended.
            OSError: one cannot tell.
        """
        self._folder = _open(f"/proc/{tid}", os.O_PATH)
        try:
            self.pid = process_of(tid, self._folder)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of it."""
        os.close(self._folder)

    def status_of(self, number: int) -> os.stat_result:
        """Return what a descriptor of its is.

        Raises:
            FileNotFoundError: it is not open, or the thread has ended.
            PermissionError: it may not be looked into.
        """
        return os.stat(f"fd/{number}", dir_fd=self._folder)

    def has(self, number: int) -> bool:
        """Return whether a number is taken."""
        try:
            os.stat(f"fd/{number}", dir_fd=self._folder, follow_symlinks=False)
        except (FileNotFoundError, ProcessLookupError):
            return False
        return True

    def open_memory(self) -> int:
        """Return a descriptor of its memory.

        Raises:
            ProcessLookupError: it has ended.
            PermissionError: it may not be looked into.
        """
        return _open("mem", os.O_RDWR, self._folder)


def _open(path: str, flags: int, folder: int | None = None) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError as exc:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from exc


class Seen(NamedTuple):
    """What a call is about.

    Attributes:
        thread: that calls.
        inode: of the socket; None for anything else.
    """

    thread: Thread
    inode: int | None


class Threads:
    """The threads that have called last: most will call again."""

    def __init__(self) -> None:
        """Begin without any."""
        self._known: dict[int, Thread] = {}

    def look(self, tid: int, number: int) -> Seen:
        """Look at a descriptor of a thread that waits for an answer.

        Raises:
            ProcessLookupError: the thread has ended.
            PermissionError: it may not be looked into.
        """
        if (thread := self._known.get(tid)) is not None:
            try:
                return _seen(thread, number)
            except (FileNotFoundError, ProcessLookupError):  # it may have been another thread
                self._known.pop(tid).close()
        thread = self.of(tid)
        try:
            return _seen(thread, number)
        except (FileNotFoundError, ProcessLookupError):
            return Seen(thread, None)

    def of(self, tid: int) -> Thread:
        """Return a thread that has been looked at, or look for it.

        Raises:
            As `Thread`.
        """
        thread = self._known.pop(tid, None) or self._find(tid)
        self._known[tid] = thread
        if len(self._known) > _MOST:
            self._forget_one()
        return thread

    def _find(self, tid: int) -> Thread:
        while True:
            try:
                return Thread(tid)
            except OSError as exc:
                if exc.errno not in _SHORTAGE or not self._known:
                    raise
                self._forget_one()

    def _forget_one(self) -> None:
        self._known.pop(next(iter(self._known))).close()

    def forget(self) -> None:
        """Forget all of them."""
        while self._known:
            self._forget_one()


def _seen(thread: Thread, number: int) -> Seen:
    found = thread.status_of(number)
    return Seen(thread, found.st_ino if stat.S_ISSOCK(found.st_mode) else None)
