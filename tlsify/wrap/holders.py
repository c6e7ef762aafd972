"""Processes of a wrapped program, and the sockets that they hold."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator


# A process or descriptor that has gone meanwhile, or is not ours to see. Any other failure, such as
# EMFILE, says nothing of what is there, and must not be taken for "nothing".
GONE = (FileNotFoundError, ProcessLookupError, PermissionError)

# Sockets in which no descriptor can wait: what a socket is does not change.
_not_unix: set[str] = set()
_MOST = 65536


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
                count = _waiting_at(hold)
                if count is None:
                    _not_unix.add(link)
                else:
                    yield hold, link, count
    if len(_not_unix) > _MOST:
        _not_unix.clear()


def waiting_in(hold: Hold, link: str) -> int:
    """Return how many descriptors wait in a socket that `unix_sockets` has found.

    Raises:
        LookupError: it is not there any more.
        OSError: one cannot tell.
    """
    with contextlib.suppress(*GONE):
        if os.readlink(f"/proc/{hold.pid}/fd/{hold.number}") == link:
            return _waiting_at(hold) or 0
    raise LookupError(link)


def _waiting_at(hold: Hold) -> int | None:
    said = Path(f"/proc/{hold.pid}/fdinfo/{hold.number}").read_text(encoding="utf-8")
    _, is_unix, count = said.partition("scm_fds:")
    return int(count.split()[0]) if is_unix else None


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
