"""Connections shared by a fork: which process ends them."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from tlsify.errors import SHORTAGES

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

_MOMENT = 0.2  # seconds

# In a process's flags: it was forked, and runs its parent's program (include/linux/sched.h).
_PF_FORKNOEXEC = 0x40
_FLAGS = 9 - 3  # in /proc/PID/stat, behind the name (proc_pid_stat(5))
_PIECE = 2**12  # bytes

# Forks that this process has seen, as parent or as child.
seen = 0
# Forks in which this process, or one that it was forked from, was the child.
births = 0
# Whether this process was forked without a new program, and the sockets that it has inherited.
is_child = False
_inherited: frozenset[int] = frozenset()


def _on_fork() -> None:
    global seen
    seen += 1


def _on_birth() -> None:
    global is_child, births, _inherited
    is_child = True
    births += 1
    _inherited = frozenset(_inodes())
    _on_fork()


def _read(path: str) -> bytes:
    """Read a file of /proc by system calls alone.

    A connection may be collected so late that Python has neither ``open`` nor codecs any more.
    """
    number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return b"".join(iter(lambda: os.read(number, _PIECE), b""))
    finally:
        os.close(number)


def _was_forked() -> bool:
    """Return whether this process was forked before this module was imported, by /proc."""
    with contextlib.suppress(OSError):
        told = _read("/proc/self/stat").rpartition(b")")[2].split()
        return bool(int(told[_FLAGS]) & _PF_FORKNOEXEC)
    return False


def _inodes() -> Iterator[int]:
    with contextlib.suppress(OSError), os.scandir("/proc/self/fd") as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                yield os.fstat(int(entry.name)).st_ino


def is_short_lived(sock: socket.socket, *, is_client: bool) -> bool:
    """Return whether this process was probably forked for a connection, and ends with it.

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
        used: value of `seen` when this process last read from or wrote to the connection.
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
        """Return whether closing this process's copy ends the connection.

        It does for a process that has used it since the last fork, and for its last holder. Neither
        holds for the parent in a server's accept, fork, close.
        """
        return not self.is_shared or self.used == seen or not is_held_elsewhere(inode(sock))


def inode(sock: socket.socket) -> int:
    """Return a socket's inode, which all its descriptors share."""
    return os.fstat(sock.fileno()).st_ino


def address(ask: Callable[[], Any]) -> Any:
    """Return the result of a socket's method; None if the connection is already broken."""
    try:
        return ask()
    except OSError:
        return None


def known(found: Any) -> Any:
    """Return a result of `address`, or fail as a socket would.

    Raises:
        OSError: ENOTCONN, the connection was already broken.
    """
    if found is None:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
    return found


def is_held_elsewhere(inode: int) -> bool:
    """Return whether another process has a descriptor of a socket.

    A relative that cannot be inspected, since it has become another user, counts as a holder.
    Without /proc every process does: closing then closes a copy, as it would without tlsify.
    """
    wanted = f"socket:[{inode}]"
    if not os.path.exists("/proc/self/fd"):
        return True
    try:
        relatives = {*_children(), os.getppid()} if is_child else {*_children()}
        others = set(_processes())
        others -= relatives | {os.getpid()}
        return any(
            _is_held_in(pid, wanted, is_relative=pid in relatives)
            for pid in (*sorted(relatives, reverse=True), *sorted(others))
        )
    except OSError:  # no descriptor is available to look with
        return True


def _is_held_in(pid: int, wanted: str, *, is_relative: bool) -> bool:
    """Inspect one process.

    Raises:
        OSError: no descriptor or memory is available.
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
    """Sockets of all other processes, as of a moment ago: many relays may ask at once."""

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
            for pid in _processes():
                if pid != os.getpid():
                    with contextlib.suppress(OSError):  # it has ended, or is another user's
                        yield from _open_in(pid)


def is_left_to_others(inode: int) -> bool:
    """Return whether a socket outlives this process, as far as /proc shows."""
    return _others.hold(inode)


def _open_in(pid: int) -> Iterator[str]:
    with os.scandir(f"/proc/{pid}/fd") as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                yield os.readlink(entry.path)


def _children() -> Iterator[int]:
    """Return this process's children, where the kernel lists them (CONFIG_PROC_CHILDREN)."""
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):
            yield from map(int, _read(f"/proc/self/task/{task}/children").split())


def _processes() -> Iterator[int]:
    return map(int, filter(str.isdigit, os.listdir("/proc")))


_others = _Others()
os.register_at_fork(after_in_child=_others.__init__)  # type: ignore[misc]
