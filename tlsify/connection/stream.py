"""TLSSocket: a socket subclass that serves its own control records."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import time
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from tlsify.config import ClosePolicy
from tlsify.connection import exit as interpreter
from tlsify.connection.descriptor import Descriptor
from tlsify.connection.ending import forks
from tlsify.connection.ending.patience import Death
from tlsify.connection.file_calls import TURN, FileCalls
from tlsify.connection.message_calls import MessageCalls
from tlsify.connection.polling import LowWater, limit, patient
from tlsify.connection.setup.eligibility import capabilities
from tlsify.connection.turn import refusal
from tlsify.errors import TlsifyError, Truncated
from tlsify.tls.record import MAX_PLAINTEXT

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import ReadableBuffer, WriteableBuffer

    from tlsify.connection.control import Channel
    from tlsify.connection.handoff import Handoff, Offload
    from tlsify.connection.turn import Turn

T = TypeVar("T")
_log = logging.getLogger("tlsify")

# Records between two questions to the kernel how many there were (`sender.KEY_LIMIT_MARGIN`).
_CHECK_EVERY = 2**16
# Records between two questions whether TCP has the connection yet. A reset amid a send may be told
# to no call: that one returns what it has taken, and so do all later ones (`patience.Death`).
_PROVE_EVERY = 16
# What a receive counts for: 64 MiB that may be sent in answer to it past us, on the bare
# descriptor. The margin allows for four times as much.
_RECORDS_PER_RECEIVE = 2**26 // MAX_PLAINTEXT


class TLSSocket(MessageCalls, FileCalls):
    """An established connection for Python programs: read, write, sendfile, close.

    It serves all control records, so that ``recv`` returns data, ``b""`` after the peer's
    close_notify, or raises. It behaves the same on the relay's socketpair.

    Timeouts are the kernel's own, for each system call, not for the whole of ``sendall``: to wait
    with poll first, as Python does, would spin on partial records before Linux 6.5.
    """

    def __init__(self, handoff: Handoff, closing: ClosePolicy = ClosePolicy.STRICT) -> None:
        """Take over the connection of a hand-off.

        Args:
            handoff: its ``sock`` is this object from here on.
            closing: meaning of an end of stream without close_notify.

        Raises:
            OSError: the socket's timeout cannot be set; the connection was ended.
        """
        timeout = handoff.sock.gettimeout()
        super().__init__(fileno=handoff.sock.detach())
        self.handoff = handoff
        self._descriptor = Descriptor(self)
        handoff.belong_to(self, self._descriptor)
        self._closing = closing
        self._channel = handoff.channel
        if self._channel is not None:
            self._channel.sock = self._descriptor
        self._share, self._calls = handoff.share, handoff.calls
        self._timeout: float | None = None
        self._low_water = LowWater(self._descriptor)
        self._broken: OSError | None = None
        self.death = handoff.death = Death(self._descriptor)
        self._unchecked = 0  # records, at most, since the kernel was asked for their number
        self._unproven = 0  # likewise, since it was asked whether the connection lives
        self._longest = handoff.negotiated.longest
        try:
            self.settimeout(timeout)
        except OSError:  # no other process has the connection
            self.abort()
            raise

    @property
    def offload(self) -> Offload:
        """Carrier of the records: the kernel or a relay."""
        return self.handoff.offload

    # -- receiving

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Receive up to ``bufsize`` bytes; ``b""`` once the peer has sent close_notify.

        Raises:
            Truncated: the stream ended without close_notify, and the policy is STRICT.
            HandshakeError: the connection is over; the peer got its alert.
            TimeoutError: no data came in time.
            BlockingIOError: non-blocking, and no data is available.
        """
        if bufsize == 0:
            return b""
        try:
            if (channel := self._channel) is not None:
                return self._receive(channel, lambda how: channel.receive(bufsize, how), flags)
            return self._relayed(lambda: super(TLSSocket, self).recv(bufsize, flags), b"")
        except Truncated as exc:
            self._judge(exc)
            return b""

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        """Receive into a buffer, as `recv`; return the number of bytes."""
        if nbytes < 0:
            raise ValueError("negative buffersize in recv_into")
        view = memoryview(buffer).cast("B")[: nbytes or None]
        if not len(view):
            return 0
        try:
            if (channel := self._channel) is not None:
                return self._receive(channel, lambda how: channel.receive_into(view, how), flags)
            return self._relayed(lambda: super(TLSSocket, self).recv_into(view, 0, flags), 0)
        except Truncated as exc:
            self._judge(exc)
            return 0

    def _relayed(self, attempt: Callable[[], T], end: T) -> T:
        """Receive from the relay; return ``end`` at a clean end."""
        try:
            with self._calls.receives:
                received = attempt()
        except ConnectionResetError:
            # A relay that ends with unread data resets its socketpair; the relay knows the cause.
            received = end
        self._share.used = forks.seen
        if not received:
            interpreter.detain()
            self._calls.check(received)
            if not self._calls.are_deaf:
                self.handoff.raise_failure()
        return received

    def _judge(self, error: Truncated) -> None:
        interpreter.detain()
        if self._closing is ClosePolicy.STRICT:
            raise error
        _log.info("the peer ended the stream without close_notify")

    def _receive(self, channel: Channel, attempt: Callable[[int], T], flags: int) -> T:
        """Receive, one thread at a time: no other thread may between a KeyUpdate and its key."""
        flags = patient(flags, self._timeout)
        at_once = self._timeout == 0 or bool(flags & socket.MSG_DONTWAIT)
        self._take_turn(channel.reading, flags)
        self._share.used = forks.seen
        try:
            if self._broken is not None:
                raise self._broken.with_traceback(None)
            while True:
                try:
                    received = attempt(flags)
                except BlockingIOError:
                    if not at_once:
                        self._raise_timeout()
                    if self._low_water.rise():
                        continue
                    raise
                except Truncated:
                    # A broken connection reports its error to one call, and an end to the others.
                    self.death.refuse_end(has_shut_down=channel.session.close_notify_sent)
                    raise
                except (OSError, TlsifyError) as exc:
                    if isinstance(exc, OSError):
                        self.death.note(exc)
                    interpreter.detain()  # the peer may answer our FIN with an alert
                    raise
                self._calls.check(received)
                self._low_water.fall()
                if at_once:
                    self._serve_parked()
                break
        finally:
            channel.reading.release()
        self._unchecked += _RECORDS_PER_RECEIVE
        return received

    def _take_turn(self, turn: Turn, flags: int) -> None:
        """Wait for a turn, within the socket's timeout, unless another thread has closed."""
        seconds = -1 if self._timeout is None else self._timeout
        if not turn.acquire(blocking=not flags & socket.MSG_DONTWAIT, timeout=seconds):
            if turn.is_mine():
                raise refusal()
            self._raise_timeout()
        if self.fileno() == -1:  # the channel may go on without us, with another descriptor
            turn.release()
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    def _serve_parked(self) -> None:
        """Check for a KeyUpdate behind the received data, which poll does not report.

        Kernels that can rekey decrypt it along with the data in front, and from then on poll is
        silent (net/tls/tls_main.c tls_sk_poll). An end that is found here is for the next receive:
        ending the receiving direction makes poll report the socket for that call.
        """
        channel = self._channel
        if channel is None or not capabilities().rekey:
            return
        try:
            goes_on = channel.service(socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except TlsifyError:  # the session remembers it, or the next receive finds it again
            goes_on = False
        except OSError as exc:  # a socket tells it once
            self._broken = exc
            self.death.note(exc)
            goes_on = False
        if not goes_on:
            with contextlib.suppress(OSError):
                super().shutdown(socket.SHUT_RD)

    # -- sending

    def send(self, data: ReadableBuffer, flags: int = 0, /) -> int:
        """Send some of ``data``; return the number of bytes.

        Raises:
            RekeyUnsupported: the key is used up and cannot be changed.
            TimeoutError: the send buffer had no room in time.
            BlockingIOError: non-blocking, and the send buffer has no room.
        """
        return self._send_once(partial(super().send, data), flags)

    def _send_once(self, attempt: Callable[[int], int], flags: int) -> int:
        try:
            with self._calls.sends:
                if self._channel is None:
                    self._share.used = forks.seen
                    return attempt(flags)
                flags = patient(flags, self._timeout)
                return self._transmit(self._channel, partial(attempt, flags), flags)
        except OSError:
            interpreter.detain()
            raise

    def sendall(self, data: ReadableBuffer, flags: int = 0) -> None:
        """Send all of ``data``; raises as `send`."""
        view = memoryview(data).cast("B")
        with self._calls.sends:
            while view:
                sent = self.send(view[:TURN], flags)
                view = view[sent:]
                if view and sent < TURN:  # something has come between
                    self.death.look()

    def _transmit(self, channel: Channel, attempt: Callable[[], int], flags: int = 0) -> int:
        """Send once, after all control records that are due; no other thread sends meanwhile.

        What a signal handler sends within its own thread's send goes between two records.
        """
        is_within = channel.writing.is_mine()
        if not is_within or channel.is_changing_key:
            self._take_turn(channel.writing, flags)
        self._share.used = forks.seen
        try:
            # The kernel reports a broken connection once; afterwards it accepts data and drops it.
            self.death.refuse()
            if channel.session.close_notify_sent:
                raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
            channel.settle(flags & socket.MSG_DONTWAIT)
            if self._unchecked >= _CHECK_EVERY:
                self._unchecked = 0
                channel.refresh()
            sent = channel.pass_over(attempt)
        except BlockingIOError:
            self._raise_timeout()
        except OSError as exc:
            self.death.note(exc)
            channel.tell_reader(exc)
            raise
        finally:
            if not is_within:
                channel.writing.release()
        records = sent // self._longest + 1
        self._unchecked += records
        self._unproven += records
        if self._unproven >= _PROVE_EVERY:
            self._unproven = 0
            self.death.look()
        # A KeyUpdate that came meanwhile could not be answered: we were sending.
        if channel.session.update_due:
            channel.settle_if_free()
        return sent

    # -- closing

    def shutdown(self, how: int, /) -> None:
        """End the sending direction with close_notify, the receiving one, or both."""
        channel = self._channel
        if how != socket.SHUT_RD and not self._calls.finish_sending():
            self.handoff.tear()
        if how != socket.SHUT_WR:
            self.handoff.deafen()
        if how != socket.SHUT_RD and self.handoff.relay is not None and not self.handoff.is_cut:
            self.handoff.relay.end_in_order()
        if how != socket.SHUT_RD and channel is not None and not channel.close_notify():
            channel.shut_down_later()
            if how == socket.SHUT_WR:
                return
            how = socket.SHUT_RD
        try:
            super().shutdown(how)
        except OSError as exc:
            # A peer that has gone answers our close_notify with a reset; recv reports how it ended.
            if exc.errno != errno.ENOTCONN or how == socket.SHUT_RD:
                raise

    def unwrap(self) -> None:
        """Close in both directions: send close_notify, and wait for the peer's.

        Data that still arrives is discarded, until the timeout is over.

        Raises:
            As `recv`.
        """
        self.shutdown(socket.SHUT_WR)
        scratch = bytearray(2**16)
        until = float("inf") if self._timeout is None else time.monotonic() + self._timeout
        while self.recv_into(scratch):
            if time.monotonic() > until:
                self._raise_timeout()

    def abort(self) -> None:
        """Close without close_notify: the peer sees truncation. Sent data still arrives."""
        self.cut()
        self.close()

    def cut(self) -> None:
        """Make every later end one without close_notify."""
        self.handoff.is_cut = True

    def __exit__(self, *failure: object) -> None:
        """Close; without close_notify after an exception."""
        if any(failure):
            self.cut()
        self.close()

    def __del__(self) -> None:
        """End a forgotten connection, without close_notify."""
        if self.fileno() != -1:
            text = f"unclosed {self!r}"
            self.cut()
            self._timeout = 0.0  # a caller that waits for something else is not delayed
            self._real_close()  # first: with -W error the warning is an error
            warnings.warn(text, ResourceWarning, stacklevel=1, source=self)

    def _real_close(self, *args: Any) -> None:
        # socket.close calls this once the last file object made from the socket is closed too.
        if self.fileno() == -1:
            return
        self.handoff.sock = self  # weak references are the first that garbage collection clears
        wait = self.handoff.part(in_order=True)
        if self._descriptor.is_taken:  # the connection ends in the background
            super().detach()
        self._descriptor.leave()
        super()._real_close(*args)  # type: ignore[misc]
        self.handoff.sock = self._descriptor
        wait(None)

    def detach(self) -> int:
        """Return the descriptor's number, and leave it to the caller."""
        self._descriptor.leave()
        self.handoff.sock = self._descriptor
        return super().detach()

    # -- what else differs from a plain socket

    def settimeout(self, value: float | None, /) -> None:
        """Wait at most ``value`` seconds in each call; 0 never waits, None waits for ever."""
        if self._channel is None:
            super().settimeout(value)
        else:
            limit(self, value or 0.0)
            super().settimeout(0 if value == 0 else None)
        self._timeout = None if value is None else float(value)

    def gettimeout(self) -> float | None:
        """Return what `settimeout` set."""
        return self._timeout

    def _raise_timeout(self) -> NoReturn:
        if self._timeout:
            raise TimeoutError("timed out")
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
