"""The handshake: records in, records out, Negotiated at the end (pyOpenSSL)."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, ClassVar, Literal

from cryptography import x509
from OpenSSL import SSL

from tlsify.codepoints import (
    Aead,
    AlertDescription,
    CipherSuite,
    ContentType,
    ProtocolVersion,
)
from tlsify.config import ClientConfig, ServerConfig
from tlsify.errors import (
    HandshakeError,
    PeerAlert,
    PeerMisbehaved,
    TlsifyError,
)
from tlsify.tls.certificates import der
from tlsify.tls.client_hello import ClientHello, HelloCollector
from tlsify.tls.connection_factory import Connections
from tlsify.tls.explain import handshake_failure, peer_alert
from tlsify.tls.openssl import drain, dump_session, load_session, session_reused
from tlsify.tls.ration import Allowance
from tlsify.tls.record import HEADER_LENGTH, NO_RECORD, encode_plain_alert, split_records
from tlsify.tls.verify import PeerVerifier

if TYPE_CHECKING:
    from collections.abc import Sequence

    from OpenSSL import crypto
    from OpenSSL.SSL import _NoOverlappingProtocols

    from tlsify.tls.negotiated import Keys, Negotiated, Resumable

# What is needed at the end only is imported there: a client says hello sooner.
_TLS_1_3 = int(ProtocolVersion.TLSv1_3)
_SECRETS = (b"CLIENT_TRAFFIC_SECRET_0", b"SERVER_TRAFFIC_SECRET_0")


class Engine:
    """One handshake, without a socket: feed it single records, send its output.

    Feeding exactly one record at a time is what keeps the receiving sequence number at its start:
    nothing behind the peer's Finished is ever read (design note 0001).
    """

    is_remote: ClassVar[Literal[False]] = False  # as `isolation.remote_engine` has one

    def __init__(
        self,
        config: ClientConfig | ServerConfig,
        aeads: tuple[Aead, ...] | None = None,
        session: bytes | None = None,
        now: float = 0.0,
        *,
        keys: bool = True,
    ) -> None:
        """Prepare a handshake; a client's first flight is ready in ``output()`` at once.

        Args:
            config: decides the role.
            aeads: record protection to negotiate, where it differs from the configuration's.
            session: for a client to resume (`Resumable.session`). No path is verified then: it
                must come of a connection with the same peer, identities and trust anchors. One
                that OpenSSL or the server refuses leads to a full handshake.
            now: for a server that resumes; as `Connections` takes it.
            keys: whether anybody will ask for the traffic keys. A `Tunnel` does without.

        Raises:
            ConfigError: the configuration is unusable.
        """
        self._config = config
        self._connections = Connections(config, config.aeads if aeads is None else aeads, now)
        self.is_client = isinstance(config, ClientConfig)
        self._resumes = isinstance(config, ServerConfig) and config.resumption
        self._connection: SSL.Connection | None = None
        self._hello: ClientHello | None = None
        self._collector = HelloCollector()
        self._first_flight = bytearray()
        self._output = bytearray()
        self._wants_keys = keys
        self._begun = False  # whether the peer has sent a record
        self._allowance = Allowance()
        self._tickets: list[bytes] = []
        self._secrets: dict[bytes, bytearray] = {}
        self._last_flight = b""
        self._received: list[bytes] = []  # since ChangeCipherSpec: TLS 1.2 counts from there
        self._alert_sent: AlertDescription | None = None
        self._alert_received: int | None = None
        self._judge = PeerVerifier(config)
        self._key_log: list[bytes] = []
        self._negotiated: Negotiated | None = None
        if isinstance(config, ClientConfig):
            connection = self._connect()
            if config.server_name is not None:
                connection.set_tlsext_host_name(config.server_name.encode("ascii"))
            connection.set_connect_state()
            if session is not None:
                load_session(connection, session)
            self._advance(connection)

    def _connect(self, wanted: str | None = None) -> SSL.Connection:
        connection = self._connections.make(wanted)
        connection.set_app_data(self)
        self._connection = connection
        return connection

    # -- records in, records out

    def feed(self, record: bytes) -> None:
        """Process exactly one record from the peer.

        Args:
            record: header included.

        Raises:
            PeerAlert: the peer ended the handshake.
            IdentityError: the peer is not one of the accepted identities.
            PeerMisbehaved: anything else that it did wrong.

        After an error ``output()`` holds the alert that the peer has to be sent.
        """
        if self._negotiated is not None:
            msg = "a record was fed to a finished handshake"
            raise TlsifyError(msg)
        self._begun = True
        try:
            self._allowance.take(len(record))
            if self._connection is None:
                self._feed_hello(record)
            else:
                self._feed_engine(self._connection, record)
        except HandshakeError as exc:
            if self._allowance.left < 0:
                self.refuse(exc, NO_RECORD)
            elif self._connection is None and exc.alert is not None:
                self._output += encode_plain_alert(exc.alert)
            raise

    def _feed_hello(self, record: bytes) -> None:
        if record[0] == ContentType.alert:
            raise PeerAlert("the client sent an alert instead of a ClientHello")
        if record[0] != ContentType.handshake:
            raise PeerMisbehaved(
                f"record of type {record[0]} instead of a ClientHello",
                alert=AlertDescription.unexpected_message,
            )
        self._first_flight += record
        self._hello = self._collector.feed(record[HEADER_LENGTH:])
        if self._hello is not None:
            self._check_alpn(self._hello.alpn)
            connection = self._connect(self._hello.server_name)
            connection.set_accept_state()
            self._feed_engine(connection, bytes(self._first_flight))
            self._first_flight.clear()

    def _feed_engine(self, connection: SSL.Connection, record: bytes) -> None:
        connection.bio_write(record)
        self._received.append(record)
        if record[0] == ContentType.change_cipher_spec:
            self._received.clear()
        self._advance(connection)

    def _advance(self, connection: SSL.Connection) -> None:
        established = False
        try:
            connection.do_handshake()
            established = True
        except SSL.WantReadError:
            pass
        except SSL.Error as exc:
            raise self._explain(exc, drain(connection)) from exc
        emitted = drain(connection)
        self._last_flight = emitted or self._last_flight
        tickets: list[bytes] = []
        if established and not self.is_client and connection.get_protocol_version() == _TLS_1_3:
            # All that a TLS 1.3 server emits after the client's Finished is tickets, under the
            # application key. Held back where nothing is resumed, they leave TX at sequence
            # number 0.
            tickets = split_records(emitted)
        if tickets and not self._resumes:
            self._tickets = tickets
        else:
            self._output += emitted
        if established:
            self._negotiated = self._conclude(connection, tickets)

    def refuse(self, error: HandshakeError, received: bytes) -> None:
        """Answer bytes that are no record: ``output()`` then holds the alert, if one is due.

        Args:
            error: what the framer found.
            received: the offending bytes.
        """
        if self._connection is None or not self._begun:
            if error.alert is not None:
                self._output += encode_plain_alert(error.alert)
            return
        # The alert may have to be protected by now, so OpenSSL must find the fault by itself.
        self._connection.bio_write(received)
        with contextlib.suppress(SSL.Error):
            self._connection.do_handshake()
        self._output += drain(self._connection)
        error.alert = self._alert_sent

    def output(self) -> bytes:
        """Return the bytes to send to the peer now; empty if there are none."""
        output = bytes(self._output)
        self._output.clear()
        return output

    def result(self) -> Negotiated | None:
        """Return the outcome, or None while more records are needed."""
        return self._negotiated

    @property
    def wants_sessions(self) -> bool:
        """Whether the configuration has a place for what later connections may resume with."""
        return isinstance(self._config, ClientConfig) and self._config.session_store is not None

    def resumable(self) -> Resumable | None:
        """Return a client's session for resuming TLS 1.2; see `ticket_reader` for TLS 1.3.

        After a resumed handshake whose server sent no new ticket this is the old session, with the
        expiry it always had.
        """
        outcome, connection = self._negotiated, self._connection
        if not self.wants_sessions or outcome is None or connection is None:
            return None
        if outcome.version is ProtocolVersion.TLSv1_3:
            return None
        return outcome.resumable(dump_session(connection))

    def take_key_log(self) -> bytes:
        """Return the lines that the configuration's ``key_log`` asks for, and forget them."""
        lines = b"".join(self._key_log)
        self._key_log.clear()
        return lines

    def take_tickets(self) -> bytes:
        """Return the ticket records held back, for a connection that stays in userspace."""
        records = b"".join(self._tickets)
        self._tickets.clear()
        return records

    def take_connection(self) -> SSL.Connection:
        """Return the established OpenSSL connection away, for `tunnel.Tunnel`."""
        if self._connection is None or self._negotiated is None:
            msg = "the handshake is not finished"
            raise TlsifyError(msg)
        connection, self._connection = self._connection, None
        return connection

    def release(self) -> None:
        """Free OpenSSL's connection and the keys in it, now rather than at a collection."""
        if self._connection is not None:
            self._connection.set_app_data(None)
            self._connection = None
        self._tickets.clear()

    # -- what OpenSSL reports while it works (context.Observer)

    def on_key_log(self, line: bytes) -> None:
        """Keep the first generation's traffic secrets; all only for those who want a log."""
        if self._config.key_log is not None:
            self._key_log.append(line + b"\n")
        label, _, rest = line.partition(b" ")
        if label in _SECRETS:
            self._secrets[label] = bytearray.fromhex(rest.rpartition(b" ")[2].decode("ascii"))

    def on_alert(self, *, sent: bool, description: int) -> None:
        """Remember the last alert: a warning may come before the one that ends the handshake."""
        self._alert_sent = AlertDescription.known(description) if sent else None
        self._alert_received = None if sent else description

    def on_message(self) -> None:
        """Ignore it: that the handshake is finished is seen otherwise."""

    def on_certificate(
        self, certificate: crypto.X509, error: int, depth: int, *, valid: bool
    ) -> bool:
        """Check one certificate of the path."""
        return self._judge.hear(certificate, error, depth, valid=valid)

    def on_alpn(self, offered: list[bytes]) -> bytes | _NoOverlappingProtocols:
        """Choose the first of the server's own protocols that the client offers (RFC 7301 3.2)."""
        for protocol in self._config.alpn:
            if protocol in offered:
                return protocol
        return SSL.NO_OVERLAPPING_PROTOCOLS

    def _check_alpn(self, offered: Sequence[bytes]) -> None:
        """Refuse a client before OpenSSL sees it.

        pyOpenSSL keeps what a callback raises with the Context, where any other connection of the
        configuration may pick it up: `on_alpn` must not raise.
        """
        if self._config.alpn and offered and not set(self._config.alpn) & set(offered):
            raise PeerMisbehaved(
                "the client offers no ALPN protocol in common",
                alert=AlertDescription.no_application_protocol,
            )

    # -- the end, good or bad

    def _client_config(self) -> ClientConfig:
        if not isinstance(self._config, ClientConfig):
            msg = "a server has no reference identifiers"
            raise TlsifyError(msg)
        return self._config

    def _explain(self, exc: SSL.Error, emitted: bytes) -> HandshakeError:
        rejection = self._judge.rejection
        if rejection is not None and rejection.alert is not None:
            # OpenSSL knows nothing of the reason and would say internal_error.
            self._output += self._encode_alert(rejection.alert)
            return rejection
        self._output += emitted
        if rejection is not None:
            rejection.alert = self._alert_sent
            return rejection
        if self._alert_received is not None:
            return peer_alert(self._alert_received, "the handshake")
        return handshake_failure(exc, self._alert_sent)

    def _encode_alert(self, alert: AlertDescription) -> bytes:
        """Write the alert for a certificate that is refused.

        A client has protected nothing before it accepts the certificate, nor has a server of TLS
        1.2. One of TLS 1.3 has its last key already, and this is the first record under it.
        """
        secret = self._secrets.get(_SECRETS[1])
        if self.is_client or secret is None or self._connection is None:
            return encode_plain_alert(alert)
        from tlsify.tls.handshake_keys import sealed_alert  # noqa: PLC0415 - see above

        suite = CipherSuite.from_openssl(self._connection.get_cipher_name() or "")
        return sealed_alert(suite, bytes(secret), alert)

    def _conclude(self, connection: SSL.Connection, tickets: list[bytes]) -> Negotiated:
        name = connection.get_cipher_name() or ""
        suite = CipherSuite.from_openssl(name)
        shown = connection.get_peer_certificate()
        try:
            if shown is not None:
                shown.to_cryptography()
        except (ValueError, x509.InvalidVersion) as exc:
            # Only without verification does OpenSSL get this far, and then it is too late for it
            # to send an alert.
            raise PeerMisbehaved("the peer's certificate is malformed") from exc
        if not self._judge.heard and (error := self._judge.judge(shown)) is not None:
            # A resumed handshake shows no certificate to `on_certificate`. That its path was once
            # verified, against the same anchors, is for whoever kept the session to know
            # (`session_store.Origin`); a session mixed up must at least not name somebody else.
            error.alert = None
            self._output.clear()  # such a peer does not get our Finished
            raise error
        from tlsify.tls.negotiated import Negotiated, no_keys  # noqa: PLC0415 - see above

        hello = self._hello
        keys = self._keys(connection, suite, tickets) if self._wants_keys else no_keys(suite)
        self._secrets.clear()
        return Negotiated(
            suite=suite,
            alpn=connection.get_alpn_proto_negotiated() or None,
            server_name=hello.server_name if hello else self._client_config().server_name,
            certificate=None if shown is None else der(shown),
            group=connection.get_group_name() or "",
            resumed=session_reused(connection),
            max_fragment_length=hello.max_fragment_length if hello else None,
            **keys._asdict(),
        )

    def _keys(self, connection: SSL.Connection, suite: CipherSuite, tickets: list[bytes]) -> Keys:
        from tlsify.tls import handshake_keys, schedule  # noqa: PLC0415 - see above

        if suite.version is ProtocolVersion.TLSv1_3:
            try:
                client, server = (self._secrets.pop(name) for name in _SECRETS)
            except KeyError as exc:
                raise TlsifyError("OpenSSL's key log lacks a traffic secret") from exc
            ours, theirs = (client, server) if self.is_client else (server, client)
            sent = len(tickets) if self._resumes else 0
            return handshake_keys.tls13_keys(suite, ours, theirs, tickets, sent=sent)
        master_secret = connection.master_key()
        randoms = connection.client_random(), connection.server_random()
        if master_secret is None or None in randoms:
            raise TlsifyError("OpenSSL does not tell the master secret and the randoms")
        block = schedule.key_block(suite, master_secret, *filter(None, randoms))
        ours_last, theirs_last = split_records(self._last_flight)[-1], self._received
        return handshake_keys.tls12_keys(
            suite, block, is_client=self.is_client, sent=ours_last, received=theirs_last
        )
