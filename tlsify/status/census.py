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
# How many entries of a folder where everybody may make some are looked at, and places of others.
_MOST_NAMES, _MOST_PLACES = 2**16, 2**8
# How many processes are asked, and what they may say: rows, and seconds that it takes to read them.
_MOST_PROCESSES, _MOST_OF_OTHERS = 2**12, 2**9
_MOST_ROWS, _ROWS_PER_PROCESS = 2**20, 16
_LONGEST, _WORK, _WORK_PER_ROW = 30.0, 0.5, 1e-4
# A socket that a publisher was killed over before it could listen; seconds.
_ABANDONED = 60.0


class Census(NamedTuple):
    """The answers.

    Attributes:
        rosters: of this network namespace; whoever comes later is to be believed, should two of
            them tell of the same connection.
        silent: how many were asked and did not answer, or not what we understand.
        elsewhere: how many have connections in other network namespaces.
        cut: users of whose processes' words, or of whose processes, some were left out.
        closed: whether there is a place that we may not look into.
    """

    rosters: tuple[Roster, ...]
    silent: int = 0
    elsewhere: int = 0
    cut: frozenset[int] = frozenset()
    closed: bool = False


# -- the places


def places() -> list[Path]:
    """Name the folders in which this process may publish, the best one first."""
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
    """Name the folders in which other users may publish; only root may look into them."""
    if os.geteuid() != 0:
        return []
    if _is_named():
        return places()  # which may well be somebody else's
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
    """Find who has a folder where everybody may make one: its owner, and whose its name says it is.

    Where somebody has filled it up, who has a process is taken for one who may have a folder.
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
    """Return whether others have places; those below ``/run/user`` may well have none."""
    if _is_named() or (uid := os.geteuid()) == 0:
        return False
    with contextlib.suppress(OSError):
        if _SYSTEM.lstat().st_uid != uid:
            return True
    return any(owner != uid for owner, _ in _shared())


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[tuple[int, int]]:
    """Open a folder of rosters, which must be its owner's alone; gives descriptor and owner.

    Raises:
        OSError: it is not there, or not to be trusted.
    """
    flags, folder = os.O_DIRECTORY | os.O_CLOEXEC, folder.absolute()
    # Where somebody else has put a link in its place, nobody knows for how long opening waits. In
    # the system's only root can: systemd makes one for a user that is there by need.
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
            raise PermissionError(errno.EPERM, "somebody else's", os.fspath(folder))
        yield number, state.st_uid
    finally:
        os.close(number)


def reach(folder: int, name: str, owner: int) -> socket.socket | None:
    """Connect to a socket in a folder, and remove it if its process has ended.

    Args:
        folder: descriptor.
        name: of the socket.
        owner: of the folder. Nobody can make root connect to another's socket by a link.

    Returns:
        None if that cannot be, or the process is busy with others.

    Raises:
        BlockingIOError: it lives, and has no time for us.
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
        timeout: seconds for all of them together; who is stuck shall not hold up others.
        owners: called if others are asked, who are believed about their own connections only, and
            may say as much as these are worth.
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
    """Let each user say twice what there is to say of his connections, and some words on top."""
    processes, connections = Counter(sockets.values()), Counter(owners.values())
    shares = {
        uid: Share(2 * connections[uid] + _ROWS_PER_PROCESS * count, owners)
        for uid, count in processes.items()
    }
    return shares, _WORK + _WORK_PER_ROW * sum(connections[uid] for uid in processes)


class _Reached(NamedTuple):
    """Who is there to be heard, by whose they are; how many are not; and `cut` as of a `Census`."""

    sockets: dict[socket.socket, int]
    silent: int
    cut: set[int]


def _reach_all(
    stack: contextlib.ExitStack, places: Iterable[Path], wanted: Callable[[int], bool], most: int
) -> _Reached:
    """Connect to the processes of each place in turn, so that nobody's crowd others' out.

    Args:
        stack: what closes the connections.
        places: of whoever.
        wanted: whether it is this user whom we want.
        most: how many processes, of any of them and in all.
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
