"""Turn the tickets of a handed-off connection into sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from OpenSSL import SSL

from tlsify.codepoints import AlertDescription, ContentType, HandshakeType, ProtocolVersion
from tlsify.errors import PeerMisbehaved, TlsifyError
from tlsify.keys import TrafficKeys
from tlsify.tls.messages import (
    MAX_TICKET_MESSAGE,
    decode_handshake,
    decode_new_session_ticket,
)
from tlsify.tls.openssl import current_session, dump_session
from tlsify.tls.protection import seal_record
from tlsify.tls.record import MAX_PLAINTEXT

if TYPE_CHECKING:
    from tlsify.tls.engine import Engine
    from tlsify.tls.negotiated import Negotiated, Resumable

# Tickets that one connection is worth: browsers open six connections to a host, servers send two
# tickets. A harvest keeps 33 KiB of OpenSSL (measured, 4.0), which go with the last of these.
MAX_TICKETS = 4


class SessionWatch:
    """Tells when OpenSSL's connection has come to a session that it did not have before."""

    def __init__(self, engine: Engine, connection: SSL.Connection) -> None:
        """Watch the connection that a finished client's engine gave away.

        What a TLS 1.3 connection has now is the session without a ticket, or the one just resumed,
        which must not be used twice (RFC 8446 C.4); TLS 1.2 has its ticket already.
        """
        self.connection = connection
        self._outcome = _outcome(engine)
        self._left = MAX_TICKETS
        is_tls13 = self._outcome.version is ProtocolVersion.TLSv1_3
        self._seen = current_session(connection) if is_tls13 else None

    @property
    def exhausted(self) -> bool:
        """Whether nothing more is taken from this connection."""
        return self._left == 0

    def look(self) -> Resumable | None:
        """Return the connection's session unless it was there the last time."""
        if self.exhausted or (session := current_session(self.connection)) == self._seen:
            return None
        self._seen = session
        found = self._outcome.resumable(dump_session(self.connection))
        if found is not None:
            self._left -= 1
        return found


class TicketReader:
    """Keeps a TLS 1.3 client's OpenSSL connection for the sake of the tickets that are to come.

    What a ticket is resumed with is derived from a secret that only OpenSSL has. So each ticket
    that the kernel has opened is sealed again, as OpenSSL expects it: with the first generation of
    the receiving key and a count of its own. It hears of nothing else, above all of no KeyUpdate,
    so that the kernel's generation does not matter here.
    """

    def __init__(self, engine: Engine) -> None:
        """Take over a finished client's engine whose keys are not wiped yet, in place of `Tunnel`.

        Raises:
            TlsifyError: its handshake is not finished, or not a TLS 1.3 client's.
        """
        outcome = _outcome(engine)
        if outcome.version is not ProtocolVersion.TLSv1_3 or not engine.is_client:
            raise TlsifyError("only a TLS 1.3 client has tickets to wait for")
        if engine.keys is None:
            raise TlsifyError("tickets cannot be read without keys")
        rx = engine.keys.rx
        self._keys = TrafficKeys(rx.suite, bytearray(rx.key), bytearray(rx.iv), rx.seq)
        self._seq = rx.seq
        connection = engine.take_connection()
        connection.set_app_data(self)
        self._watch: SessionWatch | None = SessionWatch(engine, connection)

    def add(self, message: bytes) -> Resumable | None:
        """Read one ticket.

        Args:
            message: a whole NewSessionTicket, header included.

        Returns:
            None if the ticket is to be discarded, or OpenSSL does not take it, or there were enough
            already.

        Raises:
            PeerMisbehaved: it is malformed (decode_error), or another message
                (unexpected_message), which OpenSSL must not see.
        """
        buffer = bytearray(message)
        found = decode_handshake(buffer, limit=MAX_TICKET_MESSAGE)
        if found is None or buffer or found.msg_type != HandshakeType.new_session_ticket:
            raise PeerMisbehaved(
                "not a NewSessionTicket", alert=AlertDescription.unexpected_message
            )
        ticket = decode_new_session_ticket(found.body)
        watch = self._watch
        if watch is None or not ticket.lifetime:
            return None
        session = watch.look() if self._feed(watch.connection, message) else None
        if session is None or watch.exhausted:
            self.wipe()
        return session

    def _feed(self, connection: SSL.Connection, message: bytes) -> bool:
        """Feed a message to OpenSSL; return False if that ends its connection."""
        for start in range(0, len(message), MAX_PLAINTEXT):
            piece = message[start : start + MAX_PLAINTEXT]
            connection.bio_write(seal_record(self._keys, self._seq, ContentType.handshake, piece))
            self._seq += 1
        try:
            connection.recv(1)
        except SSL.WantReadError:
            return True
        except SSL.Error:
            # The alert that OpenSSL wants sent stays in it: a ticket is no reason to end a
            # connection that works.
            return False
        return False

    def wipe(self) -> None:
        """Overwrite the keys and let go of OpenSSL's connection; no ticket is taken any more."""
        self._keys.wipe()
        if self._watch is not None:
            self._watch.connection.set_app_data(None)
            self._watch = None

    def on_key_log(self, line: bytes) -> None:
        """Ignore what is none of ours."""

    def on_alert(self, *, sent: bool, description: int) -> None:
        """Ignore what is not sent."""

    def on_message(self) -> None:
        """Ignore it."""


def _outcome(engine: Engine) -> Negotiated:
    outcome = engine.result()
    if outcome is None:
        msg = "the handshake is not finished"
        raise TlsifyError(msg)
    return outcome
