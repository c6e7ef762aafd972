"""Processes of a wrapped program, and the sockets that they hold."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator


class Hold(NamedTuple):
    """A descriptor of a process.

    Attributes:
        pid: the process.
        number: the descriptor.
    """

    pid: int
    number: int


def process_of(tid: int) -> int:
    """Return the process of a thread.

    Raises:
        ProcessLookupError: it has ended.
    """
    try:
        with open(f"/proc/{tid}/status", encoding="utf-8", errors="replace") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("Tgid:"))
    except (FileNotFoundError, StopIteration) as exc:
        raise ProcessLookupError(tid) from exc


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


def holders(inode: int, passed_over: Collection[int] = ()) -> Iterator[Hold]:
    """Find the descriptors of a socket in all processes below this one.

    Args:
        inode: the socket's.
        passed_over: numbers that are descriptors of other sockets.
    """
    wanted = f"socket:[{inode}]"
    for pid in descendants(os.getpid()):
        with contextlib.suppress(OSError), os.scandir(f"/proc/{pid}/fd") as entries:
            for entry in entries:
                if int(entry.name) in passed_over:
                    continue
                with contextlib.suppress(OSError):
                    if os.readlink(entry.path) == wanted:
                        yield Hold(pid, int(entry.name))


def has_descriptors(pid: int) -> bool:
    """Return whether a process has any: one that ends has none, and then it is over."""
    with contextlib.suppress(PermissionError):
        try:
            return bool(os.listdir(f"/proc/{pid}/fd"))
        except (FileNotFoundError, ProcessLookupError):
            return False
    return True


def descendants(pid: int) -> Iterator[int]:
    """Return all processes below one."""
    waiting = [pid]
    while waiting:
        found = list(children(waiting.pop()))
        yield from found
        waiting += found


def children(pid: int) -> Iterator[int]:
    """Return the children of a process (CONFIG_PROC_CHILDREN)."""
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", encoding="utf-8") as found:
                yield from map(int, found.read().split())
