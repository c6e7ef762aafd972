"""The handshake: what the peer sends in, records out, then Negotiated and Keys (pyOpenSSL)."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from OpenSSL import SSL

from tlsify.codepoints import (
    Aead,
    AlertDescription,
    CipherSuite,
    ProtocolVersion,
)
from tlsify.config import ClientConfig, ServerConfig
from tlsify.errors import HandshakeError, PeerMisbehaved, TlsifyError
from tlsify.keys import wipe
from tlsify.tls import challenge, conclusion, handshake_keys
from tlsify.tls.client_hello import HelloCollector, check_alpn
from tlsify.tls.connection_factory import Connections
from tlsify.tls.explain import cut_short, handshake_failure, peer_alert
from tlsify.tls.openssl import advance, drain, dump_session, load_session, observe
from tlsify.tls.ration import is_overdrawn, overdrawn
from tlsify.tls.record import (
    CHANGE_CIPHER_SPEC,
    FIRST_FLIGHT,
    NO_RECORD,
    SHORTEST_LAST,
    Framer,
    encode_plain_alert,
    last_alert,
    split_records,
)
from tlsify.tls.verify import verifier

if TYPE_CHECKING:
    from collections.abc import Callable

    from OpenSSL import crypto
    from OpenSSL.SSL import _NoOverlappingProtocols

    from tlsify.keys import Keys
    from tlsify.tls.negotiated import Negotiated, Resumable

Stranger: TypeAlias = "Callable[[bytes], bytes]"

_TLS_1_3 = ProtocolVersion.TLSv1_3


class Engine:
    """One handshake, without a socket: receive no more than it needs, send its output.

    Reading no further than a record's end is what keeps the receiving sequence number at its start:
    nothing behind the peer's Finished is ever read (design note 0001).

    Attributes:
        is_client: the role.
        server_name: SNI; a server's None until it is known.
        keys: of the finished handshake, if they were wanted; the caller wipes them.
        stranger: answers a peer that begins with something else than TLS, from what it has sent so
            far, in its own protocol; empty leaves it to the alert.
    """

    is_remote: ClassVar[Literal[False]] = False  # as `isolation.remote_engine` has one

    is_client = False
    server_name: str | None = None
    keys: Keys | None = None
    stranger: Stranger | None = None
    _connection: SSL.Connection | None = None
    _negotiated: Negotiated | None = None
    _is_challenge = False
    _max_fragment_length: int | None = None
    _output = b""
    _held = b""  # what OpenSSL is to get with the next record
    _last_flight = b""
    _alert_sent: AlertDescription | None = None
    _alert_received: int | None = None

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
            keys: whether traffic keys are wanted. A `Tunnel` does without.

        Raises:
            ConfigError: the configuration is unusable.
        """
        self._aeads = config.aeads if aeads is None else aeads
        self._use(config, now)
        self._wants_keys = keys
        self._tickets: list[bytes] = []
        self._received: list[bytes] = []  # since ChangeCipherSpec: TLS 1.2 counts from there
        self._key_log: list[bytes] = []
        self.on_key_log = self._key_log.append
        if isinstance(config, ClientConfig):
            self._framer = Framer(SHORTEST_LAST)
            self.is_client = True
            self.server_name = config.server_name
            connection = self._connect()
            observe(connection)
            if self.server_name is not None:
                connection.set_tlsext_host_name(self.server_name.encode("ascii"))
            connection.set_connect_state()
            if session is not None:
                load_session(connection, session)
            self._advance(connection)
        else:
            self._framer = Framer(FIRST_FLIGHT)
            self._collector = HelloCollector()

    def _use(self, config: ClientConfig | ServerConfig, now: float = 0.0) -> None:
        self._config = config
        self._connections = Connections(config, self._aeads, now)
        self._judge = verifier(config)

    def _connect(self, wanted: str | None = None) -> SSL.Connection:
        connection = self._connections.make(wanted)
        connection.set_app_data(self)
        self._connection = connection
        return connection

    # -- records in, records out

    def need(self) -> int:
        """Return how many bytes may be received now, always 1 or more."""
        return self._framer.need()

    def feed(self, data: bytes) -> None:
        """Process what has come from the peer.

        Args:
            data: at most ``need()`` bytes; empty at the end of the stream.

        Raises:
            Truncated: the stream ended within the handshake.
            PeerAlert: the peer ended the handshake.
            IdentityError: the peer is not one of the accepted identities.
            PeerMisbehaved: it did anything else wrong; ``output()`` then holds the alert for it.
        """
        if self._negotiated is not None:
            raise TlsifyError("data was fed to a finished handshake")
        if not data:
            raise cut_short(self.server_name)
        framer = self._framer
        while True:
            try:
                records = framer.feed(data)
            except PeerMisbehaved as error:
                self._meet(error, framer.pending)
                raise
            if records:
                self._process(records)
            if not framer.pending:
                return
            if self._negotiated is not None:
                raise TlsifyError("bytes behind the handshake were read")
            if not framer.is_faulty:
                return
            data = b""

    def _meet(self, error: PeerMisbehaved, pending: bytes) -> None:
        """Answer a peer that has sent no record, in its own protocol if it has begun so."""
        stranger = None if self._framer.count else self.stranger
        if stranger is not None and (answer := stranger(pending)):
            self._output += answer
            error.is_answered = True
        else:
            self.refuse(error, pending)

    def _process(self, records: bytes) -> None:
        connection, framer = self._connection, self._framer
        try:
            if is_overdrawn(framer.length, framer.count):
                raise overdrawn()
            if connection is None:
                self._greet(records)
            elif records == CHANGE_CIPHER_SPEC and framer.pending:
                self._held += records  # the next one has begun to come: OpenSSL gets both
            else:
                self._advance(connection, self._held + records)
        except HandshakeError as exc:
            exc.server_name = self.server_name
            if is_overdrawn(framer.length, framer.count):
                self.refuse(exc, NO_RECORD)
            elif self._connection is None and exc.alert is not None:
                self._output += encode_plain_alert(exc.alert)
            raise

    def _greet(self, records: bytes) -> None:
        """Collect a ClientHello, find out what to show for it, and have OpenSSL begin with it."""
        if (hello := self._collector.add(records)) is None:
            return
        self.server_name, self._max_fragment_length = hello.server_name, hello.max_fragment_length
        if (shown := challenge.answer(self._config, hello)) is not None:
            self._use(shown)
            self._is_challenge = True
        check_alpn(hello.alpn, self._config.alpn)  # `on_alpn` must not raise
        connection = self._connect(hello.server_name)
        connection.set_accept_state()
        if self._framer.count > 1:  # there may be an alert behind it
            observe(connection)
        self._advance(connection, self._collector.take())
        # Alerts are not sealed until a flight has been sent, so that `last_alert` can read them.
        observe(connection)

    def _advance(self, connection: SSL.Connection, records: bytes = b"") -> None:
        self._held = b""
        if records[:1] == CHANGE_CIPHER_SPEC[:1]:
            self._received.clear()
        self._received.append(records)
        try:
            is_finished, emitted = advance(connection, records)
        except SSL.Error as exc:
            raise self._explain(exc, drain(connection)) from exc
        if emitted:
            self._last_flight = emitted
            self._framer.ahead = SHORTEST_LAST
        if is_finished:
            self._conclude(connection, emitted)
        else:
            self._output += emitted

    def refuse(self, error: HandshakeError, received: bytes) -> None:
        """Answer bytes that are no record: ``output()`` then holds the alert, if one is due.

        Args:
            error: what is wrong with them.
            received: the bytes.
        """
        error.server_name = self.server_name
        if self._connection is None or not self._framer.count:
            if error.alert is not None:
                self._output += encode_plain_alert(error.alert)
            return
        # The alert may have to be protected by now, so OpenSSL must find the fault by itself.
        self._connection.bio_write(self._held + received)
        with contextlib.suppress(SSL.Error):
            self._connection.do_handshake()
        self._output += drain(self._connection)
        error.alert = self._alert_sent

    def output(self) -> bytes:
        """Return the bytes to send to the peer now; empty if there are none."""
        output, self._output = self._output, b""
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
        tls_1_2 = outcome.version is not _TLS_1_3
        return outcome.resumable(dump_session(connection)) if tls_1_2 else None

    def take_key_log(self) -> bytes:
        """Return the lines that the configuration's ``key_log`` asks for, and wipe all."""
        lines = b"" if self._config.key_log is None else b"\n".join([*self._key_log, b""])
        wipe(*self._key_log)
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
            raise TlsifyError("the handshake is not finished")
        connection, self._connection = self._connection, None
        return connection

    def release(self) -> None:
        """Free OpenSSL's connection and the keys in it, now rather than at a collection."""
        if self._connection is not None:
            self._connection.set_app_data(None)
            self._connection = None
        self.take_key_log()
        self._tickets.clear()

    # -- what OpenSSL reports while it works (context.Observer)

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
        judge = self._judge
        return judge is not None and judge.hear(certificate, error, depth, valid=valid)

    def on_alpn(self, offered: list[bytes]) -> bytes | _NoOverlappingProtocols:
        """Choose the first of the server's own protocols that the client offers (RFC 7301 3.2)."""
        for protocol in self._config.alpn:
            if protocol in offered:
                return protocol
        return SSL.NO_OVERLAPPING_PROTOCOLS

    # -- the end, good or bad

    def _explain(self, exc: SSL.Error, emitted: bytes) -> HandshakeError:
        rejection = None if self._judge is None else self._judge.rejection
        if rejection is not None and rejection.alert is not None:
            # OpenSSL knows nothing of the reason and would say internal_error.
            server = None if self.is_client else self._connection
            self._output += handshake_keys.refusal(server, self._key_log, rejection.alert)
            return rejection
        self._output += emitted
        if self._alert_sent is None:
            self._alert_sent = last_alert(emitted)
        if rejection is not None:
            rejection.alert = self._alert_sent
            return rejection
        if self._alert_received is not None:
            return peer_alert(self._alert_received, "the handshake")
        return handshake_failure(exc, self._alert_sent)

    def _conclude(self, connection: SSL.Connection, emitted: bytes) -> None:
        """Take stock of a finished handshake, and of the last that OpenSSL has to say in it."""
        if self._is_challenge:
            farewell, answered = challenge.farewell(connection, self.server_name)
            self._output += emitted + farewell
            raise answered
        suite = CipherSuite.from_openssl(connection.get_cipher_name() or "")
        tickets: list[bytes] = []
        resumes = isinstance(self._config, ServerConfig) and self._config.resumption
        if suite.version is _TLS_1_3 and not self.is_client:
            # All that a TLS 1.3 server emits after the client's Finished is tickets, under the
            # application key. Held back where nothing is resumed, they leave TX at sequence
            # number 0.
            tickets = split_records(emitted)
        if tickets and not resumes:
            self._tickets = tickets
        else:
            self._output += emitted
        seen = conclusion.Seen(
            is_client=self.is_client,
            server_name=self.server_name,
            max_fragment_length=self._max_fragment_length,
            certificate=self._check_peer(connection),
            config=self._config,
            key_log=self._key_log if self._wants_keys else None,
            last_flight=self._last_flight,
            received=self._received,
            tickets=tickets,
            sends_tickets=resumes,
        )
        self._negotiated, self.keys = conclusion.conclude(connection, suite, seen)
        if self._config.key_log is None:
            self.take_key_log()

    def _check_peer(self, connection: SSL.Connection) -> bytes | None:
        judge = self._judge
        if judge is None or judge.heard:
            return None if judge is None else judge.shown
        if (error := judge.judge(connection.get_peer_certificate())) is not None:
            # A resumed handshake shows no certificate to `on_certificate`. That its path was once
            # verified, against the same anchors, is for the session's store to know
            # (`session_store.Origin`); a mixed-up session must at least not name another peer.
            error.alert = None
            self._output = b""  # such a peer does not get our Finished
            raise error
        return judge.shown
