"""Connections shared by a fork: their owner, and messages from relay to copies."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tlsify.errors import SHORTAGES
from tlsify.tls.explain import truncated

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from tlsify.errors import TlsifyError

_PROC = Path("/proc")
_MOMENT = 0.2  # seconds

# In a process's flags: it was forked, and runs its parent's program (include/linux/sched.h).
_PF_FORKNOEXEC = 0x40
_FLAGS = 9 - 3  # in /proc/PID/stat, behind the name (proc_pid_stat(5))

# How many forks this process has seen, on either side of them.
seen = 0
# Whether this process was forked, and goes on as what it was, and which sockets it was born with.
is_child = False
_inherited: frozenset[int] = frozenset()


def _on_fork() -> None:
    global seen  # noqa: PLW0603 - it is the process's
    seen += 1


def _on_birth() -> None:
    global is_child, _inherited  # noqa: PLW0603 - as above
    is_child = True
    _inherited = frozenset(_inodes())
    _on_fork()


def _was_forked() -> bool:
    """Return whether this process was forked before this module was imported, by /proc."""
    with contextlib.suppress(OSError):
        told = (_PROC / "self/stat").read_bytes().rpartition(b")")[2].split()
        return bool(int(told[_FLAGS]) & _PF_FORKNOEXEC)
    return False


def _inodes() -> Iterator[int]:
    with contextlib.suppress(OSError), os.scandir(_PROC / "self/fd") as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                yield os.fstat(int(entry.name)).st_ino


def is_short_lived(sock: socket.socket, *, is_client: bool) -> bool:
    """Return whether this process was forked for a connection, and ends with it, as far as one can.

    Such a process often ends by ``os._exit``, which waits for no thread. It has inherited the
    connection, or has opened it; a forked process that has accepted it goes on to accept others.
    """
    return is_child and (is_client or inode(sock) in _inherited)


os.register_at_fork(after_in_parent=_on_fork, after_in_child=_on_birth)
if _was_forked():
    _on_birth()


class Share:
    """One process's share in a connection.

    Attributes:
        used: forks seen when the connection was last read from or written to here.
    """

    __slots__ = ("_made", "used")

    def __init__(self) -> None:
        """Begin with a connection of this process alone."""
        self._made = self.used = seen

    @property
    def is_shared(self) -> bool:
        """Whether there has been a fork since the connection was made."""
        return self._made != seen

    def is_last_or_serving(self, sock: socket.socket) -> bool:
        """Return whether to close this process's copy is to end the connection.

        It is for who has used it since the last fork, and for whoever is the last to have it.
        accept, fork, close: the parent has done neither.
        """
        return not self.is_shared or self.used == seen or not is_held_elsewhere(inode(sock))


def inode(sock: socket.socket) -> int:
    """Return what all descriptors of a socket have in common."""
    return os.fstat(sock.fileno()).st_ino


def address(ask: Callable[[], Any]) -> Any:
    """Return the result of a socket's method; None if the connection is already broken."""
    try:
        return ask()
    except OSError:
        return None


def known(found: Any) -> Any:
    """Return what `address` has given, as a socket would.

    Raises:
        OSError: ENOTCONN, the connection was broken already.
    """
    if found is None:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
    return found


def is_held_elsewhere(inode: int) -> bool:
    """Return whether another process has a descriptor of a socket.

    Of a relative that may not be looked into, which has become another user, that is assumed; and
    of anybody where there is no /proc: a copy is closed then, as it is without tlsify.
    """
    wanted = f"socket:[{inode}]"
    if not (_PROC / "self/fd").exists():
        return True
    try:
        relatives = {*_children(), os.getppid()} if is_child else {*_children()}
        others = {int(each.name) for each in _PROC.iterdir() if each.name.isdigit()}
        others -= relatives | {os.getpid()}
        return any(
            _is_held_in(pid, wanted, is_relative=pid in relatives)
            for pid in (*sorted(relatives, reverse=True), *sorted(others))
        )
    except OSError:  # no descriptor is to be had to look with
        return True


