"""Record protection that stays in userspace: plaintext in, records out, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from OpenSSL import SSL

from tlsify.codepoints import AlertDescription
from tlsify.tls.explain import library_failure, peer_alert
from tlsify.tls.harvest import SessionWatch
from tlsify.tls.record import MAX_PLAINTEXT

if TYPE_CHECKING:
    from tlsify.errors import HandshakeError, PeerAlert, PeerMisbehaved
    from tlsify.tls.engine import Engine
    from tlsify.tls.negotiated import Resumable

_DRAIN_SIZE = 2**18


class Tunnel:
    """An established connection whose keys OpenSSL keeps; tickets and KeyUpdate are its affair."""

    def __init__(self, engine: Engine) -> None:
        """Take over a finished engine, whose held-back tickets are due now.

        Raises:
            TlsifyError: its handshake is not finished.
        """
        self._output = bytearray(engine.take_tickets())
        self._connection = engine.take_connection()
        self._connection.set_app_data(self)
        self._sessions = SessionWatch(engine, self._connection) if engine.wants_sessions else None
        self._alert_received: int | None = None
        self._close_notify_received = False
        self._alert_sent: AlertDescription | None = None
        self._peer_closed = False
        self._failure: HandshakeError | None = None

    @property
    def peer_closed(self) -> bool:
        """Whether close_notify has come: an end of stream before that is truncation."""
        return self._peer_closed

    def output(self) -> bytes:
        """Give the records that have to be sent to the peer now; empty if none."""
        try:
            while True:
                self._output += self._connection.bio_read(_DRAIN_SIZE)
        except SSL.WantReadError:
            pass
        output = bytes(self._output)
        self._output.clear()
        return output

    def send(self, plaintext: bytes) -> None:
        """Protect plaintext of any length; the records are then in ``output()``."""
        view = memoryview(plaintext)
        while view:
            # One call makes one record, and a peer may have asked for shorter ones than ours.
            view = view[self._connection.send(bytes(view[:MAX_PLAINTEXT])) :]

    def receive(self, records: bytes) -> bytes:
        """Open what has come from the peer, in pieces of any size.

        Returns:
            The plaintext that became available; empty if none did. Where an error follows it, the
            next call raises that: what came before is still the caller's.

        Raises:
            PeerAlert: the peer ended the connection with an error alert.
            PeerMisbehaved: a record is wrong; ``output()`` holds the alert to answer with.
        """
        if self._failure is not None:
            raise self._failure
        if records:
            self._connection.bio_write(records)
        plaintext = bytearray()
        while not self._peer_closed:
            try:
                plaintext += self._connection.recv(MAX_PLAINTEXT)
            except SSL.WantReadError:
                break
            except SSL.ZeroReturnError:
                self._peer_closed = True
            except SSL.Error as exc:
                if self._close_notify_received:
                    # Behind user_canceled, where RFC 8446 6.1 wants it, OpenSSL knows it no more.
                    self._peer_closed = True
                    break
                self._failure = self._explain(exc)
                if not plaintext:
                    raise self._failure from exc
                break
        return bytes(plaintext)

    def take_sessions(self) -> list[Resumable]:
        """Give what later connections may resume with and was not given before.

        Of tickets that came in one piece only the last counts: OpenSSL keeps no others. It is for
        the caller to ask after each ``receive``; where the configuration wants no sessions there
        are none.
        """
        found = self._sessions.look() if self._sessions is not None else None
        return [] if found is None else [found]

    def close(self) -> None:
        """Put close_notify into ``output()``; nothing can be sent afterwards."""
        try:
            self._connection.shutdown()
        except SSL.Error:
            # A connection that failed has said its alert already.
            return

    def on_key_log(self, line: bytes) -> None:
        """Ignore later generations: they stay in OpenSSL."""

    def on_alert(self, *, sent: bool, description: int) -> None:
        """Remember the alert that ends the connection."""
        if not sent and description == AlertDescription.close_notify:
            self._close_notify_received = True
        if sent:
            self._alert_sent = AlertDescription.known(description)
            self._alert_received = None  # a warning at most, or there were nothing to answer
        elif description not in {AlertDescription.close_notify, AlertDescription.user_canceled}:
            self._alert_received = description

    def _explain(self, exc: SSL.Error) -> PeerAlert | PeerMisbehaved:
        if self._alert_received is not None:
            return peer_alert(self._alert_received, "the connection")
        return library_failure("the connection", exc, self._alert_sent)
