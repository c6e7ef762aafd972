"""Ask every process of tlsify's that may be asked for the connections that it carries."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import selectors
import socket
import stat
import struct
import time
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from tlsify.handoff import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

# Names a folder of rosters in place of the usual ones; "off" publishes none.
VARIABLE = "TLSIFY_ROSTER"
# The format of an answer: a head, then lists of rows, each on a line of its own.
FORMAT = 1
PEER = struct.Struct("=3i")  # unix(7) struct ucred
_SYSTEM, _USERS, _SHARED = Path("/run/tlsify"), Path("/run/user"), Path("/tmp")  # noqa: S108
_MOST_BYTES = 2**26
_MOST_PROCESSES = 4096
_CHUNK = 2**18
# A socket that a publisher was killed over before it could listen; seconds.
_ABANDONED = 60.0


Address: TypeAlias = tuple[str, int]


class Entry(NamedTuple):
    """One connection on a roster: what the process that carries it knows of it.

    Attributes:
        local: address and port; None if the connection is broken.
        peer: likewise.
        server_name: SNI; whatever the peer chose.
        alpn: protocol agreed on; likewise.
        version: such as ``TLSv1.3``.
        suite: such as ``TLS_AES_128_GCM_SHA256``.
        group: of the key exchange; empty if unknown.
        resumed: whether a session was.
        offload: "kernel" or "relay".
        reason: why it is relayed; None if it is not.
        age: seconds since the handshake.
        rekeys: KeyUpdates sent and received; None on the relay path, where OpenSSL does them.
        records: number of the next one under the current key, sent and received; None likewise.
    """

    local: Address | None
    peer: Address | None
    server_name: str | None
    alpn: str | None
    version: str
    suite: str
    group: str
    resumed: bool
    offload: str
    reason: Reason | None
    age: float
    rekeys: tuple[int, int] | None
    records: tuple[int, int] | None


class Roster(NamedTuple):
    """The connections of one process.

    Attributes:
        pid: of the process, as this one's /proc numbers it; 0 outside of our PID namespace.
        uid: whose it is.
        network: number of its network namespace (``/proc/self/ns/net``).
        entries: its connections.
    """

    pid: int
    uid: int
    network: int
    entries: tuple[Entry, ...]


class Census(NamedTuple):
    """What was answered.

    Attributes:
        rosters: of all that answered.
        silent: how many were asked and did not answer, or not what we understand.
        closed: whether there is a place that we may not look into.
    """

    rosters: tuple[Roster, ...]
    silent: int
    closed: bool = False


# What each place of a row may hold.
_TEXT: frozenset[type] = frozenset({str})
_NUMBER: frozenset[type] = frozenset({int})
_MAYBE_TEXT: frozenset[type] = frozenset({str, type(None)})
_MAYBE_NUMBER: frozenset[type] = frozenset({int, type(None)})
FIELDS: dict[str, frozenset[type]] = {
    "local": _MAYBE_TEXT,
    "local_port": _NUMBER,
    "peer": _MAYBE_TEXT,
    "peer_port": _NUMBER,
    "server_name": _MAYBE_TEXT,
    "alpn": _MAYBE_TEXT,
    "version": _TEXT,
    "suite": _TEXT,
    "group": _TEXT,
    "resumed": frozenset({bool}),
    "offload": _TEXT,
    "reason": _MAYBE_TEXT,
    "sentence": _TEXT,
    "hint": _MAYBE_TEXT,
    "age": frozenset({int, float}),
    "updates_sent": _MAYBE_NUMBER,
    "updates_received": _MAYBE_NUMBER,
    "records_sent": _MAYBE_NUMBER,
    "records_received": _MAYBE_NUMBER,
}


def row(entry: Entry) -> list[object]:
    """Lay an entry out as `FIELDS` has it."""
    return [
        *(entry.local or (None, 0)),
        *(entry.peer or (None, 0)),
        *entry[2:9],
        *(entry.reason or (None, "", None)),
        entry.age,
        *(entry.rekeys or (None, None)),
        *(entry.records or (None, None)),
    ]


def read_rows(line: str | bytes) -> list[Entry]:
    """Read a line of rows, which anybody may have written.

    Raises:
        ValueError: it is something else.
    """
    rows = _parse(line)
    if type(rows) is not list or not all(
        type(r) is list and _is_sound(*map(type, r)) for r in rows
    ):
        raise ValueError("no list of rows")
    return list(map(_entry, rows))


def _parse(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except RecursionError as exc:
        raise ValueError("nested too deep") from exc


@lru_cache(256)  # rows differ in what is None, and in nothing else
def _is_sound(*kinds: type) -> bool:
    return len(kinds) == len(FIELDS) and all(
        kind in allowed for kind, allowed in zip(kinds, FIELDS.values(), strict=True)
    )


def _entry(values: list[Any]) -> Entry:  # _is_sound has seen the types
    local, local_port, peer, peer_port, server_name, alpn, version, suite, group = values[:9]
    resumed, offload, code, sentence, hint, age, updated, updates, sent, received = values[9:]
    return Entry(
        None if local is None else (local, local_port),
        None if peer is None else (peer, peer_port),
        server_name,
        alpn,
        version,
        suite,
        group,
        resumed,
        offload,
        None if code is None else Reason(code, sentence, hint),
        age,
        None if updated is None or updates is None else (updated, updates),
        None if sent is None or received is None else (sent, received),
    )


# -- the places


def places() -> list[Path]:
    """Name the folders in which this process may publish, the best one first."""
    named = os.environ.get(VARIABLE)
    if named:
        return [] if named == "off" else [Path(named)]
    runtime, uid = os.environ.get("XDG_RUNTIME_DIR", ""), os.geteuid()
    found = [_SYSTEM / "roster"]
    if uid != 0:
        found += [Path(runtime) / "tlsify/roster"] if os.path.isabs(runtime) else []  # noqa: PTH117
        found += [_USERS / f"{uid}/tlsify/roster"] if not runtime else []
    return [*found, _SHARED / f"tlsify-{uid}/roster"]


def _all_places() -> list[Path]:
    """Name the folders that this process may look into: root's are everybody's."""
    found = places()
    if os.geteuid() == 0 and not os.environ.get(VARIABLE):
        found += [*_USERS.glob("*/tlsify/roster"), *_SHARED.glob("tlsify-*/roster")]
    return list(dict.fromkeys(found))


def _is_closed() -> bool:
    """Tell whether others have places; those below ``/run/user`` may well have none."""
    if os.environ.get(VARIABLE) or (uid := os.geteuid()) == 0:
        return False
    for place in (_SYSTEM, *_SHARED.glob("tlsify-*")):
        with contextlib.suppress(OSError):
            if place.lstat().st_uid != uid:
                return True
    return False


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[tuple[int, int]]:
    """Open a folder of rosters, which must be its owner's alone; gives descriptor and owner.

    Raises:
        OSError: it is not there, or not to be trusted.
    """
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
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
        found.setblocking(False)  # noqa: FBT003 - socket's own signature
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


def ask(timeout: float = 1.0) -> Census:
    """Ask all processes at once.

    Args:
        timeout: seconds for all of them together; who is stuck shall not hold up others.
    """
    rosters: list[Roster] = []
    with contextlib.ExitStack() as stack:
        silent, reached = _reach_all(stack)
        for each, text in _collect(reached, time.monotonic() + timeout).items():
            pid, uid, _ = PEER.unpack(
                each.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size)
            )
            try:
                rosters.append(_read(pid, uid, text))
            except ValueError:
                silent += 1
    rosters.sort(key=lambda each: each.pid)
    return Census(tuple(rosters), silent, _is_closed())


def _reach_all(stack: contextlib.ExitStack) -> tuple[int, list[socket.socket]]:
    silent, reached = 0, []
    for place in _all_places():
        with contextlib.suppress(OSError), opened(place) as (folder, owner):
            for name in sorted(os.listdir(folder))[:_MOST_PROCESSES]:  # noqa: PTH208 - of a descriptor
                try:
                    sock = reach(folder, name, owner)
                except OSError:
                    silent += 1
                    continue
                if sock is not None:
                    reached.append(stack.enter_context(sock))
    return silent, reached


def _collect(reached: list[socket.socket], deadline: float) -> dict[socket.socket, bytearray]:
    """Read all answers until each has ended; who has not by then has none."""
    answers = {each: bytearray() for each in reached}
    with selectors.DefaultSelector() as selector:
        for each in reached:
            selector.register(each, selectors.EVENT_READ, each)
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                sock: socket.socket = key.data
                try:
                    data = sock.recv(_CHUNK)
                except BlockingIOError:
                    continue
                except OSError:
                    data = b""
                answers[sock] += data
                if not data or len(answers[sock]) > _MOST_BYTES:
                    selector.unregister(sock)
    return answers


def _read(pid: int, uid: int, text: bytes | bytearray) -> Roster:
    """Read a whole answer.

    Raises:
        ValueError: it is something else, or cut short.
    """
    first, *lines = text.decode("utf-8").split("\n")
    head = _parse(first)
    if type(head) is not dict or (head.get("roster"), head.get("fields")) != (FORMAT, [*FIELDS]):
        raise ValueError("an answer of another version")
    entries = [entry for line in lines for entry in read_rows(line)]
    if type(network := head.get("network")) is not int or head.get("connections") != len(entries):
        raise ValueError("an answer cut short")
    return Roster(pid, uid, network, tuple(entries))
