"""Codecs for NewSessionTicket, KeyUpdate, Alert."""

from __future__ import annotations

from dataclasses import dataclass

from tlsify.codepoints import AlertDescription, AlertLevel, Codepoint, HandshakeType
from tlsify.errors import PeerMisbehaved

ALERT_LENGTH = 2
HANDSHAKE_HEADER_LENGTH = 4
# Seven days. A server must not name more, a client must not keep one longer (RFC 8446 4.6.1).
MAX_TICKET_LIFETIME = 604800
# The longest body of a NewSessionTicket: lifetime and age, then nonce, ticket and extensions, each
# behind its length, and full (RFC 8446 4.6.1).
MAX_TICKET_MESSAGE = 8 + (1 + 255) + (2 + 2**16 - 1) + (2 + 2**16 - 1)


class KeyUpdateRequest(Codepoint):
    """Whether the sender of a KeyUpdate wants one back (RFC 8446 4.6.3)."""

    update_not_requested = 0
    update_requested = 1


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert as received: its description may be an unassigned number."""

    level: int
    description: int


def decode_alert(payload: bytes) -> Alert:
    """Read an alert record's payload, exactly 2 bytes.

    Raises:
        PeerMisbehaved: another length (unexpected_message): RFC 8446 5.4 names that for an empty
            record, and 5.1 forbids a part of an alert, or several, as it forbids empty records.
    """
    if len(payload) != ALERT_LENGTH:
        raise PeerMisbehaved(
            f"alert record of {len(payload)} bytes", alert=AlertDescription.unexpected_message
        )
    return Alert(payload[0], payload[1])


def encode_alert(description: AlertDescription) -> bytes:
    """Build an alert's 2 bytes; the level follows from the description (RFC 8446 6)."""
    closure = description in {
        AlertDescription.close_notify,
        AlertDescription.user_canceled,
        AlertDescription.no_renegotiation,
    }
    return bytes([AlertLevel.warning if closure else AlertLevel.fatal, description])


@dataclass(frozen=True, slots=True)
class HandshakeMessage:
    """One handshake message: its type byte and its body without the 4-byte header."""

    msg_type: int
    body: bytes


def decode_handshake(buffer: bytearray, *, limit: int) -> HandshakeMessage | None:
    """Remove one complete handshake message from the front of a reassembly buffer.

    Args:
        buffer: payloads of handshake records, joined; shortened by what is returned.
        limit: largest body accepted, in bytes.

    Returns:
        None if the message is not complete yet.

    Raises:
        PeerMisbehaved: the body is longer than the limit (illegal_parameter).

    Source: RFC 8446 4.
    """
    if len(buffer) < HANDSHAKE_HEADER_LENGTH:
        return None
    length = int.from_bytes(buffer[1:HANDSHAKE_HEADER_LENGTH], "big")
    if length > limit:
        raise PeerMisbehaved(
            f"handshake message of {length} bytes exceeds {limit}",
            alert=AlertDescription.illegal_parameter,
        )
    end = HANDSHAKE_HEADER_LENGTH + length
    if len(buffer) < end:
        return None
    message = HandshakeMessage(buffer[0], bytes(buffer[HANDSHAKE_HEADER_LENGTH:end]))
    del buffer[:end]
    return message


def encode_handshake(message: HandshakeMessage) -> bytes:
    """Build a whole handshake message."""
    return bytes([message.msg_type]) + len(message.body).to_bytes(3, "big") + message.body


def decode_key_update(body: bytes) -> KeyUpdateRequest:
    """Read a KeyUpdate's body, exactly 1 byte.

    Raises:
        PeerMisbehaved: decode_error for another length, illegal_parameter for another value.

    Source: RFC 8446 4.6.3.
    """
    if len(body) != 1:
        raise PeerMisbehaved(f"KeyUpdate of {len(body)} bytes", alert=AlertDescription.decode_error)
    request = KeyUpdateRequest.known(body[0])
    if request is None:
        raise PeerMisbehaved(
            f"KeyUpdate with request_update {body[0]}", alert=AlertDescription.illegal_parameter
        )
    return request


def encode_key_update(request: KeyUpdateRequest) -> bytes:
    """Build a whole KeyUpdate message, 5 bytes."""
    return bytes([HandshakeType.key_update, 0, 0, 1, request])


@dataclass(frozen=True, slots=True)
class NewSessionTicket:
    """A TLS 1.3 ticket (RFC 8446 4.6.1).

    Attributes:
        lifetime: seconds; what a server says beyond 604800, which it must not, is cut off there.
        nonce: input for the derivation of the PSK.
        ticket: the opaque identity.
    """

    lifetime: int
    nonce: bytes
    ticket: bytes


def decode_new_session_ticket(body: bytes) -> NewSessionTicket:
    """Read a TLS 1.3 NewSessionTicket's body; its extensions are checked for length only.

    Raises:
        PeerMisbehaved: malformed (decode_error).
    """
    lifetime = min(int.from_bytes(body[:4], "big"), MAX_TICKET_LIFETIME)
    position = 8
    vectors: list[bytes] = []
    for width in (1, 2, 2):
        length = int.from_bytes(body[position : position + width], "big")
        start = position + width
        position = start + length
        vectors.append(body[start:position])
    nonce, ticket, _extensions = vectors
    if position != len(body) or not ticket:
        msg = "malformed NewSessionTicket"
        raise PeerMisbehaved(msg, alert=AlertDescription.decode_error)
    return NewSessionTicket(lifetime, nonce, ticket)
