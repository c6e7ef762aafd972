"""Time limits for peers that do not read sent data, distinct from silence of the path."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import termios
import time
from typing import NamedTuple

# How long a peer that is there may take nothing of what is queued for it.
PATIENCE = 30.0
# Set where a process has to end within a given time (`hurry`): seconds, whoever is silent.
_at_most: float | None = None
# Between two looks, which double: TCP tells nobody when an acknowledgement has come.
_FIRST_LOOK, _LAST_LOOK = 0.004, 1.0

# struct tcp_info of include/uapi/linux/tcp.h, as far as tcpi_bytes_acked and tcpi_bytes_received
# (Linux 4.1).
_INFO = struct.Struct("=B x B B 4x 96x 16x Q Q")
_ESTABLISHED, _FIN_WAIT2, _CLOSE = 1, 5, 7  # of include/net/tcp_states.h


class Progress(NamedTuple):
    """Progress of a connection, from TCP's counts.

    Attributes:
        state: of include/net/tcp_states.h.
        acknowledged: bytes that the peer has, ever.
        path_is_silent: whether what was sent is being sent again and again, with no answer at all.
        received: bytes that have come from it and were acknowledged, ever.
    """

    state: int
    acknowledged: int
    path_is_silent: bool
    received: int = 0

    @property
    def has_ended(self) -> bool:
        """Whether our FIN has been acknowledged, and the peer's has not come."""
        return self.state == _FIN_WAIT2

    @classmethod
    def told_by_carrier(cls, sent: int, received: int, *, has_ended: bool) -> Progress:
        """Return the progress of a connection other than TCP."""
        state = _FIN_WAIT2 if has_ended else _ESTABLISHED
        return cls(state, sent, path_is_silent=False, received=received)


def tcp_progress(sock: socket.socket) -> Progress:
    """Return TCP's progress of a connection.

    Raises:
        OSError: it is no TCP connection, or none any more.
    """
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size)
    state, retransmits, probes, acknowledged, received = _INFO.unpack(info)
    # One probe of a closed window is always under way; an answer sets their number back.
    return Progress(state, acknowledged, retransmits > 0 or probes > 1, received)


def progress_if_tcp(sock: socket.socket) -> Progress | None:
    """Return TCP's progress of a connection; None if it is not TCP, such as a UNIX domain socket.

    Raises:
        OSError: it is closed.
    """
    try:
        return tcp_progress(sock)
    except OSError as exc:
        if exc.errno in {errno.EOPNOTSUPP, errno.ENOPROTOOPT}:
            return None
        raise


def has_died(sock: socket.socket) -> bool:
    """Return whether TCP has given the connection up, or the peer has reset it."""
    try:
        return tcp_progress(sock).state == _CLOSE
    except OSError:
        return False


def unacknowledged(sock: socket.socket) -> int:
    """Return how many bytes the peer does not have yet, with any FIN (tcp(7), unix(7) SIOCOUTQ)."""
    return _count(sock, termios.TIOCOUTQ)


def unacknowledged_by_tcp(sock: socket.socket) -> int:
    """Return how many bytes the peer's TCP does not have yet; none, if there is no TCP."""
    return 0 if progress_if_tcp(sock) is None else unacknowledged(sock)


def unread(sock: socket.socket) -> int:
    """Return the number of unread bytes: with any, closing would reset (tcp(7))."""
    return _count(sock, termios.FIONREAD)


def received(sock: socket.socket) -> int:
    """Return how many bytes have come on a TCP connection, ever, and were acknowledged."""
    return tcp_progress(sock).received


def _count(sock: socket.socket, request: int) -> int:
    (count,) = struct.unpack("=i", fcntl.ioctl(sock, request, bytes(4)))
    return int(count)


class Death:
    """Error that ended a connection, which the kernel reports only once.

    Which error it is depends on the network: ECONNRESET, ETIMEDOUT, EHOSTUNREACH, ... The kernel
    takes whatever is sent afterwards on a kTLS socket, and drops it.

    Attributes:
        number: the errno; 0 as long as it lives.
    """

    def __init__(self, sock: socket.socket) -> None:
        """Begin with a connection that lives."""
        self._sock = sock
        self.number = 0

    def note(self, exc: OSError) -> None:
        """Record an error, if it was the connection's end."""
        if not self.number and (isinstance(exc, ConnectionError) or has_died(self._sock)):
            self.number = exc.errno or errno.ECONNRESET

    def refuse(self) -> None:
        """Raise the connection's error, if it has one."""
        if self.number:
            raise OSError(self.number, os.strerror(self.number))


def hurry(seconds: float) -> None:
    """Limit all later waits without progress in this process to some seconds.

    For who is killed if he does not end in time: silence of the path counts, too.
    """
    global _at_most  # noqa: PLW0603 - it is the process's
    _at_most = seconds


class Patience:
    """Waits with a peer that is owed something: as long as it takes some, or TCP tries.

    Silence of the path is TCP's to give up (tcp(7) tcp_retries2): an outage that TCP outlives
    loses nothing. A peer that answers and takes nothing has `PATIENCE` seconds.
    """

    def __init__(self, sock: socket.socket, seconds: float | None = None) -> None:
        """Begin now.

        Args:
            sock: the connection.
            seconds: without progress; `PATIENCE` if None.
        """
        self._sock = sock
        self._seconds = PATIENCE if seconds is None else seconds
        self._seen: int | None = None
        self._since = time.monotonic()
        self._pause = _FIRST_LOOK

    def is_over(self) -> bool:
        """Look how it goes; true once it has gone on long enough without anything, or is dead."""
        now = time.monotonic()
        try:
            taken, path_is_silent = self._look()
        except (OSError, ValueError):  # no connection any more, or no descriptor
            return True
        if taken != self._seen or (path_is_silent and _at_most is None):
            self._seen, self._since = taken, now
        seconds = self._seconds if _at_most is None else min(self._seconds, _at_most)
        return now - self._since >= seconds

    def _look(self) -> tuple[int, bool]:
        """Return a number that grows as the peer takes what it is owed, and if the path is silent.

        Raises:
            OSError: nobody will take anything any more.
        """
        try:
            progress = tcp_progress(self._sock)
        except OSError:  # a UNIX domain socket, say, or no memory: it knows what waits in it
            return -unacknowledged(self._sock), False
        if progress.state == _CLOSE:  # a reset, say
            raise OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        return progress.acknowledged, progress.path_is_silent

    def pause(self) -> float:
        """Return the seconds until the next look, at most."""
        pause, self._pause = self._pause, min(2 * self._pause, _LAST_LOOK)
        return pause
