"""End kTLS connections in the background, while sent data is outstanding."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import struct
import threading
import weakref
from typing import Protocol

from tlsify.codepoints import ContentType
from tlsify.connection import exit as interpreter
from tlsify.connection.ending.patience import Patience, unacknowledged, unread
from tlsify.connection.event_thread import EventThread, Interest
from tlsify.errors import TlsifyError
from tlsify.ktls import ulp
from tlsify.metrics.counters import Event, count

_log = logging.getLogger("tlsify")

# Bytes of unwanted input that are received at once, and how often in a row.
_SCRATCH = 2**16
_TURNS = 16
_THREAD = "tlsify-linger"
_LINGER = struct.Struct("=ii")


class Receiver(Protocol):
    """Interface that receives and discards input at the end of a connection."""

    def discard(self, scratch: memoryview) -> int:
        """Receive some input without waiting; return 0 at its end.

        Raises:
            BlockingIOError: no input is there.
            TlsifyError: input can no longer be received.
            OSError: likewise.
        """

    def wipe(self) -> None:
        """Wipe every secret."""


class Ending:
    """A connection that ends: close_notify if it is still to be sent, FIN, and input until then.

    Closing a socket with unread input, or before input arrives, makes TCP reset the connection and
    lose data that the peer has not received. So input is received, and checked, until the peer's
    TCP has acknowledged all data, or has ended its direction, too.
    """

    def __init__(
        self,
        sock: socket.socket,
        alert: bytes | None,
        receiver: Receiver | None = None,
    ) -> None:
        """Take over a socket.

        Args:
            sock: the connection; closed at the end.
            alert: close_notify, if it is still to be sent.
            receiver: receives input; None leaves that to another descriptor's owner, and the socket
                is closed as soon as FIN is on its way.
        """
        self.sock = sock
        self._alert = alert
        self._receiver = receiver
        self._receives = receiver is not None
        self._has_shut_down = False
        self._patience = Patience(sock)
        self._lock = threading.RLock()  # a finalizer may run in the midst of a step
        self._done = threading.Event()
        self._pause = 0.0

    def interest(self) -> Interest:
        """Return its events, edge-triggered, and a time.

        Before Linux 6.5 part of a record would wake a level-triggered poller again and again.
        """
        writes = select.EPOLLOUT if self._alert else 0
        reads = select.EPOLLIN if self._receives else 0
        return Interest({self.sock.fileno(): writes | reads | select.EPOLLET}, self._pause)

    def take(self, receiver: Receiver) -> bool:
        """Receive input, too, from now on; return False if the ending is complete."""
        with self._lock:
            if not self._done.is_set():
                self._receiver, self._receives = receiver, True
            return not self._done.is_set()

    def hurry(self, why: BaseException) -> None:
        """Send FIN now, if it is still due: there may be no later chance."""
        with self._lock:
            if self._alert is None:
                return
            count(Event.SHORTAGE)
            _log.warning("a connection ends without close_notify: %s", why)
            with contextlib.suppress(OSError):
                self._shut_down()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is complete; return whether it is."""
        if timeout is None:
            _lingerer.finish()
        return self._done.wait(timeout)

    def turn(self, _: dict[int, int] | None = None) -> bool:
        """Do a step; return whether the connection is complete, apart from `close`."""
        with self._lock:
            with contextlib.suppress(OSError):
                if not self._part():
                    return False
            self._complete()
            return True

    def abandon(self, exc: BaseException) -> None:
        """End it now, after a failure of our own."""
        _log.error("bug at the end of a connection", exc_info=exc)
        with self._lock:
            with contextlib.suppress(OSError):
                self._shut_down()
            self._complete()

    def close(self) -> None:
        """Close the socket."""
        never_wait(self.sock)
        self.sock.close()

    leave = close

    def _complete(self) -> None:
        if self._receiver is not None:
            self._receiver.wipe()
            with contextlib.suppress(OSError):  # a thread may still wait in a receive
                self.sock.shutdown(socket.SHUT_RD)
        self._done.set()

    def _part(self) -> bool:
        if self._alert is not None and has_room(self.sock):
            ulp.send_record(self.sock, ContentType.alert, self._alert, socket.MSG_DONTWAIT)
            self._alert = None
        is_over = self._patience.is_over()
        has_more = self._drain()
        if self._alert is None or is_over:
            if not self._has_shut_down:
                self._shut_down()
            # With unread input that cannot be received, only the peer's acknowledgement is left.
            if is_over or self._receiver is None or not unacknowledged(self.sock):
                return True
            if not self._receives and not unread(self.sock):
                return True
        self._pause = 0 if has_more else self._patience.pause()
        return False

    def _shut_down(self) -> None:
        self._has_shut_down, self._alert = True, None
        self.sock.shutdown(socket.SHUT_WR)

    def _drain(self) -> bool:
        """Receive input, up to a fair share; return whether there is more."""
        if self._receiver is None or not self._receives:
            return False
        try:
            for _ in range(_TURNS):
                if not self._receiver.discard(_scratch()):
                    self._receives = False
                    return False
        except BlockingIOError:
            return False
        except (TlsifyError, OSError):  # counted where it was found
            self._receives = False
            return False
        return True


