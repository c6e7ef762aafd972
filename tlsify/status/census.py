"""Query all of tlsify's processes for their connections."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import time
from collections import Counter, deque
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tlsify.status.hearing import Share, hear

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from tlsify.status.hearing import Owners, Roster

# Names a folder of rosters in place of the usual ones; "off" publishes none.
VARIABLE = "TLSIFY_ROSTER"
_SYSTEM, _USERS, _SHARED = Path("/run/tlsify"), Path("/run/user"), Path("/tmp")  # noqa: S108 - only owners' folders in it count
_PROCESSES = Path("/proc")
# Limits on the entries read of a world-writable folder, and on other users' folders.
_MOST_NAMES, _MOST_PLACES = 2**16, 2**8
# Limits on the processes asked, of our own user and of others; on their rows, and on the seconds
# that reading them takes.
_MOST_PROCESSES, _MOST_OF_OTHERS = 2**12, 2**9
_MOST_ROWS, _ROWS_PER_PROCESS = 2**20, 16
_LONGEST, _WORK, _WORK_PER_ROW = 30.0, 0.5, 1e-4
# Seconds after which a socket that does not listen yet has lost its publisher.
_ABANDONED = 60.0


class Census(NamedTuple):
    """The answers.

    Attributes:
        rosters: of this network namespace; if two of them list one connection, the later counts.
        silent: number of processes without an answer, or with an unintelligible one.
        elsewhere: number of processes with connections in other network namespaces.
        cut: users with processes, or rows of processes, that were left out.
        closed: whether there is a folder that this user may not read.
    """

    rosters: tuple[Roster, ...]
    silent: int = 0
    elsewhere: int = 0
    cut: frozenset[int] = frozenset()
    closed: bool = False


# -- the places


def places() -> list[Path]:
    """Return the folders in which this process may publish, the best one first."""
    named = os.environ.get(VARIABLE)
    if named:
        return [] if named == "off" else [Path(named)]
    runtime, uid = os.environ.get("XDG_RUNTIME_DIR", ""), os.geteuid()
    found = [_SYSTEM / "roster"]
    if uid != 0:
        found += [Path(runtime) / "tlsify/roster"] if os.path.isabs(runtime) else []
        found += [_USERS / f"{uid}/tlsify/roster"] if not runtime else []
    return [*found, _SHARED / f"tlsify-{uid}/roster"]


def _is_named() -> bool:
    return bool(os.environ.get(VARIABLE))


def _others() -> list[Path]:
    """Return the folders in which other users may publish; only root may read them."""
    if os.geteuid() != 0:
        return []
    if _is_named():
        return places()  # which may be another user's
    uids = {owner for owner, number in _shared() if owner == number}
    with contextlib.suppress(OSError):
        uids |= {int(name) for name in os.listdir(_USERS) if name.isascii() and name.isdecimal()}
    of_users = [
        place
        for uid in sorted(uids - {os.geteuid()})
        for place in (_USERS / f"{uid}/tlsify/roster", _SHARED / f"tlsify-{uid}/roster")
    ]
    return [_SYSTEM / "roster", *of_users]  # the system's may be that of a service's user


def _shared() -> Iterator[tuple[int, int]]:
    """Return the folders in the world-writable one: the owner of each, and the user in its name.

    If that folder is too full to be read, every user with a process counts as having a folder.
    """
    with contextlib.suppress(OSError), os.scandir(_SHARED) as found:
        for entry in islice(found, _MOST_NAMES):
            prefix, _, number = entry.name.partition("-")
            if prefix == "tlsify" and number.isascii() and number.isdecimal():
                with contextlib.suppress(OSError):
                    yield entry.stat(follow_symlinks=False).st_uid, int(number)
        if next(found, None) is None:
            return
    with os.scandir(_PROCESSES) as found:
        for entry in found:
            with contextlib.suppress(OSError):  # it has ended
                uid = entry.stat(follow_symlinks=False).st_uid
                yield uid, uid


def _is_closed() -> bool:
    """Return whether other users have folders; those below ``/run/user`` are not counted."""
    if _is_named() or (uid := os.geteuid()) == 0:
        return False
    with contextlib.suppress(OSError):
        if _SYSTEM.lstat().st_uid != uid:
            return True
    return any(owner != uid for owner, _ in _shared())


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[tuple[int, int]]:
    """Open a private folder of rosters; yield its descriptor and its owner.

    Raises:
        OSError: it does not exist, or is not private.
    """
    flags, folder = os.O_DIRECTORY | os.O_CLOEXEC, folder.absolute()
    # Another user's link in its place could make opening wait without limit. In the system's folder
    # only root can make links, as systemd does for a service's dynamic user.
    is_trusted = _is_named() or folder.parent == _SYSTEM
    above = os.open(folder.parent, flags | os.O_PATH | (0 if is_trusted else os.O_NOFOLLOW))
    try:
        number = os.open(folder.name, flags | os.O_NOFOLLOW, dir_fd=above)
    finally:
        os.close(above)
    try:
        state = os.fstat(number)
        if state.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise PermissionError(errno.EPERM, "not private", os.fspath(folder))
        if state.st_uid != os.geteuid() != 0:
            raise PermissionError(errno.EPERM, "another user's", os.fspath(folder))
        yield number, state.st_uid
    finally:
        os.close(number)


def reach(folder: int, name: str, owner: int) -> socket.socket | None:
    """Connect to a socket in a folder, and remove it if its process has ended.

    Args:
        folder: descriptor.
        name: of the socket.
        owner: of the folder; no other user's socket is connected to, even through a link.

    Returns:
        The socket; None if its process has ended, or it is no socket of the owner's.

    Raises:
        BlockingIOError: the process lives, and is busy.
    """
    try:
        entry = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return None  # gone meanwhile
    try:
        state = os.fstat(entry)
        if not stat.S_ISSOCK(state.st_mode) or state.st_uid != owner:
            return None
        found = socket.socket(socket.AF_UNIX)
        found.settimeout(0)
        try:
            found.connect(f"/proc/self/fd/{entry}")
        except ConnectionRefusedError:
            found.close()
            if not name.startswith(".") or time.time() - state.st_mtime > _ABANDONED:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=folder)
            return None
        except BaseException:
            found.close()
            raise
        return found
    finally:
        os.close(entry)


# -- asking


def ask(timeout: float = 1.0, owners: Callable[[], Owners] = dict) -> Census:
    """Query all processes at once: first our own user's, then those of others.

    Args:
        timeout: seconds for all of them together, so that a stuck process delays no other.
        owners: called if other users' processes are asked: each is believed about its user's own
            connections only, and its share of rows depends on their number.
    """
    uid = os.geteuid()
    with contextlib.ExitStack() as stack:
        ours = _reach_all(stack, places(), lambda owner: owner == uid, _MOST_PROCESSES)
        own = hear(ours.sockets, {uid: Share(_MOST_ROWS)}, timeout, _LONGEST)
    with contextlib.ExitStack() as stack:
        theirs = _reach_all(stack, _others(), lambda owner: owner != uid, _MOST_OF_OTHERS)
        known = owners() if theirs.sockets else {}
        shares, work = _shares(theirs.sockets, known)
        others = hear(theirs.sockets, shares, timeout / 2, work)
    return Census(
        (*others.rosters, *own.rosters),
        ours.silent + own.silent + theirs.silent + others.silent,
        own.elsewhere + others.elsewhere,
        frozenset().union(ours.cut, own.cut, theirs.cut, others.cut),
        _is_closed(),
    )


def _shares(sockets: Mapping[socket.socket, int], owners: Owners) -> tuple[dict[int, Share], float]:
    """Return each user's share: twice the rows of their connections, and some more."""
    processes, connections = Counter(sockets.values()), Counter(owners.values())
    shares = {
        uid: Share(2 * connections[uid] + _ROWS_PER_PROCESS * count, owners)
        for uid, count in processes.items()
    }
    return shares, _WORK + _WORK_PER_ROW * sum(connections[uid] for uid in processes)


