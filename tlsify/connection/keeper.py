"""Keeper of a connection for a program without TLS support: read for it, close cleanly."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from typing import TYPE_CHECKING, NamedTuple

from tlsify.config import ClosePolicy
from tlsify.connection.ending.patience import tcp_progress, unacknowledged
from tlsify.connection.relay.pump import Relay
from tlsify.connection.stream import TLSSocket
from tlsify.connection.traffic import Traffic
from tlsify.connection.upkeep import Upkeep
from tlsify.errors import HandshakeError, TlsifyError

if TYPE_CHECKING:
    from tlsify.connection.handoff import Handoff

_BUFFER = 2**18
_TURNS = 16  # how often to receive before looking at anything else
# Seconds to wait, after the program's end, for the peer to read more of the sent data, or to close.
_PARTING = 5.0
_TICK = (
    0.001  # the shortest wait: for the kernel less than a microsecond is none, and that no limit
)


class Ends(NamedTuple):
    """The program's descriptors.

    Attributes:
        read: returns data, then end of stream, or ECONNRESET if the stream was cut.
        write: the connection itself, for ``write`` and ``sendfile``; on the relay path its end.
    """

    read: socket.socket
    write: socket.socket


class Keeper:
    """Owns the receiving side of a connection and all control records.

    The program writes to the connection itself, so `sendfile` stays zero-copy; it reads the data
    that the keeper has received. `run` raises the reason for a stream's end, which no descriptor
    can express.
    """

    def __init__(
        self,
        handoff: Handoff,
        closing: ClosePolicy = ClosePolicy.STRICT,
        traffic: Traffic | None = None,
    ) -> None:
        """Take over a hand-off; then pass ``ends`` on, close them (`let_go`), call `run`.

        Args:
            handoff: the connection.
            closing: what an end of stream without close_notify is.
            traffic: counts what the connection carries; ``sent`` is known at the end. The program
                writes to the kernel by itself: there it is what TCP was given, records and all.
        """
        self._traffic = Traffic() if traffic is None else traffic
        self._stream = TLSSocket(handoff, closing)
        # The program shares its flags and options, and knows of no timeout.
        self._stream.settimeout(None)
        self._relay = handoff.relay
        self._channel = handoff.channel
        self._upkeep: Upkeep | None = None
        if self._channel is not None:
            self._upkeep = Upkeep(self._channel)
            self._given_before = self._given_to_tcp()
        self._program, theirs = socket.socketpair()
        # Closing a socket with unread bytes resets its other end. This byte is never read: with it,
        # closing tells the program that the stream was cut.
        theirs.send(b"\0")
        self._program.settimeout(0)
        self.ends = Ends(theirs, socket.socket(fileno=os.dup(self._stream.fileno())))
        self._buffer = memoryview(bytearray(_BUFFER))
        self._pending = self._buffer[:0]
        self._receiving = True
        self._failure: TlsifyError | OSError | None = None
        self._tending = True

    def let_go(self) -> None:
        """Close the program's ends in this process, once they have been passed on."""
        for end in self.ends:
            end.close()

    def run(self, pid: int | None = None) -> None:
        """Serve the connection until no process holds ``ends.read`` and the program has ended.

        A connection that fails ends both directions, as soon as the program has been given what
        came before: so a program can wait for its keeper's exit status. The program may have been
        in the midst of something, so the peer gets no close_notify then.

        Args:
            pid: the program's process; None goes by ``ends.read`` alone.

        Raises:
            Truncated: the stream ended without close_notify.
            HandshakeError: the peer ended the connection, or had to be refused.
            RekeyUnsupported: the sending key has protected enough, and no other can follow it.
            OSError: the connection broke.
        """
        watched = _watch(pid)
        try:
            while self._program.fileno() != -1 or (watched is not None and self._failure is None):
                watched = self._turn(watched)
        finally:
            if watched is not None:
                os.close(watched)
            if self._channel is not None:  # while there is a socket to ask
                self._traffic.sent = max(self._given_to_tcp() - self._given_before, 0)
            self._part()
            if isinstance(self._relay, Relay):  # once it has taken all
                self._traffic.sent = self._relay.to_network.received
        if self._failure is not None:
            raise self._failure

    def _turn(self, watched: int | None) -> int | None:
        """Wait for an event, and handle it; return the rest of ``watched``."""
        wait = self._tend()
        poller = select.poll()
        if watched is not None:
            poller.register(watched, select.POLLIN)
        if self._program.fileno() != -1:
            poller.register(self._program, select.POLLOUT if self._pending else 0)
        if self._receiving and not self._pending:
            poller.register(self._stream, select.POLLIN)
        events = dict(poller.poll(None if wait is None else wait * 1000))
        if events.get(self._program.fileno(), 0) & (select.POLLHUP | select.POLLERR):
            self._forget_reader()
        elif self._pending or self._stream.fileno() in events:
            self._feed()
        if watched in events:
            os.close(watched)
            return None
        return watched

    # -- receiving

    def _feed(self) -> None:
        """Pass on and receive, as far as that goes without waiting."""
        goes_on = self._pass_on()
        for _ in range(_TURNS):
            if not (goes_on and self._receiving and self._receive()):
                return
            goes_on = self._pass_on()

    def _pass_on(self) -> bool:
        """Pass the received data, and its end, to the program; return False if that has to wait."""
        try:
            while self._pending:
                self._pending = self._pending[self._program.send(self._pending) :]
        except BlockingIOError:
            return False
        except OSError:
            self._forget_reader()
            return False
        if not self._receiving:
            self._end_of_stream()
        return True

    def _receive(self) -> bool:
        """Receive available data, or the end; return False if there is none."""
        size = 0
        try:
            # The descriptor itself must go on waiting: its flags are the program's, too.
            size = self._stream.recv_into(self._buffer, 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except (TlsifyError, OSError) as exc:
            self._failure = exc
        self._pending = self._buffer[:size]
        self._traffic.received += size
        self._receiving = size > 0
        return True

    def _end_of_stream(self) -> None:
        with contextlib.suppress(OSError):
            if self._failure is None:
                self._program.shutdown(socket.SHUT_WR)
            else:
                self._stream.cut()  # before the program can know of it, and end
                self._program.close()  # in front of the byte that was never read

    def _forget_reader(self) -> None:
        """Stop receiving, because the program reads no more: TCP then holds the peer back."""
        self._program.close()
        self._pending = self._buffer[:0]
        self._receiving = False

    # -- sending

    def _tend(self) -> float | None:
        """Change the key if that is due; return the time to look again."""
        if self._upkeep is None or not self._tending:
            return None
        try:
            return self._upkeep.look()
        except OSError:
            # Sending is over, which the program finds out by itself. Received data stays valid.
            self._tending = False
            return None
        except TlsifyError as exc:
            self._tending = self._receiving = False
            self._failure = exc
            if not self._pending:
                self._end_of_stream()
            return 0.0

    def _under_way(self) -> int:
        """Return how many bytes the peer has not acknowledged."""
        if self._relay is not None:
            return self._relay.under_way()
        return unacknowledged(self._stream)

    def _given_to_tcp(self) -> int:
        """Return how many bytes TCP was given to send, ever; 0 if there is no TCP any more."""
        try:
            return tcp_progress(self._stream).acknowledged + unacknowledged(self._stream)
        except OSError:
            return 0

    # -- the end

    def _part(self) -> None:
        """Send close_notify, and wait until sent data arrives: closing on unread bytes resets."""
        self._program.close()
        if self._upkeep is not None:
            while (pause := self._upkeep.end()) is not None:
                time.sleep(pause)
        with self._stream as stream, contextlib.suppress(HandshakeError, OSError):
            if stream.handoff.is_cut:
                socket.socket.shutdown(stream, socket.SHUT_WR)  # FIN alone, for all its holders
                return
            stream.shutdown(socket.SHUT_WR)
            before = self._under_way()
            deadline = time.monotonic() + _PARTING
            while (left := deadline - time.monotonic()) > 0:
                stream.settimeout(max(left, _TICK))
                with contextlib.suppress(TimeoutError):
                    if not stream.recv_into(self._buffer):
                        return
                now = self._under_way()
                if now < before:
                    before, deadline = now, time.monotonic() + _PARTING


def _watch(pid: int | None) -> int | None:
    """Return a descriptor that becomes readable with the end of a process."""
    if pid is None:
        return None
    with contextlib.suppress(ProcessLookupError):
        return os.pidfd_open(pid)
    return None
