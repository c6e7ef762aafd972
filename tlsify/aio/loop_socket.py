"""LoopSocket: a TLSSocket in the terms of asyncio's own transports."""

from __future__ import annotations

import errno
import logging
import os
from contextlib import suppress
from socket import SO_ERROR, SOL_SOCKET
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from tlsify.config import ClosePolicy
from tlsify.connection.ending import forks
from tlsify.connection.stream import TLSSocket
from tlsify.errors import PeerMisbehaved, TlsifyError
from tlsify.ktls import ulp

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable, Iterable

    from _typeshed import ReadableBuffer, WriteableBuffer

    from tlsify.connection.control import Channel
    from tlsify.connection.handoff import Handoff

_log = logging.getLogger("tlsify")

# Between two looks whether what was sent has gone out, in seconds.
_BETWEEN_LOOKS = 0.005


class LoopSocket(TLSSocket):
    """A TLSSocket in the terms of asyncio's transports, and by default of HTTP.

    A transport reports anything but an OSError as a bug of the program, with a traceback; here
    the peer's faults become connection errors.

    Attributes:
        sends_file: whether asyncio is sending a file.
        on_cut: called with the error for the socket's user, just before the socket is closed.
        is_out: as `InlineSocket` has it, likewise the next: whether nothing is held back here.
        is_waiting: whether data has to wait for the peer.
    """

    is_out: ClassVar[bool] = True
    is_waiting: ClassVar[bool] = False

    def __init__(
        self,
        handoff: Handoff,
        closing: ClosePolicy = ClosePolicy.RELAXED,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        """Take over the connection of a hand-off.

        Args:
            handoff: as `TLSSocket` has it.
            closing: what an end of stream without close_notify is.
            on_close: called once, when the socket has been closed.
        """
        self._on_close = on_close
        self.sends_file = False
        self.on_cut: Callable[[OSError], None] | None = None
        super().__init__(handoff, closing)

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Receive as `TLSSocket.recv`; raises OSError only."""
        try:
            return super().recv(bufsize, flags)
        except (TlsifyError, OSError) as exc:
            raise_os_error(exc)

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        """Receive as `TLSSocket.recv_into`; raises OSError only."""
        try:
            return super().recv_into(buffer, nbytes, flags)
        except (TlsifyError, OSError) as exc:
            raise_os_error(exc)

    def send(self, data: ReadableBuffer, flags: int = 0, /) -> int:
        """Send as `TLSSocket.send`; raises OSError only."""
        try:
            return super().send(data, flags)
        except (TlsifyError, OSError) as exc:
            self._raise(exc)

    def sendmsg(
        self,
        buffers: Iterable[ReadableBuffer],
        ancdata: Iterable[Any] = (),
        flags: int = 0,
        address: Any = None,
        /,
    ) -> int:
        """Send several pieces as one, which Python 3.12's transports do; raises OSError only."""
        try:
            return super().sendmsg(buffers, ancdata, flags, address)
        except (TlsifyError, OSError) as exc:
            self._raise(exc)

    def send_file(self, source: int, offset: int, size: int) -> int:
        """Send some of a file, without waiting; raises OSError only.

        Args:
            source: the file's descriptor.
            offset: in bytes.
            size: most bytes to send.

        Returns:
            The number of bytes sent; 0 at the end of the file.
        """
        channel = self._channel
        self._share.used = forks.seen
        if channel is None:
            return os.sendfile(self.fileno(), source, offset, size)
        try:
            return self._transmit(channel, lambda: self._pour(channel, source, offset, size))
        except (TlsifyError, OSError) as exc:
            is_files = not self.death.number and channel.session.failure is None
            if isinstance(exc, OSError) and is_files:
                raise
            self._raise(exc)

    def _pour(self, channel: Channel, source: int, offset: int, size: int) -> int:
        """Send some of a file; EINVAL is the file's error then, not the socket's.

        The kernel reports bytes that are no record to a send (net/tls/tls_sw.c tls_err_abort), and
        may keep the error: reading it clears it, or the alert would fail, too.
        """
        try:
            return os.sendfile(self.fileno(), source, offset, size)
        except OSError as exc:
            if exc.errno != errno.EINVAL and ulp.bad_record(exc.errno) is None:
                raise
            self.getsockopt(SOL_SOCKET, SO_ERROR)
            if exc.errno != errno.EINVAL:
                raise
        if not channel.session.peer_closed:
            with suppress(BlockingIOError):
                os.sendfile(self.fileno(), source, offset, 1)  # a file's error comes again
            channel.fail(ulp.bad_header())
        return os.sendfile(self.fileno(), source, offset, size)

    def _raise(self, exc: TlsifyError | OSError) -> NoReturn:
        """Raise what ended a send: that may be what was received (`Channel.tell_reader`)."""
        try:
            failure = None
            if (channel := self._channel) is not None:
                if isinstance(exc, OSError) and exc.errno == errno.EINVAL:
                    self.getsockopt(SOL_SOCKET, SO_ERROR)
                    with suppress(PeerMisbehaved):
                        channel.fail(ulp.bad_header())
                failure = channel.session.failure
            raise_os_error(failure or exc)
        finally:
            del exc  # as in `raise_os_error`

    @property
    def is_readable(self) -> bool:
        """Whether an end was found behind data: libuv gives up a socket that poll finds broken."""
        if (channel := self._channel) is None:
            return False
        session = channel.session
        return session.peer_closed or (self._broken or session.failure) is not None

    def flush(self) -> bool:
        """Return True: nothing is held back here."""
        return True

    def look(self) -> None:
        """Do nothing: what has come is in the kernel."""

    @property
    def network(self) -> socket.socket:
        """The socket itself, which has the connection's options and addresses."""
        return self

    def leave(self, loop: asyncio.AbstractEventLoop, tell: Callable[[], object]) -> None:
        """Send outstanding data before the protocol learns that the connection is over.

        That is nothing but where this process was forked for the connection: told so, it may end
        by ``os._exit`` at once. Then the socket is closed first.

        Args:
            loop: waits meanwhile.
            tell: tells the protocol, and closes the socket.
        """
        if self.fileno() == -1 or not self.handoff.dies_with_process:
            tell()
            return
        is_out = self.handoff.part(in_order=True, may_wait=True)
        on_close, self._on_close = self._on_close, None
        self.close()
        self._on_close = on_close

        def look() -> None:
            if is_out(0):
                tell()
            else:
                loop.call_later(_BETWEEN_LOOKS, look)

        look()

    def _real_close(self, *args: Any) -> None:
        on_cut, self.on_cut = self.on_cut, None
        if on_cut is not None:
            on_cut(ConnectionAbortedError(errno.ECONNABORTED, "the connection was closed"))
        super()._real_close(*args)
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()


def raise_os_error(exc: TlsifyError | OSError) -> NoReturn:
    """Convert tlsify's errors to connection errors; the cause is logged."""
    try:
        if isinstance(exc, BlockingIOError | InterruptedError):
            raise exc
        _log.info("connection ended: %s", exc)
        if isinstance(exc, ConnectionError):
            raise exc
        if isinstance(exc, OSError):  # as TCP's ETIMEDOUT, which would be taken for a time limit's
            raise ConnectionAbortedError(exc.errno, exc.strerror) from exc
        raise ConnectionAbortedError(errno.ECONNABORTED, str(exc)) from exc
    finally:
        del exc  # or its traceback, which has this frame, would keep the caller's buffer