class _Reached(NamedTuple):
    """Connected processes, by socket the owner; the number of silent ones; `cut` of a `Census`."""

    sockets: dict[socket.socket, int]
    silent: int
    cut: set[int]


def _reach_all(
    stack: contextlib.ExitStack, places: Iterable[Path], wanted: Callable[[int], bool], most: int
) -> _Reached:
    """Connect to the processes of each folder in turn, so that no user's crowd others' out.

    Args:
        stack: closes the connections.
        places: folders, of any users.
        wanted: whether a user's processes are wanted.
        most: limit on the processes, of each folder and in all.
    """
    sockets: dict[socket.socket, int] = {}
    silent, cut = 0, set()
    with contextlib.ExitStack() as folders:
        queue: deque[tuple[int, int, list[str]]] = deque()
        for place in places:
            with contextlib.suppress(OSError):
                folder, owner = folders.enter_context(opened(place))
                if not wanted(owner):
                    continue
                with os.scandir(folder) as found:
                    names = [entry.name for entry in islice(found, most)]
                    if next(found, None) is not None or len(queue) >= _MOST_PLACES:
                        cut.add(owner)
                if len(queue) < _MOST_PLACES:
                    queue.append((folder, owner, names))
        while queue and len(sockets) < most:
            folder, owner, names = queue.popleft()
            if not names:
                continue
            queue.append((folder, owner, names))
            try:
                sock = reach(folder, names.pop(), owner)
            except OSError:
                silent += 1
                continue
            if sock is not None:
                sockets[stack.enter_context(sock)] = owner
        cut |= {owner for _, owner, names in queue if names}
    return _Reached(sockets, silent, cut)
