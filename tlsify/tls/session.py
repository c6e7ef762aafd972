"""After the handshake: control record in, actions out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from tlsify.codepoints import (
    AlertDescription,
    AlertLevel,
    CipherSuite,
    ContentType,
    HandshakeType,
    ProtocolVersion,
)
from tlsify.errors import (
    HandshakeError,
    KeyUpdateRefused,
    PeerMisbehaved,
    RekeyUnsupported,
    TlsifyError,
)
from tlsify.keys import Direction, TrafficKeys, wipe
from tlsify.tls.client_hello import MAX_LENGTH
from tlsify.tls.explain import peer_alert
from tlsify.tls.messages import (
    MAX_TICKET_MESSAGE,
    HandshakeMessage,
    KeyUpdateRequest,
    NewSessionTicket,
    decode_alert,
    decode_handshake,
    decode_key_update,
    decode_new_session_ticket,
    encode_alert,
    encode_handshake,
)
from tlsify.tls.ration import Ration, exceeded

if TYPE_CHECKING:
    from collections.abc import Callable

# A peer that fails in the midst of a message says so there. OpenSSL takes that as it is meant, too.
_INSIDE_A_MESSAGE = {ContentType.handshake, ContentType.alert}
# How many bytes the body of a message may have: what cannot be long need not be kept for.
_USUAL_LIMIT = 2**14
_LIMITS: dict[int, int] = {
    HandshakeType.new_session_ticket: MAX_TICKET_MESSAGE,
    HandshakeType.client_hello: MAX_LENGTH,
}


@dataclass(frozen=True, slots=True)
class SendRecord:
    """Send one control record with the current keys."""

    content_type: ContentType
    payload: bytes


@dataclass(frozen=True, slots=True)
class InstallKeys:
    """Receive whatever comes next with the next generation (`Session.next_generation`)."""

    direction: Direction


@dataclass(frozen=True, slots=True)
class UpdateKeys:
    """Send a KeyUpdate and change the sending key: before the next data record, at the latest."""

    request: KeyUpdateRequest


@dataclass(frozen=True, slots=True)
class StoreTicket:
    """A ticket came: keep it if the caller named a place for it, drop it otherwise.

    Attributes:
        ticket: what it says.
        message: the whole handshake message.
    """

    ticket: NewSessionTicket
    message: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class PeerClosed:
    """close_notify came: the receiving direction has ended cleanly."""


@dataclass(frozen=True, slots=True)
class Fail:
    """The connection is over: send the alert if there is one, close, raise the error."""

    error: HandshakeError


Action: TypeAlias = SendRecord | InstallKeys | UpdateKeys | StoreTicket | PeerClosed | Fail


@dataclass(frozen=True, slots=True, eq=False)
class KeyGeneration:
    """A traffic secret and the keys that come of it, from record 0."""

    secret: bytearray = field(repr=False)
    keys: TrafficKeys

    def wipe(self) -> None:
        """Overwrite both."""
        self.keys.wipe()
        wipe(self.secret)


@dataclass(slots=True, eq=False)
class Session:
    """TLS after the kernel has the keys: it processes control records only.

    It performs no action itself. The owner of the descriptor owns its session and performs the
    actions in order (design note 0002).

    Attributes:
        suite: fixes the version too.
        is_client: the role.
        can_rekey: whether this kernel can replace a key; never true of TLS 1.2.
        tx_secret: TLS 1.3 traffic secret of the current sending key; empty where no key follows.
        rx_secret: likewise of the receiving key.
        ration: control records that may still come before more data has.
        unfinished: the beginning of a handshake message that spans records.
        peer_closed: whether close_notify has come; an end of stream before it is truncation.
        close_notify_sent: whether our direction has ended too, be it in order or not.
        update_due: whether a KeyUpdate of ours has to precede our next data record.
        updates_sent: how often the sending key was replaced.
        updates_received: likewise the receiving key.
        failure: error that ended the connection; later receives raise it again instead of hanging.
    """

    suite: CipherSuite
    is_client: bool
    can_rekey: bool = False
    tx_secret: bytearray = field(default_factory=bytearray, repr=False)
    rx_secret: bytearray = field(default_factory=bytearray, repr=False)
    ration: Ration = field(default_factory=Ration)
    unfinished: bytearray = field(default_factory=bytearray, repr=False)
    peer_closed: bool = False
    close_notify_sent: bool = False
    update_due: bool = False
    updates_sent: int = 0
    updates_received: int = 0
    failure: HandshakeError | RekeyUnsupported | None = None

    @property
    def version(self) -> ProtocolVersion:
        """Protocol version, from the suite."""
        return self.suite.version

    def wipe(self) -> None:
        """Overwrite the secrets: no key follows the current ones."""
        wipe(self.tx_secret, self.rx_secret)
        self.can_rekey = False

    def next_generation(self, direction: Direction) -> KeyGeneration:
        """Derive the next keys of a direction (RFC 8446 7.2); the session does not change."""
        from tlsify.tls.schedule import next_secret, traffic_keys  # noqa: PLC0415 - slow, and rare

        secret = self.tx_secret if direction is Direction.TX else self.rx_secret
        following = next_secret(self.suite, secret)
        return KeyGeneration(following, traffic_keys(self.suite, following))

    def enter(self, direction: Direction, generation: KeyGeneration) -> None:
        """Move a direction on to its next generation.

        The old secret is overwritten: it must not be found along with the new one.
        """
        if direction is Direction.TX:
            self.tx_secret[:] = generation.secret
            self.update_due = False
            self.updates_sent += 1
        else:
            self.rx_secret[:] = generation.secret
            self.updates_received += 1

    def receive(self, content_type: int, payload: bytes) -> list[Action]:
        """Process one control record.

        Args:
            content_type: any byte; of application data only empty records.
            payload: the record's content, at most 2**14 bytes.

        Returns:
            Actions to perform, in order; the last is `Fail` if the connection is over.
        """
        actions: list[Action] = []
        try:
            self._spend()
            if self.unfinished and content_type not in _INSIDE_A_MESSAGE:
                raise _unexpected("record inside a fragmented handshake message")  # RFC 8446 5.1
            rows = self.TRANSITIONS[self.version]
            handler = rows.get(content_type, Session._refuse_record)
            handler(self, payload, actions)
        except HandshakeError as error:
            actions.append(Fail(error))
        return actions

    def _spend(self) -> None:
        if not self.ration.spend():
            raise exceeded()

    # -- one method for each row of TRANSITIONS

    def _alert_tls13(self, payload: bytes, actions: list[Action]) -> None:
        """RFC 8446 6: the level means nothing, all but two descriptions are fatal."""
        alert = decode_alert(payload)
        if alert.description == AlertDescription.close_notify:
            self._close(actions)
        elif alert.description != AlertDescription.user_canceled:
            raise peer_alert(alert.description, "the connection")

    def _alert_tls12(self, payload: bytes, actions: list[Action]) -> None:
        """RFC 5246 7.2: warnings other than close_notify may be ignored."""
        alert = decode_alert(payload)
        if AlertLevel.known(alert.level) is None:
            raise PeerMisbehaved(
                f"alert of level {alert.level}", alert=AlertDescription.illegal_parameter
            )
        if alert.description == AlertDescription.close_notify:
            self._close(actions)
        elif alert.level != AlertLevel.warning:
            raise peer_alert(alert.description, "the connection")

    def _close(self, actions: list[Action]) -> None:
        self.peer_closed = True
        actions.append(PeerClosed())

    def _handshake_record(self, payload: bytes, actions: list[Action]) -> None:
        """Read every message that is complete; one may span records (RFC 8446 5.1).

        An unexpected message is refused by its first byte, without waiting for the rest.
        """
        if not payload:
            raise _unexpected("empty handshake record")
        self.unfinished += payload
        rows = self.MESSAGES[self.version, self.is_client]
        first = True
        while self.unfinished:
            handler = rows.get(self.unfinished[0])
            if handler is None:
                name = HandshakeType.name_of(self.unfinished[0])
                raise _unexpected(f"unexpected handshake message: {name}")
            limit = _LIMITS.get(self.unfinished[0], _USUAL_LIMIT)
            message = decode_handshake(self.unfinished, limit=limit)
            if message is None:
                return
            if not first:  # a record of 4096 HelloRequests is not one request
                self._spend()
            first = False
            handler(self, message, actions)

    def _ticket(self, message: HandshakeMessage, actions: list[Action]) -> None:
        ticket = decode_new_session_ticket(message.body)
        actions.append(StoreTicket(ticket, encode_handshake(message)))

    def _key_update(self, message: HandshakeMessage, actions: list[Action]) -> None:
        """RFC 8446 4.6.3; the answer may wait until there is data to send."""
        request = decode_key_update(message.body)
        if self.unfinished:
            raise _unexpected("KeyUpdate not at the end of its record")  # RFC 8446 5.1
        if not self.can_rekey:
            raise KeyUpdateRefused(
                "the peer changed its keys (KeyUpdate), which this kernel cannot follow",
                alert=AlertDescription.internal_error,
            )
        actions.append(InstallKeys(Direction.RX))
        if request is KeyUpdateRequest.update_requested:
            self._spend()  # it is answered
            self.update_due = True
            actions.append(UpdateKeys(KeyUpdateRequest.update_not_requested))

    def _empty_data(self, payload: bytes, _actions: list[Action]) -> None:
        """RFC 8446 5.1 allows them; a storm of them is none."""
        if payload:
            raise TlsifyError("data is not the session's to receive")

    def _hello_request(self, message: HandshakeMessage, actions: list[Action]) -> None:
        """RFC 5246 7.4.1.1: it has no body."""
        if message.body:
            raise PeerMisbehaved(
                f"HelloRequest of {len(message.body)} bytes", alert=AlertDescription.decode_error
            )
        self._decline_renegotiation(message, actions)

    def _decline_renegotiation(self, _message: HandshakeMessage, actions: list[Action]) -> None:
        """RFC 5246 7.4.1.1 and 7.4.1.2: decline, and carry on."""
        alert = encode_alert(AlertDescription.no_renegotiation)
        actions.append(SendRecord(ContentType.alert, alert))

    def _refuse_record(self, _payload: bytes, _actions: list[Action]) -> None:
        raise _unexpected("record of an unexpected content type")

    # Everything that is not listed here is an unexpected_message.
    TRANSITIONS: ClassVar[
        dict[ProtocolVersion, dict[int, Callable[[Session, bytes, list[Action]], None]]]
    ] = {
        ProtocolVersion.TLSv1_3: {
            ContentType.application_data: _empty_data,
            ContentType.alert: _alert_tls13,
            ContentType.handshake: _handshake_record,
        },
        ProtocolVersion.TLSv1_2: {
            ContentType.application_data: _empty_data,
            ContentType.alert: _alert_tls12,
            ContentType.handshake: _handshake_record,
        },
    }
    MESSAGES: ClassVar[
        dict[
            tuple[ProtocolVersion, bool],
            dict[int, Callable[[Session, HandshakeMessage, list[Action]], None]],
        ]
    ] = {
        (ProtocolVersion.TLSv1_3, True): {
            HandshakeType.new_session_ticket: _ticket,
            HandshakeType.key_update: _key_update,
        },
        (ProtocolVersion.TLSv1_3, False): {
            HandshakeType.key_update: _key_update,
        },
        (ProtocolVersion.TLSv1_2, True): {
            HandshakeType.hello_request: _hello_request,
        },
        (ProtocolVersion.TLSv1_2, False): {
            HandshakeType.client_hello: _decline_renegotiation,
        },
    }


def _unexpected(message: str) -> PeerMisbehaved:
    return PeerMisbehaved(message, alert=AlertDescription.unexpected_message)
