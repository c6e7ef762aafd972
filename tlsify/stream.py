"""TLSSocket: a socket subclass that serves its own control records."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
import termios
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from tlsify import control
from tlsify.errors import TlsifyError
from tlsify.ktls.probe import capabilities, polls_partial_records

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import ReadableBuffer, WriteableBuffer

    from tlsify.handoff import Handoff, Offload

T = TypeVar("T")

_TIMEVAL = struct.Struct("@ll")
_MICROSECONDS = 1_000_000


class TLSSocket(socket.socket):
    """A handed-over connection for Python programs: read, write, sendfile, close.

    Over the kernel path it deals with whatever control records come, so that ``recv`` gives data,
    ``b""`` after the peer's close_notify, or raises. Over the relay path it is the plain end of
    the relay's socketpair, with the same answers.

    Timeouts are the kernel's own (SO_RCVTIMEO, SO_SNDTIMEO): waiting with poll first, as sockets
    in Python do, would spin on partial records before Linux 6.5. They hold for each system call,
    not for the whole of ``sendall``.
    """

    def __init__(self, handoff: Handoff) -> None:
        """Take over the connection of a hand-off."""
        timeout = handoff.sock.gettimeout()
        super().__init__(fileno=handoff.sock.detach())
        handoff.sock = self
        self.handoff = handoff
        self._session = handoff.session
        self._timeout: float | None = None
        self._low_water = 1
        self._broken: OSError | None = None
        self.settimeout(timeout)

    @property
    def offload(self) -> Offload:
        """Who protects the records."""
        return self.handoff.offload

    # -- receiving

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Receive up to ``bufsize`` bytes; ``b""`` once the peer has sent close_notify.

        Raises:
            Truncated: the stream ended without close_notify.
            HandshakeError: the connection is over; the peer got its alert.
            TimeoutError: nothing came in time.
            BlockingIOError: non-blocking, and nothing is there.
        """
        if bufsize == 0:
            return b""
        if self._session is None:
            received = super().recv(bufsize, flags)
            if not received:
                self._raise_relay_failure()
            return received
        session = self._session
        return self._receive(lambda: control.receive(self, session, bufsize, flags))

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        """Do as `recv`, into a buffer; gives the number of bytes."""
        view = memoryview(buffer).cast("B")
        view = view[: nbytes or len(view)]
        if not len(view):
            return 0
        if self._session is None:
            count = super().recv_into(view, 0, flags)
            if not count:
                self._raise_relay_failure()
            return count
        session = self._session
        return self._receive(lambda: control.receive_into(self, session, view, flags))

    def _receive(self, attempt: Callable[[], T]) -> T:
        if self._broken is not None:
            raise self._broken
        while True:
            try:
                received = attempt()
            except BlockingIOError:
                if self._wait_for_whole_record():
                    continue
                self._raise_timeout()
            self._reset_low_water()
            self._serve_parked()
            return received

    def _wait_for_whole_record(self) -> bool:
        """Keep poll quiet until more has come than now; True asks for one more try.

        Only where poll reports partial records. The second try closes the gap in which the rest
        of the record may have come: whatever comes after it exceeds the mark and wakes poll.
        """
        if self._timeout != 0 or not polls_partial_records():
            return False
        queued = struct.unpack("i", fcntl.ioctl(self, termios.FIONREAD, bytes(4)))[0]
        if queued + 1 == self._low_water:
            return False
        self._low_water = queued + 1
        self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, self._low_water)
        return True

    def _reset_low_water(self) -> None:
        if self._low_water != 1:
            self._low_water = 1
            self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)

    def _serve_parked(self) -> None:
        """Look behind the data just received, where poll would not tell.

        Kernels that can rekey decrypt a KeyUpdate along with the data in front of it, and from
        then on poll is silent (net/tls/tls_main.c tls_sk_poll). Whatever end is found here is the
        next receive's to report: this one has data to give. Ending the receiving direction makes
        poll ask for that call.
        """
        if self._timeout != 0 or self._session is None or not capabilities().rekey:
            return
        try:
            goes_on = control.service(self, self._session, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except TlsifyError:  # the session remembers it, or the next receive finds it again
            goes_on = False
        except OSError as exc:  # a socket tells it once
            self._broken = exc
            goes_on = False
        if not goes_on:
            with contextlib.suppress(OSError):
                super().shutdown(socket.SHUT_RD)

    def _raise_relay_failure(self) -> None:
        if self.handoff.relay is not None:
            self.handoff.raise_failure()

    # -- sending

    def send(self, data: ReadableBuffer, flags: int = 0, /) -> int:
        """Send some of ``data``; gives the number of bytes."""
        try:
            return super().send(data, flags)
        except BlockingIOError:
            self._raise_timeout()

    def sendall(self, data: ReadableBuffer, flags: int = 0, /) -> None:
        """Send all of ``data``."""
        try:
            super().sendall(data, flags)
        except BlockingIOError:
            self._raise_timeout()

    # -- closing

    def shutdown(self, how: int, /) -> None:
        """End the sending direction with close_notify, the receiving one, or both."""
        if how != socket.SHUT_RD:
            self.handoff.send_close_notify()
        try:
            super().shutdown(how)
        except OSError as exc:
            # A peer that has gone answers our close_notify with a reset. How it went, recv tells.
            if exc.errno != errno.ENOTCONN or how == socket.SHUT_RD:
                raise

    def unwrap(self) -> None:
        """Close in both directions: send close_notify, and wait for the peer's.

        Data that still comes is discarded.

        Raises:
            Truncated: the stream ended without close_notify.
            HandshakeError: the connection ended badly.
            TimeoutError: it did not come in time.
        """
        self.shutdown(socket.SHUT_WR)
        scratch = bytearray(2**16)
        while self.recv_into(scratch):
            pass

    def _real_close(self, *args: Any) -> None:
        # socket.close calls this once the last file object made from the socket is closed too.
        if self.fileno() != -1:
            self.handoff.send_close_notify()
        super()._real_close(*args)  # type: ignore[misc]

    # -- what else differs from a plain socket

    def settimeout(self, value: float | None, /) -> None:
        """Wait at most ``value`` seconds in each call; 0 never waits, None waits for ever."""
        if self.handoff.session is None:
            super().settimeout(value)
        else:
            super().settimeout(0 if value == 0 else None)
            seconds = value or 0.0
            packed = _TIMEVAL.pack(int(seconds), int(seconds % 1 * _MICROSECONDS))
            self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, packed)
            self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, packed)
        self._timeout = value

    def setblocking(self, flag: bool, /) -> None:  # noqa: FBT001 - socket's own signature
        """Wait for ever, or never."""
        self.settimeout(None if flag else 0.0)

    def gettimeout(self) -> float | None:
        """Give what `settimeout` set."""
        return self._timeout

    def _raise_timeout(self) -> NoReturn:
        if self._timeout:
            raise TimeoutError("timed out")
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def getpeername(self) -> Any:
        """Give the peer's address, also where the connection itself is the relay's."""
        relay = self.handoff.relay
        return super().getpeername() if relay is None else _known(relay.peer_address)

    def getsockname(self) -> Any:
        """Give our own address, likewise."""
        relay = self.handoff.relay
        return super().getsockname() if relay is None else _known(relay.local_address)

    def dup(self) -> NoReturn:
        """Refuse: two objects would serve the same control records."""
        raise NotImplementedError("a TLSSocket cannot be duplicated")


def _known(address: Any) -> Any:
    if address is None:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
    return address
