"""Send a close_notify that does not fit yet, without anybody waiting for it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import struct
import termios
import threading
import time

from tlsify.codepoints import ContentType
from tlsify.ktls import ulp

# How long a peer may read nothing at all of what is queued for it.
PATIENCE = 30.0


class _Ending:
    """A connection whose last record is still to be sent."""

    def __init__(self, sock: socket.socket, alert: bytes) -> None:
        self.sock = sock
        self._alert = alert
        self._unread = _unread(sock)
        self.deadline = time.monotonic() + PATIENCE

    def tried(self) -> bool:
        """Send the alert and FIN, or give up; tells whether the connection is done with."""
        with contextlib.suppress(OSError):
            if not has_room(self.sock):
                if self._is_patient():
                    return False
            else:
                ulp.send_record(self.sock, ContentType.alert, self._alert, socket.MSG_DONTWAIT)
            self.sock.shutdown(socket.SHUT_WR)
        self.sock.close()
        return True

    def _is_patient(self) -> bool:
        if time.monotonic() < self.deadline:
            return True
        before, self._unread = self._unread, _unread(self.sock)
        self.deadline = time.monotonic() + PATIENCE
        return self._unread < before


def has_room(sock: socket.socket) -> bool:
    """Tell whether a control record can be sent at once, and FIN behind it.

    Without room MSG_DONTWAIT would do harm. Whoever waits for some has the kernel's lock on the
    sending side, for which it waits too. And a record that fits only in part is accepted and
    kept; a FIN comes before it (net/tls/tls_sw.c tls_sw_sendmsg, tls_tx_records).
    """
    poller = select.poll()
    poller.register(sock, select.POLLOUT)
    return bool(poller.poll(0))


def _unread(sock: socket.socket) -> int:
    """Tell how many bytes the peer has not acknowledged (tcp(7) SIOCOUTQ)."""
    (count,) = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))
    return int(count)


class _Lingerer:
    """One thread for all connections that end slowly; it lives while there are any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._endings: list[_Ending] = []
        self._running = False
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def add(self, ending: _Ending) -> None:
        with self._lock:
            self._endings.append(ending)
            if self._running:
                os.eventfd_write(self._bell, 1)
                return
            self._running = True
        # Not a daemon: the interpreter must not end before the last records are complete.
        threading.Thread(target=self._run, name="tlsify-linger").start()

    def _run(self) -> None:
        while True:
            with self._lock:
                self._endings = [ending for ending in self._endings if not ending.tried()]
                waiting = list(self._endings)
                if not waiting:
                    self._running = False
                    return
            self._wait(waiting)

    def _wait(self, waiting: list[_Ending]) -> None:
        poller = select.poll()
        poller.register(self._bell, select.POLLIN)
        for ending in waiting:
            poller.register(ending.sock, select.POLLOUT)
        until = min(ending.deadline for ending in waiting) - time.monotonic()
        poller.poll(max(0.0, until) * 1000)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)

    def forget(self) -> None:
        """In a forked child: the parent goes on with its connections, the child must not."""
        for ending in self._endings:
            ending.sock.close()
        os.close(self._bell)
        self.__init__()  # type: ignore[misc]


_lingerer = _Lingerer()
os.register_at_fork(after_in_child=_lingerer.forget)


def finish(sock: socket.socket, alert: bytes) -> None:
    """End the sending direction of a kTLS socket in good order, as soon as the peer lets us.

    A peer that takes nothing within `PATIENCE` seconds gets FIN alone, and sees truncation.

    Args:
        sock: keyed for TX; it may be closed, or received from, meanwhile.
        alert: close_notify.
    """
    _lingerer.add(_Ending(socket.socket(fileno=os.dup(sock.fileno())), alert))
