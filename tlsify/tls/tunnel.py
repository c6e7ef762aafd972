"""Record protection that stays in userspace: plaintext in, records out, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from OpenSSL import SSL

from tlsify.codepoints import AlertDescription, ProtocolVersion
from tlsify.errors import TlsifyError
from tlsify.tls import ticket_reader
from tlsify.tls.explain import library_failure, peer_alert
from tlsify.tls.ration import Ration, exceeded
from tlsify.tls.record import MAX_CIPHERTEXT, NO_RECORD
from tlsify.tls.room import lend, records_waiting, seal, write_whole
from tlsify.tls.wear import Wear

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlsify.errors import HandshakeError, PeerAlert, PeerMisbehaved, RekeyUnsupported
    from tlsify.tls.engine import Engine
    from tlsify.tls.negotiated import Resumable
    from tlsify.tls.room import RecordBuffer

# How much OpenSSL seals at once: its buffer grows to that, and does not shrink again.
_PIECE = 2**16
# How much it opens at once: a peer earns control records with it (`ration`).
_LENT = 2**18
# What OpenSSL may have of a record that is not yet whole.
ROOM_BEYOND = MAX_CIPHERTEXT


class Tunnel:
    """An established connection whose keys OpenSSL keeps; tickets and KeyUpdate are its affair.

    It changes the sending key if the peer asks for that, and never by itself: the bindings lack
    ``SSL_key_update``. A key that has protected enough ends the connection, without an alert.

    Attributes:
        is_client: the role.
    """

    def __init__(self, engine: Engine, clock: Callable[[], float] = float) -> None:
        """Take over a finished engine, whose held-back tickets are due now.

        Args:
            engine: its handshake is finished.
            clock: monotonic, in seconds; without one a peer earns no control records by time.

        Raises:
            TlsifyError: its handshake is not finished.
        """
        if (negotiated := engine.result()) is None:
            raise TlsifyError("the handshake is not finished")
        self._wear = Wear(negotiated)
        self._has_key_updates = negotiated.version is ProtocolVersion.TLSv1_3
        self._emitted = 0  # bytes of records, before the present call of OpenSSL's
        self.is_client = engine.is_client
        self._output = bytearray(engine.take_tickets())
        self._connection = engine.take_connection()
        self._connection.set_app_data(self)
        write_whole(self._connection)
        self._sessions = (
            ticket_reader.SessionWatch(engine, self._connection) if engine.wants_sessions else None
        )
        self._alert_received: int | None = None
        self._close_notify_received = False
        self._alert_sent: AlertDescription | None = None
        self._peer_closed = False
        self._failure: HandshakeError | RekeyUnsupported | None = None
        # While a handshake message of the peer's is here in part, OpenSSL sends nothing: plaintext
        # and close_notify wait for the rest of it.
        self._held = bytearray()
        self._closing = False
        self._clock = clock
        self._received = 0
        self._ration = Ration()
        self._is_flooded = False

    @property
    def peer_closed(self) -> bool:
        """Whether close_notify has come: an end of stream before that is truncation."""
        return self._peer_closed

    @property
    def failure(self) -> HandshakeError | RekeyUnsupported | None:
        """Return the error that ended the connection; ``output_into`` has the alert that is due."""
        return self._failure

    @property
    def is_waiting(self) -> bool:
        """Whether plaintext or close_notify has to wait for more of the peer's records."""
        return self.held > 0

    @property
    def held(self) -> int:
        """Return how many bytes have to wait so; close_notify counts as one."""
        return len(self._held) + self._closing

    @property
    def waiting(self) -> int:
        """Return the number of bytes that ``output_into`` would write."""
        return len(self._output) + records_waiting(self._connection)

    def output_into(self, room: RecordBuffer, offset: int = 0) -> int:
        """Write the records that have to be sent into a buffer, as far as it suffices.

        Returns:
            The number of bytes; 0 if there are none.
        """
        if not self._output:
            return room.read_records(self._connection, offset)
        size = min(len(self._output), len(room.view) - offset)
        room.view[offset : offset + size] = self._output[:size]
        del self._output[:size]
        return size

    def send(self, plaintext: bytes | memoryview) -> None:
        """Protect plaintext of any length; ``output_into`` then has the records.

        What has to wait (`is_waiting`) is kept, and protected once the records for it have come.
        Of a connection that failed nothing more is sent.
        """
        if self._failure is not None:
            return
        if self._held:
            self._held += plaintext
            return
        view = memoryview(plaintext)
        try:
            while view:
                if (worn := self._wear.refusal(len(view))) is not None:
                    self._failure = worn
                    self.drop()
                    return
                self._emitted = records_waiting(self._connection)
                size = seal(self._connection, view)
                self._wear.add(size)
                view = view[size:]
        except SSL.WantReadError:
            self._held += view
        except SSL.Error as exc:  # it has read on, and found something wrong
            self._fail(exc)

    def _resume(self) -> None:
        """Send what had to wait, as far as that goes now."""
        if self._held:
            held, self._held = self._held, bytearray()
            self.send(memoryview(held))
        if self._closing and not self._held:
            self.close()

    def drop(self) -> None:
        """Forget what has to wait: nothing will follow it."""
        self._held.clear()
        self._closing = False

    def _fail(self, exc: SSL.Error) -> None:
        self._failure = failure = self._explain(exc)
        failure.__cause__ = exc
        self.drop()

    def send_into(self, plaintext: memoryview, room: RecordBuffer) -> int:
        """Do both, `send` and ``output_into``; much leaves less behind in OpenSSL's memory so."""
        size = self.output_into(room)
        for start in range(0, len(plaintext), _PIECE):
            self.send(plaintext[start : start + _PIECE])
            size += self.output_into(room, size)
        return size

    def receive(self, records: bytes | memoryview, room: RecordBuffer) -> int:
        """Decrypt data from the peer, in pieces of any size.

        Args:
            records: some; empty to learn of an error.
            room: where the plaintext goes, at least `ROOM_BEYOND` bytes larger than the records.

        Returns:
            How many bytes of plaintext became available. What is wrong behind them is in
            `failure`: a PeerAlert, or a PeerMisbehaved.
        """
        size = 0
        for start in range(0, len(records), _LENT):
            if self._is_over:
                break
            piece = records[start : start + _LENT]
            self._received += len(piece)
            lend(self._connection, piece)
            self._emitted = records_waiting(self._connection)
            size = self._open(room, size)
        if self._is_over:  # OpenSSL may not have read all of them
            lend(self._connection, b"")
        if self._held or self._closing:
            self._resume()
        return size

    @property
    def _is_over(self) -> bool:
        return self._failure is not None or self._peer_closed

    def _open(self, room: RecordBuffer, size: int) -> int:
        """Have OpenSSL open all it has; gives where the plaintext in the room ends then."""
        try:
            while opened := room.read_plaintext(self._connection, size):
                if self._is_flooded:  # later input is ignored
                    break
                size += opened
            if self._is_flooded:
                self._refuse_flood(room, size)
        except SSL.ZeroReturnError:
            self._peer_closed = True
        except SSL.Error as exc:
            if self._close_notify_received:
                # Behind user_canceled, where RFC 8446 6.1 wants it, OpenSSL knows it no more.
                self._peer_closed = True
            else:
                self._fail(exc)
        return size

    def _refuse_flood(self, room: RecordBuffer, size: int) -> None:
        """Have OpenSSL say the alert that is due: it finds fault with what we add."""
        lend(self._connection, NO_RECORD)
        try:
            room.read_plaintext(self._connection, size)
        except SSL.Error as exc:
            self._fail(exc)
        self._failure = exceeded(self._alert_sent)

    def take_sessions(self) -> list[Resumable]:
        """Return what later connections may resume with and was not given before.

        Of tickets that came in one piece only the last counts: OpenSSL keeps no others. It is for
        the caller to ask after each ``receive``; where the configuration wants no sessions there
        are none.
        """
        found = self._sessions.look() if self._sessions is not None else None
        return [] if found is None else [found]

    def close(self) -> None:
        """Add close_notify to the output, now or as soon as possible; no data follows it.

        A connection that failed has said its alert already.
        """
        if self._failure is None:
            try:
                self._closing = bool(self._held)
                if not self._held:
                    self._connection.shutdown()
            except SSL.Error:
                self._closing = True

    def release(self) -> None:
        """Free OpenSSL's connection, now rather than at a collection; the last call."""
        self._connection.set_app_data(None)
        self._sessions = None
        del self._connection

    def on_key_log(self, line: bytes) -> None:
        """Ignore later generations: they stay in OpenSSL."""

    def on_alert(self, *, sent: bool, description: int) -> None:
        """Remember the alert that ends the connection."""
        if description == AlertDescription.close_notify:
            self._close_notify_received |= not sent  # ours answers nothing
        elif sent:
            self._alert_sent = AlertDescription.known(description)
            self._alert_received = None  # a warning at most, or there were nothing to answer
        else:
            self._alert_received = description

    def on_message(self) -> None:
        """Count a ticket or a KeyUpdate: there are to be few of them for the data between them.

        One that has added to the output is ours, an answer, and a new key follows it.
        """
        if self._has_key_updates and records_waiting(self._connection) > self._emitted:
            self._wear.renew()
        self._ration.earn(self._received, self._clock())
        self._is_flooded |= not self._ration.spend()

    def _explain(self, exc: SSL.Error) -> PeerAlert | PeerMisbehaved:
        if self._alert_received is not None:
            return peer_alert(self._alert_received, "the connection")
        return library_failure("the connection", exc, self._alert_sent)
