"""Carry bytes between two descriptors and a TLS connection until both directions have ended."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import threading
from typing import TYPE_CHECKING

from tlsify.cli import streams
from tlsify.connection.stillness import Bounds, Stillness, Watch
from tlsify.connection.stream import TLSSocket
from tlsify.connection.traffic import Traffic
from tlsify.errors import DeadlineExceeded, ResourceError, TlsifyError, Truncated
from tlsify.metrics.counters import Event, count

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlsify.config import ClosePolicy
    from tlsify.connection.handoff import Handoff

_log = logging.getLogger("tlsify")
_CHUNK = 2**18
_HINT = "see what the peer waits for; --idle says how long that may take"
_MOMENT = 1.0  # seconds that a thread may take to get from a system call's error to our noting it


def half_close(stream: TLSSocket) -> None:
    """Send close_notify: no more data follows."""
    stream.shutdown(socket.SHUT_WR)


def stay_silent(stream: TLSSocket) -> None:
    """Do nothing: the peer gets no close_notify."""


def pump(  # noqa: PLR0913 - most are left alone
    handoff: Handoff,
    closing: ClosePolicy,
    source: int = 0,
    sink: int = 1,
    *,
    is_server: bool,
    end: Callable[[TLSSocket], None] = half_close,
    idle: float | None = None,
    traffic: Traffic | None = None,
) -> None:
    """Send what can be read from one descriptor, and write what is received to another.

    Returns when the peer has closed, and everything it sent has been written. A client that has
    closed may still wait for its answer: a server closes ``sink`` then, and goes on sending until
    ``source`` ends. So it does where ``sink`` has no reader any more.

    Where it fails with ``source`` not sent to its end, the peer sees truncation.

    Args:
        handoff: closed at the end.
        closing: what an end of stream without close_notify is.
        source: its end becomes close_notify; receiving goes on.
        sink: where what comes is written.
        is_server: whether the peer is a client.
        end: what the end of ``source`` becomes instead.
        idle: seconds without a byte in either direction, after which the connection is ended, in
            good order if the peer has got all that was sent; None for any time.
        traffic: counts what is carried.

    Raises:
        DeadlineExceeded: it was idle.
        HandshakeError: the connection ended badly.
        RekeyUnsupported: the sending key has protected enough, and no other can follow it.
        OSError: likewise, or one of the descriptors failed: ``filename`` tells which.
        ResourceError: no thread is available; the connection was cut.
    """
    with TLSSocket(handoff, closing) as stream, contextlib.ExitStack() as stack:
        writing = _Writing(source, sink, is_server=is_server)
        sending = _Sending(stream, source, end, traffic or Traffic(), writing)
        try:
            sending.start()
            if idle is not None:
                idling = _Idling(stream, sending, Bounds(idle))
                stack.callback(idling.stop.set)
                idling.start()
        except RuntimeError as exc:
            handoff.abort()
            raise ResourceError(exc, "no thread to carry the connection") from exc
        try:
            _receive(stream, sink, sending, is_server=is_server)
        except Exception as exc:
            cause = sending.cause(exc)
            if not sending.is_complete:
                handoff.abort()
            if cause is not exc:
                raise cause from exc
            raise
        except BaseException:  # we are ended by a signal, and in good order
            handoff.close()
            raise
        if sending.failure is not None:
            handoff.abort()
            raise sending.failure


def _receive(stream: TLSSocket, sink: int, sending: _Sending, *, is_server: bool) -> None:
    try:
        while data := stream.recv(_CHUNK):
            sending.moved += 1
            sending.traffic.received += len(data)
            sending.writing.write(data)
    except BrokenPipeError as exc:
        if is_server and exc.filename is not None:
            sending.over.wait()
        raise
    if is_server:
        os.close(sink)
        sending.over.wait()


class _Writing:
    """Writes what is received, and knows whether the source's end may be a reset.

    Source and sink may be one socket, which tells its error once: a read finds an end behind that.
    """

    def __init__(self, source: int, sink: int, *, is_server: bool) -> None:
        self._source, self._sink = source, sink
        self._is_server = is_server
        self._lock = threading.Lock()
        self._was_reset = False

    def write(self, data: bytes) -> None:
        """Write all of it; raises as `streams.write`."""
        view = memoryview(data)
        with self._lock:
            try:
                while view:
                    view = view[streams.write_some(self._sink, view) :]
            except BrokenPipeError:
                # A write that took a part may have used the error up (net/unix/af_unix.c).
                is_midst = len(view) < len(data)
                self._was_reset = not self._is_server or (
                    is_midst and os.path.sameopenfile(self._source, self._sink)
                )
                raise
            except OSError:
                self._was_reset = True
                raise

    def was_reset(self) -> bool:
        """Return whether an end of the source is none, for which the connection is to be cut."""
        poller = select.poll()
        poller.register(self._sink, 0)
        if not poller.poll(0):  # a write that is under way may take any time
            return False
        with self._lock:
            return self._was_reset


class _Sending(threading.Thread):
    """Sends what is read.

    Nothing wakes a thread that waits for a descriptor, so its end is not waited for.

    Attributes:
        is_complete: whether all has been sent, and its end told.
        failure: why not, where the receiving side cannot find that out by itself.
        over: whether there is nothing to wait for any more.
        moved: how often something has come or gone.
        traffic: counts the same in bytes.
        writing: what the other thread does meanwhile.
    """

    def __init__(
        self,
        stream: TLSSocket,
        source: int,
        end: Callable[[TLSSocket], None],
        traffic: Traffic,
        writing: _Writing,
    ) -> None:
        super().__init__(daemon=True)
        self._stream = stream
        self._source = source
        self._end = end
        self.traffic = traffic
        self.writing = writing
        self.is_complete = False
        self.failure: TlsifyError | OSError | None = None
        self.over = threading.Event()
        self.moved = 0
        self._broken: OSError | None = None
        self.is_sending = False

    def cause(self, seen: Exception) -> Exception:
        """Return what has ended the connection, of which the receiving side has seen something.

        A socket tells its error once: if that was to us, there it looks like truncation.
        """
        if not isinstance(seen, Truncated):
            return self.failure or seen
        if self.is_sending:
            self.join(_MOMENT)
        return self.failure or self._broken or seen

    def run(self) -> None:
        try:
            while data := streams.read(self._source, _CHUNK):
                self.is_sending = True
                self._stream.sendall(data)
                self.moved += 1
                self.traffic.sent += len(data)
                self.is_sending = False
            if self.writing.was_reset():
                return
            self._end(self._stream)
        except (TlsifyError, OSError) as exc:
            if isinstance(exc, OSError) and exc.filename is None:
                # The receiving side finds out what has become of the connection, and reports it.
                if self.is_sending:  # else only close_notify found the peer gone: no loss to tell
                    _log.debug("sending ended: %s", exc)
                self._broken = None if isinstance(exc, BrokenPipeError) else exc
            else:
                self.fail(exc)
        else:
            self.is_complete = True
        finally:
            self.over.set()

    def fail(self, failure: TlsifyError | OSError) -> None:
        """Make the receiving side raise this."""
        self.failure = failure
        with contextlib.suppress(OSError):
            self._stream.shutdown(socket.SHUT_RD)  # wakes it
        self.over.set()


class _Idling(threading.Thread):
    """Ends a connection on which nothing moves."""

    def __init__(self, stream: TLSSocket, sending: _Sending, bounds: Bounds) -> None:
        super().__init__(daemon=True)
        self._stream = stream
        self._sending = sending
        self._watch = Watch(stream.handoff, bounds)
        self.stop = threading.Event()

    def run(self) -> None:
        seen = -1
        while not self.stop.wait(self._watch.pause):
            if self._sending.moved != seen:  # the connection itself may be out of sight
                seen = self._sending.moved
                self._watch.moved()
            found = self._watch.look()
            if found is not None:
                self._act(found)
                return

    def _act(self, found: Stillness) -> None:
        count(Event.IDLE_ENDED)
        failure = DeadlineExceeded(self._watch.reason, hint=_HINT)
        self._sending.failure = failure  # before the peer can answer
        if found is Stillness.IDLE and not self._sending.is_sending:
            with contextlib.suppress(TlsifyError, OSError):
                self._stream.shutdown(socket.SHUT_WR)
        self._sending.fail(failure)
