"""Find the processes that hold a socket, within a budget for each user."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

_PROC = Path("/proc")
# Limit on the descriptors of a user's processes that are read: for each socket, and in addition.
_PER_SOCKET, _BESIDES = 4, 2**14
_PER_PROCESS = 2  # descriptors that could be read in the time it takes to find a process's user


@dataclass(frozen=True, slots=True)
class Process:
    """A process that holds a socket.

    Attributes:
        pid: as this process's /proc numbers it.
        command: its name; whatever it chose.
    """

    pid: int
    command: str


def find_holders(owners: Mapping[int, int]) -> tuple[dict[int, list[Process]], set[int]]:
    """Return the processes that hold some sockets, as far as this process may inspect them.

    It reads every descriptor's link once, and nothing else: psutil's net_connections takes the
    kernel's list of all sockets apart for each process's.

    Args:
        owners: user of each socket, by inode.

    Returns:
        The processes, by inode; and the users whose processes hold more descriptors than are looked
        at. Our own and root's are all looked at.
    """
    wanted = {f"socket:[{inode}]": inode for inode in owners}
    found: dict[int, list[Process]] = {}
    cut: set[int] = set()
    if not wanted:
        return found, cut
    spent, sockets, unbounded = Counter[int](), Counter(owners.values()), {0, os.geteuid()}
    for pid in _psutil().pids():
        with suppress(OSError, ValueError):  # it has ended, or is another user's
            folder = os.open(_PROC / str(pid) / "fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                uid = _user(pid, folder)
                left = _BESIDES + _PER_SOCKET * sockets[uid] - spent[uid]
                held, count = _held(folder, wanted, None if uid in unbounded else max(left, 0))
            finally:
                os.close(folder)
            spent[uid] += _PER_PROCESS + count
            if uid not in unbounded and count >= left:
                cut.add(uid)
            if held:
                process = Process(pid, command(pid))
                for inode in held:
                    found.setdefault(inode, []).append(process)
    return found, cut


def _user(pid: int, folder: int) -> int:
    """Return the user of a process, also of one closed to inspection, which looks like root's.

    Raises:
        OSError: it has ended.
        ValueError: the kernel does not say.
    """
    uid = os.fstat(folder).st_uid
    if uid != 0:
        return uid
    _, _, rest = (_PROC / str(pid) / "status").read_bytes().partition(b"\nUid:")
    return int(rest.split(None, 1)[0])


def _held(folder: int, wanted: Mapping[str, int], most: int | None) -> tuple[set[int], int]:
    """Read descriptors; return the wanted inodes among them, and the number read."""
    held, count = set(), 0
    with os.scandir(folder) as numbers:
        for entry in islice(numbers, most):
            count += 1
            with suppress(OSError):  # closed since
                inode = wanted.get(os.readlink(entry.name, dir_fd=folder))
                if inode is not None:
                    held.add(inode)
    return held, count


def command(pid: int) -> str:
    """Return a process's name; empty if it has ended, or is in another PID namespace."""
    library = _psutil()
    try:
        return str(library.Process(pid).name())
    except (library.Error, ValueError):
        return ""


def _psutil() -> ModuleType:
    import psutil  # noqa: PLC0415 - most commands name no process

    return psutil
