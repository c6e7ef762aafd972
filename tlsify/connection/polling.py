"""Timeouts of a kTLS socket, and events that wake its pollers."""

from __future__ import annotations

import math
import socket
import struct

from tlsify.connection.ending.patience import unread
from tlsify.ktls import probe

# asm-generic/socket.h SO_RCVTIMEO_NEW: the option of 32-bit C libraries whose time has 64 bits, as
# musl's. Its struct has 64-bit members; elsewhere they are longs.
_NEW = 66
_TIMEVAL = struct.Struct("=qq" if socket.SO_RCVTIMEO == _NEW else "@ll")
_MICROSECONDS = 1_000_000
_LONGEST = 2**63 / 1e9  # seconds, as Python counts them: 64 bits of nanoseconds


def timeval(seconds: float) -> bytes:
    """Pack a time limit as SO_RCVTIMEO and SO_SNDTIMEO want it (socket(7)); 0 is none.

    It is rounded up, as Python's are: a short remaining time must not become "no limit".
    """
    return _TIMEVAL.pack(*divmod(math.ceil(seconds * _MICROSECONDS), _MICROSECONDS))


def limit(sock: socket.socket, seconds: float) -> None:
    """Set the timeout of each system call on a socket, in seconds; 0 is no limit.

    Raises:
        ValueError, OverflowError: such a timeout cannot be, as for any socket of Python's.
    """
    if seconds < 0:
        raise ValueError("Timeout value out of range")
    if seconds > _LONGEST:
        raise OverflowError("timeout is too large")
    packed = timeval(seconds)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, packed)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, packed)


def receive_limit(sock: socket.socket) -> float | None:
    """Return the timeout of a receiving call (also of accept), in seconds; None for no limit."""
    packed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.size)
    seconds, microseconds = _TIMEVAL.unpack(packed)
    return seconds + microseconds / _MICROSECONDS or None


def patient(flags: int, timeout: float | None) -> int:
    """Return the flags of a call with a time limit: Python's own sockets ignore two of them then.

    They wait until there is something, MSG_DONTWAIT or not, and for no more, MSG_WAITALL or not.
    """
    return flags & ~(socket.MSG_DONTWAIT | socket.MSG_WAITALL) if timeout else flags


class LowWater:
    """The mark above which poll finds a socket readable (socket(7) SO_RCVLOWAT)."""

    def __init__(self, sock: socket.socket) -> None:
        """Begin where it is."""
        self._sock = sock
        self._mark = 0
        self._usual: int | None = None  # the program's own, while ours is there

    def rise(self) -> bool:
        """Keep poll quiet until more has come than now; True asks for one more try.

        Only where poll reports partial records. The second try closes the gap in which the rest
        of the record may have come: whatever comes after it exceeds the mark and wakes poll.
        """
        if not probe.polls_partial_records():
            return False
        if self._usual is None:
            self._usual = self._mark = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)
        return self._set(max(unread(self._sock) + 1, self._usual))

    def fall(self) -> None:
        """Make data wake pollers again as before."""
        if self._usual is not None:
            self._set(self._usual)
            self._usual = None

    def _set(self, mark: int) -> bool:
        if mark == self._mark:
            return False
        self._mark = mark
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, mark)
        return True
