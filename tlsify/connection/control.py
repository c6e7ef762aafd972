"""Serve control records on a kTLS fd: perform a Session's actions."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import time
from typing import TYPE_CHECKING, NoReturn

from tlsify.codepoints import AlertDescription, ContentType, HandshakeType, ProtocolVersion
from tlsify.connection.ending import forks, linger
from tlsify.connection.ending.linger import Ending
from tlsify.connection.ending.patience import received, unread
from tlsify.connection.sender import Sender
from tlsify.connection.turn import Turn
from tlsify.errors import HandshakeError, KeyUpdateRefused, PeerAlert, PeerMisbehaved
from tlsify.keys import Direction
from tlsify.ktls import ulp
from tlsify.metrics.counters import Event, count
from tlsify.tls.explain import truncated
from tlsify.tls.record import MAX_PLAINTEXT
from tlsify.tls.session import (
    Action,
    Fail,
    InstallKeys,
    SendRecord,
    StoreTicket,
    UpdateKeys,
)

if TYPE_CHECKING:
    from tlsify.connection.setup.session_store import SessionIntake
    from tlsify.tls.session import Session

_log = logging.getLogger("tlsify")

_KEY_UPDATE = bytes([HandshakeType.key_update])


class Channel(Sender):
    """A kTLS socket with its session: data in and out, control records served on the way.

    One thread at a time may receive.

    Attributes:
        reading: the right to receive.
        intake: takes the tickets that come; None drops them.
        is_deaf: whether the program has ended the receiving direction: its end is no cut then.
    """

    def __init__(
        self, sock: socket.socket, session: Session, intake: SessionIntake | None = None
    ) -> None:
        """Take over a socket directly after its keys were installed."""
        super().__init__(sock, session)
        self.intake = intake
        self.is_deaf = False
        self.reading = Turn()
        linger.open_connections.add(self)

    # -- receiving

    def receive(self, size: int, flags: int = 0) -> bytes:
        """Receive data, after serving any control records in front of it.

        Args:
            size: maximum number of bytes to return, at least 1.
            flags: as for ``recvmsg``.

        Returns:
            Data; empty once the peer has sent close_notify, or behind the program's own SHUT_RD.

        Raises:
            Truncated: the stream ended without close_notify.
            HandshakeError: the peer ended the connection or has to be refused; it got its alert.
            OSError: as ``recv``; BlockingIOError if nothing is there.
        """
        self._refuse_failed()
        while not self.session.peer_closed:
            try:
                record = ulp.recv_record(self.sock, size, flags)
            except PeerMisbehaved as error:
                self.fail(error)
            if record is None:
                self._end()
                break
            if record.content_type == ContentType.application_data and record.payload:
                self._refuse_interruption()
                return record.payload
            self._serve_seen(record, peeked=bool(flags & socket.MSG_PEEK))
        return b""

    def receive_into(self, buffer: memoryview, flags: int = 0) -> int:
        """Receive as `receive`, into the caller's buffer; return the number of bytes."""
        self._refuse_failed()
        while not self.session.peer_closed:
            try:
                content_type, size, complete = ulp.recv_record_into(self.sock, buffer, flags)
            except PeerMisbehaved as error:
                self.fail(error)
            if content_type is None:
                self._end()
                break
            if content_type == ContentType.application_data and size:
                self._refuse_interruption()
                return size
            record = ulp.Record(content_type, bytes(buffer[:size]), complete)
            self._serve_seen(record, peeked=bool(flags & socket.MSG_PEEK))
        return 0

    def service(self, flags: int = 0) -> bool:
        """Serve the next record if it is a control record.

        Args:
            flags: as for ``recvmsg``.

        Returns:
            False once the peer has sent close_notify; True if it has not, be it that a control
            record was served or that data is next.

        Raises:
            As `receive`.
        """
        self._refuse_failed()
        self._serve_next(flags)
        return not self.session.peer_closed

    def serve_until_data(self, flags: int = 0) -> bool:
        """Serve all control records in front of the next data, and leave that to be read.

        Args:
            flags: as for ``recvmsg``.

        Returns:
            False once the peer has sent close_notify; True if data is next.

        Raises:
            As `receive`.
        """
        self._refuse_failed()
        while not self.session.peer_closed:
            if self._serve_next(flags):
                self._refuse_interruption()
                return True
            if self.is_deaf:
                break
        return False

    def _serve_next(self, flags: int) -> bool:
        """Serve the next record if it is a control record; return whether it is data instead."""
        try:
            upcoming = ulp.recv_record(self.sock, 1, socket.MSG_PEEK | flags)
        except PeerMisbehaved as error:
            self.fail(error)
        if upcoming is None:
            if not self.session.peer_closed:
                self._end()
            return False
        if upcoming.content_type == ContentType.application_data and upcoming.payload:
            return True
        self._serve_seen(upcoming, peeked=True)
        return False

    def _serve_seen(self, record: ulp.Record, *, peeked: bool) -> None:
        """Serve a record that is not the caller's; if it was peeked at, receive it first."""
        if peeked:
            self.serve(ulp.Record(record.content_type, b"", complete=False))
        elif record.content_type == ContentType.application_data:
            self.serve(record._replace(complete=True))
        else:
            self.serve(record)

    def _refuse_failed(self) -> None:
        """A kernel whose record parser has stopped would let the next receive wait for ever."""
        if self.session.failure is not None:
            raise self.session.failure.with_traceback(None)  # or each call would lengthen it

    def _refuse_interruption(self) -> None:
        if self.session.unfinished:  # RFC 8446 5.1
            self._refuse("data inside a fragmented handshake message")

    def _refuse(self, what: str) -> NoReturn:
        self.fail(PeerMisbehaved(what, alert=AlertDescription.unexpected_message))

    def tell_reader(self, error: OSError) -> None:
        """End the receiving direction if a send has raised an error that was meant for it.

        The kernel reports a bad record once, to the next call of either kind (net/tls/tls_sw.c
        tls_err_abort). A receive that waits meanwhile would wait for ever.
        """
        bad = ulp.bad_record(error.errno)
        if bad is not None and self.session.failure is None:
            try:
                self.fail(bad)
            except PeerMisbehaved:  # the reader's to raise
                with contextlib.suppress(OSError):
                    self.sock.shutdown(socket.SHUT_RD)

    def _end(self) -> None:
        """Refuse an end of the stream without close_notify, unless it is the program's own.

        Raises:
            Truncated: it is the peer's.
        """
        self._refuse_failed()
        if self.is_deaf:
            return
        count(Event.TRUNCATED)
        self.session.failure = truncated()
        raise self.session.failure

    def serve(self, record: ulp.Record) -> None:
        """Deal with one control record, of which the first part, or nothing, has been received.

        Raises:
            HandshakeError: the connection is over; the peer got its alert.
        """
        payload, complete = record.payload, record.complete
        is_data = record.content_type == ContentType.application_data
        while not complete:
            # The rest of this record lies in the kernel: this cannot block. Empty data is told
            # of only in front of a control record, which ends the receive.
            try:
                rest = ulp.recv_record(self.sock, 1 if is_data else MAX_PLAINTEXT)
            except PeerMisbehaved as error:
                self.fail(error)
            if rest is None:
                break
            payload += rest.payload
            complete = rest.complete or is_data
        session = self.session
        self._earn()
        actions = session.receive(record.content_type, payload)
        self.perform(actions)
        if record.content_type == ContentType.handshake and payload[:1] == _KEY_UPDATE:
            # For the kernel any handshake record that starts with this byte is a KeyUpdate, and a
            # key has to follow (net/tls/tls_sw.c tls_check_pending_rekey). After a first part, or
            # the middle of another message, that is the current one. TLS 1.2 has no way out.
            if session.version is ProtocolVersion.TLSv1_2:
                self._refuse("TLS 1.2 handshake record that begins as a KeyUpdate")
            if session.can_rekey and InstallKeys(Direction.RX) not in actions:
                ulp.reinstall(self.sock, Direction.RX, session.suite.aead)

    def _earn(self) -> None:
        taken = received(self.sock) - unread(self.sock)
        self.session.ration.earn(taken, time.monotonic())

    def perform(self, actions: list[Action]) -> None:
        """Perform a session's actions, in order.

        Raises:
            HandshakeError: of a `Fail`; the peer got its alert.
            KtlsError: the kernel refuses the next key.
        """
        for action in actions:
            match action:
                case SendRecord(content_type, payload):
                    if not self.session.close_notify_sent:
                        self.send_if_possible(content_type, payload)
                case InstallKeys():
                    self._follow_update()
                case UpdateKeys():
                    self.settle_if_free()
                case StoreTicket():
                    self._store_ticket(action)
                case Fail(error):
                    self.fail(error)

    def _store_ticket(self, action: StoreTicket) -> None:
        count(Event.TICKET_RECEIVED)
        if self.intake is not None:
            try:
                self.intake.take(action.message)
            except PeerMisbehaved as error:
                self.fail(error)

    def fail(self, error: HandshakeError) -> NoReturn:
        """End the connection: the alert that is due, then no more records.

        Raises:
            HandshakeError: the error itself, always.
        """
        self.session.failure = error
        if isinstance(error, KeyUpdateRefused):
            count(Event.KEY_UPDATE_REFUSED)
            _log.warning("connection ended: %s", error)
        else:
            count(Event.PEER_ALERT if isinstance(error, PeerAlert) else Event.PEER_MISBEHAVED)
        self.abort(None if isinstance(error, PeerAlert) else error.alert)
        self.wipe()  # not before: a writer must not derive its next key from wiped secrets
        raise error

    # -- closing

    def discard(self, scratch: memoryview) -> int:
        """Receive and drop unwanted data until the end of the stream (`linger.Receiver`).

        A fault in it must not cost the peer any sent data: no alert answers it.
        """
        if self.session.peer_closed or self.session.failure is not None:
            return 0
        if not self.reading.acquire(blocking=False):
            raise BlockingIOError(errno.EAGAIN, "another thread is receiving")
        try:
            kind, size, _ = ulp.recv_record_into(self.sock, scratch, socket.MSG_DONTWAIT)
            if kind is None:
                return 0
            if kind != ContentType.application_data:
                self._serve_unread(kind, bytes(scratch[:size]))
            return 0 if self.session.peer_closed else max(size, 1)
        finally:
            self.reading.release()

    def _serve_unread(self, content_type: int, payload: bytes) -> None:
        self._earn()
        for action in self.session.receive(content_type, payload):
            match action:
                case InstallKeys():
                    self._follow_update()
                case StoreTicket():
                    self._store_ticket(action)
                case Fail(error):
                    self.session.failure = error
                    is_alert = isinstance(error, PeerAlert)
                    count(Event.PEER_ALERT if is_alert else Event.PEER_MISBEHAVED)
                    _log.info("connection ended: %s", error)
                    raise error

    def end_with_interpreter(self) -> None:
        """Deliver sent data (`linger.Ends`); leave a connection that other processes have."""
        if self._ending is not None and self._ending.take(self):
            return  # its end in order is under way
        if (
            self.sock.fileno() != -1
            and linger.is_owed(self.sock)
            and not forks.is_left_to_others(forks.inode(self.sock))
        ):
            linger.finish(Ending(self._duplicate(), None, self))

    def wipe(self) -> None:
        """Wipe every secret, since the connection ends here."""
        self.session.wipe()
        if self.intake is not None:
            self.intake.wipe()
            self.intake = None

    def _follow_update(self) -> None:
        count(Event.KEY_UPDATE_RECEIVED)
        following = self.session.next_generation(Direction.RX)
        try:
            self.install(Direction.RX, following)
        finally:
            following.wipe()
