"""Inline: a relayed connection without a thread, for a caller that carries its data itself."""

from __future__ import annotations

import errno
import logging
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from tlsify.connection.ending import forks, patience
from tlsify.connection.ending.linger import never_wait
from tlsify.connection.relay.loads import READ_SIZE, Flow, enter, leave
from tlsify.connection.relay.pump import Relay
from tlsify.errors import RekeyUnsupported
from tlsify.metrics.counters import Event, count
from tlsify.tls.explain import truncated, unfinished

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlsify.errors import TlsifyError
    from tlsify.tls.keyed_tunnel import KeyedTunnel
    from tlsify.tls.negotiated import Resumable
    from tlsify.tls.room import RecordBuffer
    from tlsify.tls.tunnel import Tunnel

_log = logging.getLogger("tlsify")

_TURNS = 16


class InlineRelay(socket.socket):
    """A connection whose records its one user opens and seals, in the calls on it.

    It never waits: its descriptor is the network's, which is to be waited for. No thread wakes for
    it, and no socketpair is between; a `Relay` sees to its end alone. It is its own `Carrier`.

    Attributes:
        failure: the error that ended the peer's direction; None if there is none.
    """

    dies_with_process = False

    def __init__(
        self,
        sock: socket.socket,
        tunnel: Tunnel | KeyedTunnel,
        keep: Callable[[Resumable], None] | None = None,
    ) -> None:
        """Take over a connected socket and its tunnel; arguments are those of `Relay`."""
        super().__init__(fileno=sock.detach())
        self.settimeout(0)
        self.failure: TlsifyError | OSError | None = None
        self._tunnel = tunnel
        self._keep = keep
        self.local_address = forks.address(self.getsockname)
        self.peer_address = forks.address(self.getpeername)
        # Nagle would add the peer's delayed acknowledgement to an answer in two pieces.
        with suppress(OSError):
            self.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._records = b""  # sealed, and not yet taken by the network
        self._received = self._sent = 0
        self._is_settled = False  # the peer's direction has ended, as `failure` says
        self._is_ended = self._has_shut_down = self._in_order = False  # our own
        self._send_error: OSError | None = None
        self._patience: patience.Patience | None = None  # while data waits for the peer
        with suppress(OSError):  # as the next call will tell
            self.flush()

    @property
    def network(self) -> socket.socket:
        """The connection's own socket, which this is."""
        return self

    def settimeout(self, _value: float | None, /) -> None:
        """Never wait, whatever is asked for."""
        super().settimeout(0)

    # -- data

    def _refuse(self, *_: object, **_options: object) -> NoReturn:
        """Refuse what would go past TLS.

        Raises:
            TypeError: always.
        """
        raise TypeError("this socket has records: use receive and put")

    send = sendall = sendto = sendmsg = sendmsg_afalg = sendfile = makefile = _refuse
    recv = recv_into = recvfrom = recvfrom_into = recvmsg = recvmsg_into = _refuse

    def receive(self, room: RecordBuffer) -> int:
        """Receive data into a room; return its size, or 0 once the peer has sent close_notify.

        Raises:
            BlockingIOError: there is none.
            Truncated: the stream ended without close_notify.
            HandshakeError: the connection is over; the peer gets its alert.
            OSError: it broke.
        """
        while not self._is_settled:
            records = enter()
            try:
                size = super().recv_into(records.view, READ_SIZE)
                opened = self._tunnel.receive(records.view[:size], room) if size else 0
            except BlockingIOError:
                raise
            except OSError as exc:
                self._settle(exc)
                break
            finally:
                leave(records)
            self._received += size
            self._look(size)
            if opened:
                return opened
        if self.failure is not None:
            raise self.failure.with_traceback(None)
        return 0

    def _look(self, size: int) -> None:
        """Check whether the peer's direction has ended, and answer what has to be answered."""
        if self._keep is not None:
            for found in self._tunnel.take_sessions():
                self._keep(found)
        if self._tunnel.failure is not None:
            self._settle(self._tunnel.failure)
        elif self._tunnel.peer_closed:
            self._settle(None)
        elif not size:
            self._settle(self._send_error or truncated())
        if self._tunnel.waiting:
            with suppress(OSError):  # as the next send will tell
                self.flush()

    def _settle(self, failure: TlsifyError | OSError | None) -> None:
        self._is_settled, self.failure = True, failure
        if isinstance(failure, RekeyUnsupported):
            count(Event.KEY_LIMIT_REACHED)
        self._drop_held()

    def _drop_held(self) -> None:
        """End our direction, without close_notify, where data waits for what will never come."""
        if self._is_settled and self._tunnel.is_waiting:
            self._tunnel.drop()
            self._is_ended = True

    def _lose_patience(self) -> None:
        """Give the peer up when data has waited too long for the rest of a message."""
        if not self.is_waiting:
            self._patience = None
        elif self._patience is None:
            self._patience = patience.Patience(self)
        elif self._patience.is_over():
            self._give_up(unfinished())

    def _give_up(self, failure: TlsifyError) -> None:
        """End both directions, ours without close_notify."""
        self._settle(failure)
        self._is_ended = True
        with suppress(OSError):
            super().shutdown(socket.SHUT_RD)  # it wakes whoever waits for the peer's data

    def put(self, data: memoryview) -> None:
        """Seal data, as much as a room holds, and send what the network takes; `flush` the rest.

        Raises:
            OSError: our direction has ended, or the connection broke.
        """
        if self._is_ended or self._send_error is not None:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)) from self.failure
        room = enter()
        try:
            self._write(room.view[: self._tunnel.send_into(data, room)])
        finally:
            leave(room)
        self._drop_held()
        worn = self._tunnel.failure
        if not self._is_settled and isinstance(worn, RekeyUnsupported):
            self._give_up(worn)

    @property
    def is_waiting(self) -> bool:
        """Whether data has to wait for the rest of a message of the peer's."""
        return self._tunnel.is_waiting and not self._is_settled

    @property
    def is_out(self) -> bool:
        """Whether the network has all that it will get of what was put here, and of answers."""
        return self._has_shut_down or not (self._records or self._tunnel.waiting or self.is_waiting)

    @property
    def has_records(self) -> bool:
        """Whether the network has yet to take some of what was sealed: `flush` goes on."""
        return bool(self._records)

    def flush(self) -> bool:
        """Send what is due; return whether all is out.

        Raises:
            OSError: the connection broke.
        """
        if self._has_shut_down:
            return True
        self._lose_patience()
        room = enter()
        try:
            self._write(b"")
            while not self._records and (size := self._tunnel.output_into(room)):
                self._write(room.view[:size])
        finally:
            leave(room)
        is_out = not self._records
        if is_out and self._is_ended and not self._tunnel.is_waiting:
            self._has_shut_down = True
            super().shutdown(socket.SHUT_WR)
        return is_out

    def _write(self, records: bytes | memoryview) -> None:
        due = self._records + bytes(records) if self._records else records
        sent = 0
        try:
            if due:
                sent = super().send(due)
        except BlockingIOError:
            pass
        except OSError as exc:
            self._send_error, self._records = exc, b""
            self._tunnel.drop()
            raise
        self._sent += sent
        self._records = bytes(due[sent:])

    # -- ends

    def shutdown(self, how: int, /) -> None:
        """End the sending direction with close_notify, or the receiving one, or both."""
        if how != socket.SHUT_RD and not self._is_ended:
            self._is_ended = True
            self._tunnel.close()
            self._drop_held()
            with suppress(OSError):
                self.flush()
        if how != socket.SHUT_WR:
            super().shutdown(socket.SHUT_RD)

    def end_in_order(self) -> None:
        """Make a close a clean end, with close_notify."""
        self._in_order = True

    def _real_close(self, *args: Any) -> None:
        if self.fileno() == -1:
            return
        if self._in_order:
            self.shutdown(socket.SHUT_WR)
        elif not self._is_ended:
            self._is_ended = True
            self._tunnel.drop()
            with suppress(OSError):
                self.flush()
        if self._send_error is not None or (self._has_shut_down and not _is_owed(self)):
            self._tunnel.release()
        else:
            sock = socket.socket(fileno=self.detach())
            _finish(sock, self._tunnel, self._records, has_shut_down=self._has_shut_down)
        super()._real_close(*args)  # type: ignore[misc]

    # -- as a `Carrier`

    def join(self, timeout: float | None = None) -> bool:
        """Return whether the connection is over: nothing is under way in a thread."""
        del timeout
        return self._is_settled or self.fileno() == -1

    def is_lost(self, program_end: socket.socket) -> bool:  # noqa: ARG002 - `Carrier` has it
        """Return False: there is nothing else that could end."""
        return False

    def under_way(self) -> int:
        """Return how many bytes, records included, the peer has yet to acknowledge."""
        waiting = len(self._records) + self._tunnel.held
        with suppress(OSError, ValueError):
            waiting += patience.unacknowledged_by_tcp(self)
        return waiting

    def progress(self) -> patience.Progress:
        """Return the connection's progress by TCP's counts; without TCP, by our own.

        Raises:
            OSError: it is over.
        """
        has_ended = self._has_shut_down and not self._is_settled
        ours = patience.Progress.told_by_carrier(self._sent, self._received, has_ended=has_ended)
        return patience.progress_if_tcp(self) or ours