def _is_held_in(pid: int, wanted: str, *, is_relative: bool) -> bool:
    """Look into one process.

    Raises:
        OSError: that is not possible now.
    """
    try:
        return wanted in _open_in(pid)
    except PermissionError:
        return is_relative
    except OSError as exc:
        if exc.errno in SHORTAGES:
            raise
        return False  # it has ended


class _Others:
    """What all other processes hold, as it was a moment ago: many may ask at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen_at = -_MOMENT
        self._held: frozenset[str] = frozenset()

    def hold(self, inode: int) -> bool:
        with self._lock:
            if time.monotonic() - self._seen_at >= _MOMENT:
                self._held = frozenset(self._look())
                self._seen_at = time.monotonic()
            return f"socket:[{inode}]" in self._held

    @staticmethod
    def _look() -> Iterator[str]:
        with contextlib.suppress(OSError):
            for each in _PROC.iterdir():
                if each.name.isdigit() and int(each.name) != os.getpid():
                    with contextlib.suppress(OSError):  # it has ended, or is somebody else's
                        yield from _open_in(int(each.name))


def is_left_to_others(inode: int) -> bool:
    """Return whether a socket lives on when this process ends, as far as one can see."""
    return _others.hold(inode)


def _open_in(pid: int) -> Iterator[str]:
    with os.scandir(f"/proc/{pid}/fd") as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                yield os.readlink(entry.path)


def _children() -> Iterator[int]:
    """Return this process's children, where the kernel lists them (CONFIG_PROC_CHILDREN)."""
    for task in (_PROC / "self/task").iterdir():
        with contextlib.suppress(OSError):
            yield from map(int, (task / "children").read_text().split())


_others = _Others()
os.register_at_fork(after_in_child=_others.__init__)  # type: ignore[misc]


# -- what a carrier and forked copies of a program's end tell each other

_UNDER_WAY, _GOOD, _CUT, _BROKEN = range(4)
_ENTRY = 4  # bytes: a generation (2), the verdict, whether the program has ended in order
_PER_PAGE = mmap.PAGESIZE // _ENTRY


class Verdict:
    """End of a relayed connection, readable in children that were forked meanwhile.

    A relay's thread lives in one process. Its memory is shared with no other, but for this.
    """

    _owner = -1  # as long as there is no entry
    _lock = threading.Lock()
    _free: ClassVar[list[tuple[mmap.mmap, int]]] = []

    def __init__(self) -> None:
        """Take an entry."""
        with self._lock:
            if not self._free:
                page = mmap.mmap(-1, mmap.PAGESIZE)
                self._free.extend((page, _ENTRY * index) for index in range(_PER_PAGE))
            self._page, self._at = self._free.pop()
        self._generation = (int.from_bytes(self._page[self._at : self._at + 2]) + 1) % 2**16
        entry = self._generation.to_bytes(2) + bytes(2)
        self._page[self._at : self._at + _ENTRY] = entry
        self._owner = os.getpid()

    @classmethod
    def forget(cls) -> None:
        """In a forked child: what is free is the parent's to take."""
        cls._lock, cls._free = threading.Lock(), []

    def __del__(self) -> None:
        """Leave it to others; a child that still asks finds another generation."""
        if self._owner == os.getpid():
            self._free.append((self._page, self._at))

    @property
    def is_ours(self) -> bool:
        """Whether the carrier is in this process."""
        return self._owner == os.getpid()

    @property
    def in_order(self) -> bool:
        """Whether somebody who had the program's end has said that its end is an orderly one."""
        return self._is_current() and bool(self._page[self._at + 3])

    def end_in_order(self) -> None:
        """Record a clean end."""
        if self._is_current():
            self._page[self._at + 3] = 1

    def give(self, failure: Exception | None, *, cut: bool = False) -> None:
        """Record how the peer's direction has ended."""
        self._page[self._at + 2] = _GOOD if failure is None else _CUT if cut else _BROKEN

    def failure(self) -> TlsifyError | OSError | None:
        """Return the failure, in a child, as far as it is known there."""
        code = self._page[self._at + 2] if self._is_current() else _BROKEN
        if code == _CUT:
            return truncated()
        if code == _BROKEN:
            return OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        return None

    def _is_current(self) -> bool:
        return int.from_bytes(self._page[self._at : self._at + 2]) == self._generation


os.register_at_fork(after_in_child=Verdict.forget)
