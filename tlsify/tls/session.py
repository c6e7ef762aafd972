"""After the handshake: control record in, actions out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from tlsify.codepoints import (
    AlertDescription,
    AlertLevel,
    ContentType,
    HandshakeType,
    ProtocolVersion,
)
from tlsify.errors import HandshakeError, PeerMisbehaved
from tlsify.tls.explain import peer_alert
from tlsify.tls.messages import (
    HandshakeMessage,
    NewSessionTicket,
    decode_alert,
    decode_handshake,
    decode_key_update,
    decode_new_session_ticket,
    encode_alert,
)

if TYPE_CHECKING:
    from collections.abc import Callable

# A ticket holds at most 2**16 bytes of identity and as many of extensions (RFC 8446 4.6.1); what
# servers really send is far smaller.
MAX_MESSAGE = 2**16
# The caller's data reads are not seen here, so the bound is per connection. Two tickets are usual;
# a peer that rekeys every 2**24 records reaches this bound after 2**37 bytes at the very least.
CONTROL_RECORD_BUDGET = 512


@dataclass(frozen=True, slots=True)
class SendRecord:
    """Send one control record with the current keys."""

    content_type: ContentType
    payload: bytes


@dataclass(frozen=True, slots=True)
class StoreTicket:
    """A ticket came: keep it if the caller named a place for it, drop it otherwise."""

    ticket: NewSessionTicket


@dataclass(frozen=True, slots=True)
class PeerClosed:
    """close_notify came: the receiving direction has ended in good order."""


@dataclass(frozen=True, slots=True)
class Fail:
    """The connection is over: send the alert if there is one, close, raise the error."""

    error: HandshakeError


Action: TypeAlias = SendRecord | StoreTicket | PeerClosed | Fail


class Session:
    """What remains of TLS once the kernel has the keys: it reads control records, nothing else.

    It performs nothing itself. Whoever owns the descriptor owns its session and performs the
    actions in order (design note 0002).
    """

    def __init__(self, version: ProtocolVersion, *, is_client: bool) -> None:
        """Start right after the hand-off."""
        self._version = version
        self._is_client = is_client
        self._handshake = bytearray()
        self._budget = CONTROL_RECORD_BUDGET
        self._peer_closed = False
        # What ended the connection; whoever reads on gets it again instead of a hang.
        self.failure: HandshakeError | None = None

    @property
    def peer_closed(self) -> bool:
        """Whether close_notify has come: an end of stream before that is truncation."""
        return self._peer_closed

    def receive(self, content_type: int, payload: bytes) -> list[Action]:
        """Take one control record.

        Args:
            content_type: any byte other than application_data.
            payload: the record's content, at most 2**14 bytes.

        Returns:
            What has to be done, in order; the last is `Fail` if the connection is over.
        """
        actions: list[Action] = []
        try:
            self._spend_budget()
            if self._handshake and content_type != ContentType.handshake:
                raise _unexpected("record inside a fragmented handshake message")  # RFC 8446 5.1
            rows = TRANSITIONS[self._version]
            handler = rows.get(content_type, Session._refuse_record)
            handler(self, payload, actions)
        except HandshakeError as error:
            actions.append(Fail(error))
        return actions

    def close(self) -> list[Action]:
        """End the sending direction: close_notify."""
        alert = encode_alert(AlertDescription.close_notify)
        return [SendRecord(ContentType.alert, alert)]

    def _spend_budget(self) -> None:
        self._budget -= 1
        if self._budget < 0:
            raise PeerMisbehaved(
                f"more than {CONTROL_RECORD_BUDGET} control records on one connection",
                alert=AlertDescription.unexpected_message,
            )

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
        if alert.description == AlertDescription.close_notify:
            self._close(actions)
        elif alert.level != AlertLevel.warning:
            raise peer_alert(alert.description, "the connection")

    def _close(self, actions: list[Action]) -> None:
        self._peer_closed = True
        actions.append(PeerClosed())

    def _handshake_record(self, payload: bytes, actions: list[Action]) -> None:
        """Read every message that is complete; one may span records (RFC 8446 5.1)."""
        if not payload:
            raise _unexpected("empty handshake record")
        self._handshake += payload
        rows = MESSAGES[self._version, self._is_client]
        first = True
        while (message := decode_handshake(self._handshake, limit=MAX_MESSAGE)) is not None:
            if not first:  # a record of 4096 HelloRequests is not one request
                self._spend_budget()
            first = False
            handler = rows.get(message.msg_type, Session._refuse_message)
            handler(self, message, actions)

    def _ticket(self, message: HandshakeMessage, actions: list[Action]) -> None:
        actions.append(StoreTicket(decode_new_session_ticket(message.body)))

    def _key_update(self, message: HandshakeMessage, actions: list[Action]) -> None:  # noqa: ARG002
        decode_key_update(message.body)
        if self._handshake:
            raise _unexpected("KeyUpdate not at the end of its record")  # RFC 8446 5.1
        raise HandshakeError(
            "the peer changed its keys (KeyUpdate), which this connection cannot follow",
            alert=AlertDescription.internal_error,
            hint="run with --ktls=off against a peer that updates its keys",
        )

    def _decline_renegotiation(self, message: HandshakeMessage, actions: list[Action]) -> None:  # noqa: ARG002
        """RFC 5246 7.4.1.1 and 7.4.1.2: decline, and carry on."""
        alert = encode_alert(AlertDescription.no_renegotiation)
        actions.append(SendRecord(ContentType.alert, alert))

    def _refuse_record(self, payload: bytes, actions: list[Action]) -> None:  # noqa: ARG002
        raise _unexpected("record of an unexpected content type")

    def _refuse_message(self, message: HandshakeMessage, actions: list[Action]) -> None:  # noqa: ARG002
        name = HandshakeType.name_of(message.msg_type)
        raise _unexpected(f"unexpected handshake message: {name}")


def _unexpected(message: str) -> PeerMisbehaved:
    return PeerMisbehaved(message, alert=AlertDescription.unexpected_message)


# Everything that is not listed here is an unexpected_message.
TRANSITIONS: dict[ProtocolVersion, dict[int, Callable[[Session, bytes, list[Action]], None]]] = {
    ProtocolVersion.TLSv1_3: {
        ContentType.alert: Session._alert_tls13,  # noqa: SLF001 - the table names its own rows
        ContentType.handshake: Session._handshake_record,  # noqa: SLF001
    },
    ProtocolVersion.TLSv1_2: {
        ContentType.alert: Session._alert_tls12,  # noqa: SLF001
        ContentType.handshake: Session._handshake_record,  # noqa: SLF001
    },
}
MESSAGES: dict[
    tuple[ProtocolVersion, bool],
    dict[int, Callable[[Session, HandshakeMessage, list[Action]], None]],
] = {
    (ProtocolVersion.TLSv1_3, True): {
        HandshakeType.new_session_ticket: Session._ticket,  # noqa: SLF001
        HandshakeType.key_update: Session._key_update,  # noqa: SLF001
    },
    (ProtocolVersion.TLSv1_3, False): {
        HandshakeType.key_update: Session._key_update,  # noqa: SLF001
    },
    (ProtocolVersion.TLSv1_2, True): {
        HandshakeType.hello_request: Session._decline_renegotiation,  # noqa: SLF001
    },
    (ProtocolVersion.TLSv1_2, False): {
        HandshakeType.client_hello: Session._decline_renegotiation,  # noqa: SLF001
    },
}