class _Remainder(Relay):
    """The end of a connection: its last records, FIN, and input until all has arrived."""

    _is_remainder = True

    def __init__(
        self,
        sock: socket.socket,
        tunnel: Tunnel | KeyedTunnel,
        records: bytes,
        *,
        has_shut_down: bool,
    ) -> None:
        super().__init__(sock, tunnel)
        self.to_network.hold(records)
        self._program_gone = True
        self._outbound = Flow.DONE if has_shut_down else Flow.DRAINING
        self._inbound = Flow.DISCARDING


def _is_owed(sock: socket.socket) -> bool:
    """Return whether closing now might lose data for the peer."""
    try:
        return bool(patience.unacknowledged(sock) or patience.unread(sock))
    except OSError:  # no connection any more
        return False


def _finish(
    sock: socket.socket, tunnel: Tunnel | KeyedTunnel, records: bytes, *, has_shut_down: bool
) -> None:
    """Leave the end of a connection to a thread; without one, or a pair, FIN goes out at once."""
    try:
        _Remainder(sock, tunnel, records, has_shut_down=has_shut_down).start().close()
    except (OSError, RuntimeError, MemoryError) as exc:
        count(Event.SHORTAGE)
        how = "before its peer has everything" if has_shut_down else "without close_notify"
        _log.warning("a connection ends %s: %s", how, exc)
        tunnel.release()
        with suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
            for _ in range(_TURNS):  # unread input would make it a reset, which loses what was sent
                sock.recv(READ_SIZE, socket.MSG_DONTWAIT)
        never_wait(sock)
        sock.close()
