"""What an odd peer sends: records of any kind, whole, cut or damaged, and bytes that are none."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

from tests.doubles import flipped
from tlsify.codepoints import AlertDescription, ContentType
from tlsify.tls.messages import KeyUpdateRequest

if TYPE_CHECKING:
    from tests.doubles import RawPeer

WARNING, FATAL = 1, 2


class Part(Protocol):
    """Some bytes of a segment."""

    def seal(self, peer: RawPeer) -> bytes:
        """Build them, with the peer's next keys and number."""


@dataclass(frozen=True)
class Record:
    """One record.

    Attributes:
        content_type: any byte.
        payload: of any length, also of one that is not allowed.
        keep: how many of its bytes are sent, header included; None for all.
        damaged: whether a bit of it is flipped.
    """

    content_type: int
    payload: bytes
    keep: int | None = None
    damaged: bool = False

    def seal(self, peer: RawPeer) -> bytes:
        """Build it."""
        record = peer.seal(self.content_type, self.payload)  # type: ignore[arg-type]
        return (flipped(record) if self.damaged else record)[: self.keep]


@dataclass(frozen=True)
class Plain:
    """Bytes as they are."""

    content: bytes

    def seal(self, _peer: RawPeer) -> bytes:
        """Yield them."""
        return self.content


@dataclass(frozen=True)
class Update:
    """A KeyUpdate in a record of its own; what follows is under the next key."""

    request: KeyUpdateRequest = KeyUpdateRequest.update_not_requested

    def seal(self, peer: RawPeer) -> bytes:
        """Build it."""
        return peer.key_update(self.request)


@dataclass(frozen=True)
class Turn:
    """Nothing, but what follows is under the next key: behind a KeyUpdate in an odd shape."""

    def seal(self, peer: RawPeer) -> bytes:
        """Turn the key."""
        peer.turn_key()
        return b""


def data(payload: bytes) -> Record:
    """Application data."""
    return Record(ContentType.application_data, payload)


def handshake(payload: bytes) -> Record:
    """One record of handshake messages, or of a part of one."""
    return Record(ContentType.handshake, payload)


def handshakes(payload: bytes, *cuts: int) -> tuple[Record, ...]:
    """Several records: the payload, cut at these places."""
    edges = (0, *cuts, len(payload))
    return tuple(handshake(payload[start:end]) for start, end in pairwise(edges))


def message(kind: int, body: bytes = b"") -> bytes:
    """One handshake message."""
    return bytes([kind]) + len(body).to_bytes(3, "big") + body


def alert(description: int, level: int = FATAL) -> Record:
    """Build an alert."""
    return Record(ContentType.alert, bytes([level, description]))


def padded(content_type: int, payload: bytes, padding: int) -> Record:
    """One TLS 1.3 record with zeros behind its content (RFC 8446 5.4)."""
    return Record(0, payload + bytes([content_type]) + bytes(padding - 1))


CLOSE_NOTIFY = alert(AlertDescription.close_notify, WARNING)
