"""Processes of a wrapped program, and the sockets that they hold."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator


# A process or descriptor that has gone meanwhile, or is not ours to see. Any other failure, such as
# EMFILE, says nothing of what is there, and must not be taken for "nothing".
GONE = (FileNotFoundError, ProcessLookupError, PermissionError)

# Sockets in which no descriptor can wait: what a socket is does not change.
_not_unix: set[str] = set()
_MOST = 65536
_PROCESS, _UNIX, _INODE = b"\nTgid:", b"\nscm_fds:", b"\nino:\t"  # as /proc spells them
_PIECE = 4096


class Hold(NamedTuple):
    """A descriptor of a process.

    Attributes:
        pid: the process.
        number: the descriptor.
    """

    pid: int
    number: int


def process_of(tid: int, folder: int | None = None) -> int:
    """Return the process of a thread.

    Args:
        tid: the thread.
        folder: a descriptor of its folder in /proc, if there is one.

    Raises:
        ProcessLookupError: it has ended.
    """
    path = f"/proc/{tid}/status" if folder is None else "status"
    try:
        found = _number(_read(path, folder), _PROCESS)
    except FileNotFoundError:
        found = None
    if found is None:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
    return found


def _read(path: str, folder: int | None = None) -> bytes:
    """Read what the kernel says in one piece: fewer system calls than `open` takes."""
    number = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        return os.read(number, _PIECE)
    finally:
        os.close(number)


def socket_at(pid: int, number: int) -> int | None:
    """Return the inode of a process's socket; None if its descriptor is none, or not open.

    Raises:
        PermissionError: it may not be looked into.
    """
    try:
        found = os.stat(f"/proc/{pid}/fd/{number}")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return found.st_ino if stat.S_ISSOCK(found.st_mode) else None


def holders(inode: int, passed_over: Collection[Hold] = ()) -> Iterator[Hold]:
    """Find the descriptors of a socket in all processes below this one.

    Args:
        inode: the socket's.
        passed_over: descriptors of other sockets.

    Raises:
        OSError: one cannot tell.
    """
    wanted = f"socket:[{inode}]"
    for hold, link in _descriptors(passed_over):
        if link == wanted:
            yield hold


def still_held(inode: int, hold: Hold) -> Hold | None:
    """Return where a socket is open, which was somewhere; None if nowhere."""
    try:
        if socket_at(*hold) == inode:
            return hold
    except PermissionError:
        return hold
    return next(holders(inode), None)


def waiting(passed_over: Collection[Hold] = ()) -> list[int]:
    """Return how many descriptors wait in each AF_UNIX socket of the processes below.

    One that was sent (SCM_RIGHTS) is no process's until it is received. Which it is cannot be seen.

    Args:
        passed_over: as `holders` has it.

    Raises:
        OSError: one cannot tell.
    """
    return [count for *_, count in unix_sockets(passed_over)]


def unix_sockets(passed_over: Collection[Hold] = ()) -> Iterator[tuple[Hold, str, int]]:
    """Find the AF_UNIX sockets of the processes below, and how many descriptors wait in each.

    Args:
        passed_over: as `holders` has it.

    Raises:
        OSError: one cannot tell.
    """
    for hold, link in _descriptors(passed_over):
        if link.startswith("socket:") and link not in _not_unix:
            with contextlib.suppress(*GONE):
                count = _number(_read(f"/proc/{hold.pid}/fdinfo/{hold.number}"), _UNIX)
                if count is None:
                    _not_unix.add(link)
                else:
                    yield hold, link, count
    if len(_not_unix) > _MOST:
        _not_unix.clear()


class Queue:
    """The queue of an AF_UNIX socket that `unix_sockets` has found: it may be asked often."""

    __slots__ = ("_info", "_inode", "_is_kept", "_path")

    def __init__(self, hold: Hold, link: str, *, is_kept: bool) -> None:
        """Take what was found.

        Args:
            hold: where it is open.
            link: what it is.
            is_kept: whether to keep a descriptor for the next looks.
        """
        self._is_kept = is_kept
        self._path = f"/proc/{hold.pid}/fdinfo/{hold.number}"
        self._inode = link.removeprefix("socket:[").removesuffix("]").encode()
        self._info: int | None = None

    def waiting(self) -> int:
        """Return how many descriptors wait in it.

        Raises:
            LookupError: it is not there any more.
            OSError: one cannot tell.
        """
        with contextlib.suppress(*GONE):
            said = self._look()
            count = _number(said, _UNIX)
            # Linux 5.14 does not tell the inode: each time is the first one there.
            if count is not None and _INODE + self._inode + b"\n" in said:
                return count
        raise LookupError(self._path)

    def _look(self) -> bytes:
        if not self._is_kept:
            return _read(self._path)
        if self._info is None:
            self._info = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        return os.pread(self._info, _PIECE, 0)  # the kernel looks anew

    def close(self) -> None:
        """Let go of it."""
        if self._info is not None:
            os.close(self._info)
            self._info = None


def _number(said: bytes, name: bytes) -> int | None:
    """Return the number behind a name; None if it is not there."""
    _, found, rest = said.partition(name)
    return int(rest.split(maxsplit=1)[0]) if found else None


def _descriptors(passed_over: Collection[Hold]) -> Iterator[tuple[Hold, str]]:
    """Return the descriptors of all processes below this one, and what they are."""
    for pid in descendants(os.getpid()):
        with contextlib.suppress(*GONE), os.scandir(f"/proc/{pid}/fd") as entries:
            for entry in entries:
                hold = Hold(pid, int(entry.name))
                if hold not in passed_over:
                    with contextlib.suppress(*GONE):
                        yield hold, os.readlink(entry.path)


def has_descriptors(pid: int) -> bool:
    """Return whether a process has any: one that ends has none, and then it is over."""
    with contextlib.suppress(PermissionError):
        try:
            return bool(os.listdir(f"/proc/{pid}/fd"))
        except (FileNotFoundError, ProcessLookupError):
            return False
    return True


def has_thread(pid: int, tid: int) -> bool:
    """Return whether a thread is a process's, without a descriptor for that."""
    return os.path.exists(f"/proc/{pid}/task/{tid}")


def descendants(pid: int) -> Iterator[int]:
    """Return all processes below one."""
    waiting = [pid]
    while waiting:
        found = list(children(waiting.pop()))
        yield from found
        waiting += found


def children(pid: int) -> Iterator[int]:
    """Return the children of a process (CONFIG_PROC_CHILDREN).

    Raises:
        OSError: one cannot tell.
    """
    with contextlib.suppress(*GONE):
        for task in os.listdir(f"/proc/{pid}/task"):
            with (
                contextlib.suppress(*GONE),
                open(f"/proc/{pid}/task/{task}/children", encoding="utf-8") as found,
            ):
                yield from map(int, found.read().split())
