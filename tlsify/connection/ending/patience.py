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

# Seconds for which a live peer may read nothing of the data queued for it.
PATIENCE = 30.0
# Seconds within which this process has to end (`hurry`), even on a silent path; None for no limit.
_at_most: float | None = None
# Seconds between two checks, which double: TCP does not announce acknowledgements.
_FIRST_LOOK, _LAST_LOOK = 0.004, 1.0

# struct tcp_info of include/uapi/linux/tcp.h, as far as tcpi_bytes_acked and tcpi_bytes_received
# (Linux 4.1).
_INFO = struct.Struct("=B x B B 4x 96x 16x Q Q")
# The same struct: tcpi_notsent_bytes, tcpi_bytes_sent and tcpi_bytes_retrans (Linux 4.19).
_WRITTEN = struct.Struct("=144x I 52x Q Q")
_ESTABLISHED, _FIN_WAIT2, _CLOSE = 1, 5, 7  # of include/net/tcp_states.h


class Progress(NamedTuple):
    """Progress of a connection, from TCP's counts.

    Attributes:
        state: of include/net/tcp_states.h.
        acknowledged: bytes that the peer has received, in total.
        path_is_silent: whether TCP is retransmitting, with no answer at all.
        received: bytes received from the peer and acknowledged, in total.
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
    """Return the bytes, FIN included, that the peer has yet to receive (SIOCOUTQ of tcp(7))."""
    return _count(sock, termios.TIOCOUTQ)


def unacknowledged_by_tcp(sock: socket.socket) -> int:
    """Return the bytes that the peer's TCP has yet to receive; 0 without TCP."""
    return 0 if progress_if_tcp(sock) is None else unacknowledged(sock)


def unread(sock: socket.socket) -> int:
    """Return the number of unread bytes: with any, closing would reset (tcp(7))."""
    return _count(sock, termios.FIONREAD)


def received(sock: socket.socket) -> int:
    """Return the number of bytes received on a TCP connection and acknowledged, in total."""
    return tcp_progress(sock).received


def written(sock: socket.socket) -> tuple[int, int]:
    """Return the number of bytes that TCP was given to send, ever; and how many of them it has not.

    No other thread of Python's runs until the caller's next step.
    """
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _WRITTEN.size)
    unsent, sent, repeated = _WRITTEN.unpack(info)
    return sent - repeated + unsent, unsent


def _count(sock: socket.socket, request: int) -> int:
    (count,) = struct.unpack("=i", fcntl.ioctl(sock, request, bytes(4)))
    return int(count)


class Death:
    """Error that ended a connection, which the kernel reports only once.

    Which error it is depends on the network: ECONNRESET, ETIMEDOUT, EHOSTUNREACH, ... The kernel
    accepts later data on a kTLS socket, and drops it.

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

    def look(self) -> None:
        """Find an end that the kernel has reported to no call.

        A send that is under way when a reset comes returns the number of bytes that it has taken,
        and uses the error up; each later one takes a record, and fails unseen with EPIPE
        (net/tls/tls_sw.c tls_sw_sendmsg_locked, net/core/stream.c sk_stream_error).
        """
        if not self.number and has_died(self._sock):
            self.number = errno.ECONNRESET

    def refuse_end(self, *, has_shut_down: bool) -> None:
        """Raise the error of a connection whose end looks like the peer's.

        Args:
            has_shut_down: whether we have sent FIN: after the peer's, TCP is then as after a reset.
        """
        if not has_shut_down:
            self.look()
        self.refuse()

    def refuse(self) -> None:
        """Raise the connection's error, if it has one."""
        if self.number:
            raise OSError(self.number, os.strerror(self.number))


def hurry(seconds: float) -> None:
    """Limit all later waits without progress in this process to some seconds.

    For a process that is killed unless it ends in time: silence of the path counts, too.
    """
    global _at_most
    _at_most = seconds


class Patience:
    """Time limit for a peer that has data to read: it is renewed by progress, or while TCP tries.

    A silent path is TCP's to give up (tcp(7) tcp_retries2): an outage that TCP outlives loses no
    data. A peer that answers and reads nothing has `PATIENCE` seconds.
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
        """Check the progress; return whether the time is over, or the connection is dead."""
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
        """Return a number that grows as the peer reads, and whether the path is silent.

        Raises:
            OSError: the connection is dead.
        """
        try:
            progress = tcp_progress(self._sock)
        except OSError:  # a UNIX domain socket, say, or no memory: its queue can still be asked
            return -unacknowledged(self._sock), False
        if progress.state == _CLOSE:  # a reset, say
            raise OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        return progress.acknowledged, progress.path_is_silent

    def pause(self) -> float:
        """Return the seconds until the next check, at most."""
        pause, self._pause = self._pause, min(2 * self._pause, _LAST_LOOK)
        return pause
