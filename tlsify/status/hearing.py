"""Receive processes' rows about their connections, within bounds."""

from __future__ import annotations

import os
import selectors
import socket
import struct
import time
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from tlsify.status import entries
from tlsify.system.sandbox import Restraint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tlsify.status.entries import Address, Entry

# The owner of each connection, by local address and peer's, as the kernel reports it.
Owners: TypeAlias = "Mapping[tuple[Address, Address], int]"

PEER = struct.Struct("=3i")  # unix(7) struct ucred
_CHUNK = 2**16
_LEAST = 2**9  # bytes that each receive counts for at least: small pieces cost more
# Average size of rows that is allowed. A row has 300 bytes, and 8000 if it consists of escapes.
_BYTES_PER_ROW = 2**10
# Malformed rows beyond which none of a process's rows count.
_MOST_ODD = 16


class Roster(NamedTuple):
    """The connections of one process.

    Attributes:
        pid: of the process, as this one's /proc numbers it; 0 outside of our PID namespace.
        uid: its user.
        entries: its connections.
        restraint: the rights that it has given up.
    """

    pid: int
    uid: int
    entries: tuple[Entry, ...]
    restraint: Restraint = Restraint()


class Heard(NamedTuple):
    """Received rows.

    Attributes:
        rosters: of this network namespace.
        silent: number of processes without an answer in time, or with an unintelligible one.
        elsewhere: number of processes with connections in other network namespaces.
        cut: users with rows that were left out: too many, or malformed ones.
    """

    rosters: list[Roster]
    silent: int
    elsewhere: int
    cut: set[int]


class Share:
    """Share of all processes of one user.

    Without a share a user could make this process read, and keep, any amount of rows.
    """

    def __init__(self, rows: int, owners: Owners | None = None) -> None:
        """Set the limits.

        Args:
            rows: limit on their number; a line counts as at least one.
            owners: if given, rows about other users' connections are dropped.
        """
        self._rows = rows
        self._bytes = rows * _BYTES_PER_ROW
        self._owners = owners

    def spend(self, rows: int, count: int) -> None:
        """Count some rows and bytes.

        Raises:
            OverflowError: they are too many.
        """
        self._rows -= rows
        self._bytes -= count
        if self._rows < 0 or self._bytes < 0:
            raise OverflowError

    def is_about(self, entry: Entry, uid: int) -> bool:
        """Return whether an entry is about a connection that is this user's own."""
        if self._owners is None:
            return True
        if entry.local is None or entry.peer is None:
            return False
        return self._owners.get((entry.local, entry.peer)) == uid


class _Answer:
    """Answer of one process, a line at a time.

    Attributes:
        entries: so far.
        is_over: whether all was said.
        is_elsewhere: whether it is about another network namespace.
        is_cut: whether something was left out.
        restraint: the rights that the process has given up.
    """

    def __init__(self, uid: int, share: Share, here: int) -> None:
        self.entries: list[Entry] = []
        self.is_over = self.is_elsewhere = self.is_cut = False
        self._uid = uid
        self._share = share
        self._here = here
        self._rest = b""
        self._missing: int | None = None  # rows; unknown before the head is read
        self._odd = 0
        self.restraint = Restraint()

    def take(self, data: bytes) -> None:
        """Read the next bytes, or the end.

        Raises:
            ValueError: it is something else, or cut short.
        """
        try:
            self._share.spend(0, max(len(data), _LEAST))
            *lines, self._rest = (self._rest + data).split(b"\n")
            if not data:
                lines.append(self._rest)
            for line in lines:
                if not self.is_over:
                    self._take_line(line)
        except OverflowError:
            self.is_over = self.is_cut = True
            return
        if len(self._rest) > entries.LONGEST_LINE:
            raise ValueError("a line that never ends")
        if not data and not self.is_over:
            if self._missing != 0:
                raise ValueError("an answer cut short")
            self.is_over = True

    def _take_line(self, line: bytes) -> None:
        if len(line) > entries.LONGEST_LINE:
            raise ValueError("a line that is too long")
        if self._missing is None:
            network, self._missing, self.restraint = entries.read_head(line)
            self.is_over = network != self._here
            self.is_elsewhere = self.is_over and self._missing > 0
            return
        found, odd = entries.read_rows(line)
        count = len(found) + odd
        self._share.spend(max(1, count), 0)
        self._missing -= count
        self._odd += odd
        self.is_cut |= odd > 0
        if self._odd > _MOST_ODD:
            raise ValueError("rows of another kind")
        self.entries += [each for each in found if self._share.is_about(each, self._uid)]


def hear(
    asked: Mapping[socket.socket, int],
    shares: Mapping[int, Share],
    patience: float,
    work: float,
) -> Heard:
    """Read all answers until each has ended, or one of the limits is reached.

    Args:
        asked: user of each process, by a non-blocking connection to it.
        shares: by user.
        patience: seconds to wait for all of them together, so that a stuck process delays no other.
        work: seconds to read, likewise.
    """
    here = os.stat("/proc/self/ns/net").st_ino
    answers = {each: _Answer(uid, shares[uid], here) for each, uid in asked.items()}
    failed = set()
    with selectors.DefaultSelector() as selector:
        for each in asked:
            selector.register(each, selectors.EVENT_READ, each)
        while selector.get_map() and patience > 0 and work > 0:
            began = time.monotonic()
            ready: list[socket.socket] = [key.data for key, _ in selector.select(patience)]
            woken = time.monotonic()
            for sock in ready:
                try:
                    answers[sock].take(_received(sock))
                except BlockingIOError:
                    continue
                except ValueError:
                    failed.add(sock)
                if answers[sock].is_over or sock in failed:
                    selector.unregister(sock)
            patience -= woken - began
            work -= time.monotonic() - woken
    return _summed_up(asked, answers, failed)


def _received(sock: socket.socket) -> bytes:
    """Receive something; nothing is the end, of whatever kind.

    Raises:
        BlockingIOError: there is nothing yet.
    """
    try:
        return sock.recv(_CHUNK)
    except BlockingIOError:
        raise
    except OSError:
        return b""


def _summed_up(
    asked: Mapping[socket.socket, int],
    answers: Mapping[socket.socket, _Answer],
    failed: set[socket.socket],
) -> Heard:
    heard = Heard([], 0, 0, set())
    silent = elsewhere = 0
    for sock, answer in answers.items():
        pid, uid, _ = PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size))
        if answer.is_cut:
            heard.cut.add(uid)
        if sock in failed or not answer.is_over or uid != asked[sock]:
            silent += 1
        elif answer.is_elsewhere:
            elsewhere += 1
        else:
            heard.rosters.append(Roster(pid, uid, tuple(answer.entries), answer.restraint))
    heard.rosters.sort(key=lambda each: each.pid)
    return heard._replace(silent=silent, elsewhere=elsewhere)