_local = threading.local()


def _scratch() -> memoryview:
    """Return this thread's receive buffer."""
    if not hasattr(_local, "scratch"):
        _local.scratch = memoryview(bytearray(_SCRATCH))
    scratch: memoryview = _local.scratch
    return scratch


def never_wait(sock: socket.socket) -> None:
    """Have a close by this thread, which has others to serve, not wait for the peer.

    A program may have asked for that, of its own close (socket(7) SO_LINGER with a time).
    """
    with contextlib.suppress(OSError):
        option = sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER.size)
        is_on, seconds = _LINGER.unpack(option)
        if is_on and seconds:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER.pack(0, 0))


def has_room(sock: socket.socket) -> bool:
    """Return whether a control record can be sent at once, and FIN after it.

    Without room MSG_DONTWAIT would do harm. A sender that waits for room holds the kernel's lock on
    the sending side, and MSG_DONTWAIT waits for that lock. And a record that fits only in part is
    accepted and kept; a FIN comes before it (net/tls/tls_sw.c tls_sw_sendmsg, tls_tx_records).
    """
    poller = select.poll()
    poller.register(sock, select.POLLOUT)
    return bool(poller.poll(0))


def is_owed(sock: socket.socket) -> bool:
    """Return whether closing now might lose data for the peer, or has to wait."""
    try:
        return bool(unacknowledged(sock) or unread(sock))
    except OSError:  # no connection any more
        return False


class _Lingerer(EventThread[Ending]):
    """The thread for all connections that end slowly; it also works without descriptors."""

    def _open(self) -> None:
        """Open the descriptors that wake the thread; without any, it looks at intervals."""
        with contextlib.suppress(OSError):
            super()._open()

    def add(self, task: Ending) -> None:
        if interpreter.has_begun():  # a thread would be stopped in its midst
            self._leave(task)
            self.finish()
            return
        try:
            super().add(task)
        except (RuntimeError, MemoryError) as exc:
            if interpreter.is_near():  # no thread can start any more, and the end finishes it
                self._leave(task)
            else:
                self._fail([*self._taken(), task], exc)

    def _fail(self, left: list[Ending], exc: BaseException) -> None:
        """Leave connections to the next call, which may never come; no peer has to wait for it.

        Sent data arrives, and FIN behind it.
        """
        for ending in left:
            ending.hurry(exc)
            is_over = False
            with contextlib.suppress(Exception):  # perhaps the one that has ended the thread
                is_over = ending.turn()
            if is_over:
                ending.close()
            else:
                with self._lock:
                    self._leave(ending)

    def finish(self) -> None:
        """Serve the rest in this thread, at the interpreter's end, when no thread can start."""
        with self._lock:
            if self.is_running or not self._new:
                return
            self.is_running = True
        self._run()


_lingerer = _Lingerer(_THREAD)
os.register_at_fork(after_in_child=_lingerer.forget)


def finish(ending: Ending) -> None:
    """End a connection in the background, as soon as its peer has received all data.

    A peer that reads nothing of it within `patience.PATIENCE` seconds gets FIN alone, and sees
    truncation.
    """
    if ending.turn():
        ending.close()
    else:
        _lingerer.add(ending)


class Ends(Protocol):
    """A connection that is open when the interpreter ends."""

    def end_with_interpreter(self) -> None:
        """Deliver sent data; nothing else is due."""


open_connections: weakref.WeakSet[Ends] = weakref.WeakSet()


def _end_all() -> None:
    """Deliver sent data before the exit, which would reset a connection with unread data."""
    for connection in list(open_connections):
        with contextlib.suppress(OSError, ValueError):
            connection.end_with_interpreter()


interpreter.at(interpreter.Moment.END, _end_all)
interpreter.at(interpreter.Moment.FINISH, _lingerer.finish)
