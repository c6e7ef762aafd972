"""Handshakes under way: how many, from where, and which of them has stalled."""

from __future__ import annotations

import itertools
import socket
import struct
from typing import NamedTuple

from tlsify.connection.ending.patience import unread

# How long a peer may say nothing in its handshake before it counts as stalled, and how long a
# handshake may take then, in seconds: where handshakes take long in general, four times that.
_SILENCE, _AGE, _USUAL = 2.0, 10.0, 4.0
# How old a handshake is at least when it loses its place to a newcomer, if all places are taken.
_LEAST = 0.05
_SMOOTHING = 0.1
_SHORTEST_WAIT, _LONGEST_WAIT = 0.01, 0.25
# linux/tcp.h struct tcp_info: eight bytes, eleven 32-bit fields, then tcpi_last_data_recv in ms.
_LAST_DATA_RECV = struct.Struct("=52xI")
# An IPv6 site has 64 bits of its own, and so any number of addresses.
_SITE = 8
_MAPPED = bytes(10) + b"\xff\xff"


class PendingHandshake(NamedTuple):
    """One of them.

    Attributes:
        sock: the connection.
        origin: the peer's (`origin`).
        since: when it was accepted, on the loop's clock.
    """

    sock: socket.socket
    origin: bytes | None
    since: float


class PendingHandshakes:
    """The connections in their handshakes."""

    def __init__(self) -> None:
        """Begin with none."""
        self._from: dict[bytes | None, dict[PendingHandshake, None]] = {}  # the oldest first
        self._number = 0
        self._usual = 0.0

    def __len__(self) -> int:
        """Count them."""
        return self._number

    def number_from(self, where: bytes | None) -> int:
        """Count those from one origin."""
        return len(self._from.get(where, ()))

    def enter(self, opening: PendingHandshake) -> None:
        """Add one."""
        self._from.setdefault(opening.origin, {})[opening] = None
        self._number += 1

    def leave(self, opening: PendingHandshake) -> bool:
        """Remove one; return whether it was there."""
        fellows = self._from.get(opening.origin, {})
        if opening not in fellows:
            return False
        del fellows[opening]
        if not fellows:
            del self._from[opening.origin]
        self._number -= 1
        return True

    def took(self, seconds: float) -> None:
        """Record the duration of a successful handshake."""
        self._usual += _SMOOTHING * (seconds - self._usual)

    def stalled(self, now: float, *, pressing: bool = False) -> PendingHandshake | float | None:
        """Find the one that has to make room for others, if there is one.

        It is the oldest from where most come. One whose bytes we have not read yet has not
        stalled: this process is slow.

        Args:
            now: on the loop's clock.
            pressing: whether a newcomer waits for the place. Then it is the age that counts: a
                byte now and then keeps no place.

        Returns:
            The handshake; or the seconds until it is worth asking again; None if there are none.
        """
        if not self._from:
            return None
        usual = _USUAL * self._usual
        least = max(_LEAST if pressing else _SILENCE, min(usual, _AGE))
        age = max(_AGE, usual)
        first = min(next(iter(fellows)).since for fellows in self._from.values())
        if now - first < least:
            return max(first + least - now, _SHORTEST_WAIT)
        for fellows in sorted(self._from.values(), key=_crowd):
            for opening in itertools.takewhile(lambda it: now - it.since >= least, fellows):
                quiet = silence(opening.sock)
                if now - opening.since >= age or quiet >= least or (pressing and quiet > 0):
                    return opening
        return _LONGEST_WAIT


def _crowd(fellows: dict[PendingHandshake, None]) -> tuple[int, float]:
    """Order those from one origin: where most are first, and of as many the oldest."""
    return -len(fellows), next(iter(fellows)).since


def origin(name: object) -> bytes | None:
    """Return an address's origin, such as an IPv6 site; None for a local socket.

    Args:
        name: what ``accept`` gives: IPv6 is told apart by site, the first 64 bits.
    """
    if not isinstance(name, tuple):
        return None
    host = str(name[0]).partition("%")[0]
    if ":" not in host:
        return socket.inet_pton(socket.AF_INET, host)
    packed = socket.inet_pton(socket.AF_INET6, host)
    return packed[len(_MAPPED) :] if packed.startswith(_MAPPED) else packed[:_SITE]


def silence(sock: socket.socket) -> float:
    """Return the seconds since a peer last sent; 0 while there are bytes that we ought to read."""
    try:
        if unread(sock) >= sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT):
            return 0.0
        told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA_RECV.size)
        (milliseconds,) = _LAST_DATA_RECV.unpack(told)
    except (OSError, struct.error, ValueError):  # not TCP, or gone
        return _AGE
    return float(milliseconds) / 1000
