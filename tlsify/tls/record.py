"""5-byte record header, one-record framer."""

from __future__ import annotations

import struct
from typing import NamedTuple

from tlsify.codepoints import AlertDescription, AlertLevel, ContentType
from tlsify.errors import PeerMisbehaved

HEADER_LENGTH = 5
MAX_PLAINTEXT = 2**14
# RFC 5246 6.2.3 allows 2048 bytes of expansion, RFC 8446 5.2 only 256; the engine knows which.
MAX_CIPHERTEXT = MAX_PLAINTEXT + 2048
# What OpenSSL takes for no record, and for a bad one where it has the beginning of a record: it
# answers with the alert that is due.
NO_RECORD = b"\xff" * (HEADER_LENGTH + MAX_CIPHERTEXT)
# Before our ServerHello a client cannot have finished, so a large first read takes no data.
FIRST_FLIGHT = 2**12
# The record that ends a handshake is protected: header, one byte, tag. A shorter one, such as
# ChangeCipherSpec or an alert, has a successor, or is the end of the connection.
SHORTEST_LAST = 22
CHANGE_CIPHER_SPEC = b"\x14\x03\x03\x00\x01\x01"
_LEGACY_VERSION = 0x0303
_PLAIN_ALERT = HEADER_LENGTH + 2
_MAJOR_VERSION = 3
_CONTENT_TYPES = frozenset(map(int, ContentType))  # hashing members takes Python code
_HEADER = struct.Struct(">BBxH").unpack_from  # content type, major version, length


class RecordHeader(NamedTuple):
    """Header of a record, 5 bytes (RFC 8446 5.1)."""

    content_type: int
    length: int


def decode_header(header: bytes) -> RecordHeader:
    """Read a record header.

    Args:
        header: exactly 5 bytes.

    Raises:
        PeerMisbehaved: not a TLS record; ``alert`` says how to answer.
    """
    content_type, length = header[0], int.from_bytes(header[3:5], "big")
    if content_type not in _CONTENT_TYPES:
        raise PeerMisbehaved(
            _describe_stranger(header),
            alert=AlertDescription.unexpected_message,
            hint="check that the peer speaks TLS on this port",
        )
    if header[1] != _MAJOR_VERSION:
        raise PeerMisbehaved(
            f"record version {header[1]}.{header[2]} is not TLS",
            alert=AlertDescription.protocol_version,
        )
    if length > MAX_CIPHERTEXT:
        raise PeerMisbehaved(
            f"record of {length} bytes exceeds {MAX_CIPHERTEXT}",
            alert=AlertDescription.record_overflow,
        )
    return RecordHeader(content_type, length)


def _describe_stranger(header: bytes) -> str:
    word = header.decode("ascii", "replace").strip()
    if word.isprintable() and (header[:4].isalpha() or header.startswith((b"GET ", b"PUT "))):
        return f'peer sent plain text beginning "{word}", not a TLS record'
    return f"peer sent bytes that are not a TLS record (first byte 0x{header[0]:02x})"


def encode_record(content_type: ContentType, payload: bytes) -> bytes:
    """Build one unprotected record.

    Args:
        content_type: goes into the header.
        payload: at most 2**14 bytes.
    """
    header = bytes([content_type]) + _LEGACY_VERSION.to_bytes(2, "big")
    return header + len(payload).to_bytes(2, "big") + payload


def encode_plain_alert(description: AlertDescription) -> bytes:
    """Build an unprotected fatal alert record, for use before any key exists."""
    return encode_record(ContentType.alert, bytes([AlertLevel.fatal, description]))


class Framer:
    """Cuts a byte stream into records, never asking for more than it may.

    Whatever follows the last record read stays in the socket, so that the kernel's receiving
    side starts exactly at a record boundary (design note 0001).

    Attributes:
        ahead: how many bytes are known to come at least, from a record boundary on, before the
            stream is the caller's; to be read at once where a header alone would be.
        count: how many records were returned.
        length: how many bytes they have.
        pending: bytes read and not yet returned; empty at a record boundary.
        is_faulty: whether these are known to be no record; to go on then raises the error.
    """

    def __init__(self, ahead: int = 0) -> None:
        """Start at a record boundary."""
        self.ahead = ahead
        self.count = self.length = 0
        self.pending = b""
        self.is_faulty = False

    def need(self) -> int:
        """Maximum number of bytes to read, always 1 or more, once nothing whole is pending."""
        pending = self.pending
        if len(pending) < HEADER_LENGTH:
            return max(self.ahead, HEADER_LENGTH) - len(pending)
        return HEADER_LENGTH + (pending[3] << 8 | pending[4]) - len(pending)

    def feed(self, data: bytes) -> bytes:
        """Add read bytes; return the records that are whole (headers included), mostly one or none.

        Args:
            data: at most ``need()`` bytes; empty to go on behind the records returned.

        Raises:
            PeerMisbehaved: what comes next is not the header of a TLS record.
        """
        stream = self.pending + data if self.pending else data
        end, size = 0, len(stream)
        while size - end >= HEADER_LENGTH:
            content_type, major, length = _HEADER(stream, end)
            if (
                content_type not in _CONTENT_TYPES
                or major != _MAJOR_VERSION
                or length > MAX_CIPHERTEXT
            ):
                self.is_faulty = True
                if not end:
                    self.pending = stream
                    decode_header(stream[:HEADER_LENGTH])
                break
            if size - end < HEADER_LENGTH + length:
                break
            end += HEADER_LENGTH + length
            self.count += 1
        self.length += end
        self.pending = stream[end:]
        return stream[:end]


def split_records(stream: bytes) -> list[bytes]:
    """Cut what an engine emitted into whole records (headers included), taking it at its word."""
    records, start, size = [], 0, len(stream)
    while start < size:
        end = start + HEADER_LENGTH + int.from_bytes(stream[start + 3 : start + 5], "big")
        records.append(stream[start:end])
        start = end
    return records


def last_alert(flight: bytes) -> AlertDescription | None:
    """Return the alert that a flight of whole records ends with; None if it is sealed, or none."""
    last = split_records(flight)[-1:]
    is_plain = last and len(last[0]) == _PLAIN_ALERT and last[0][0] == ContentType.alert
    return AlertDescription.known(last[0][-1]) if is_plain else None
