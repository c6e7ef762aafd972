"""5-byte record header, one-record framer."""

from __future__ import annotations

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
_LEGACY_VERSION = 0x0303
_MAJOR_VERSION = 3
_CONTENT_TYPES = frozenset(map(int, ContentType))  # hashing members takes Python code


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
    """

    def __init__(self, ahead: int = 0) -> None:
        """Start at a record boundary."""
        self.ahead = ahead
        self._buffer = bytearray()
        self._wanted = HEADER_LENGTH

    @property
    def pending(self) -> bytes:
        """Bytes read and not yet returned; empty at a record boundary."""
        return bytes(self._buffer)

    def need(self) -> int:
        """Maximum number of bytes to read, always 1 or more, once `feed` has returned None."""
        wanted = self._wanted
        if wanted == HEADER_LENGTH and wanted < self.ahead:
            wanted = self.ahead
        return wanted - len(self._buffer)

    def feed(self, data: bytes) -> bytes | None:
        """Add read bytes; return a complete record (header included) if there is one.

        Args:
            data: at most ``need()`` bytes; empty to ask for the next record.

        Raises:
            PeerMisbehaved: the header is not that of a TLS record.
        """
        buffer = self._buffer
        buffer += data
        if len(buffer) < self._wanted:
            return None
        if self._wanted == HEADER_LENGTH:
            self._wanted += decode_header(bytes(buffer[:HEADER_LENGTH])).length
            if len(buffer) < self._wanted:
                return None
        record = bytes(buffer[: self._wanted])
        del buffer[: self._wanted]
        self._wanted = HEADER_LENGTH
        return record


def split_records(stream: bytes) -> list[bytes]:
    """Cut what an engine emitted into whole records (headers included), taking it at its word."""
    records, start = [], 0
    while start < len(stream):
        end = start + HEADER_LENGTH + int.from_bytes(stream[start + 3 : start + 5], "big")
        records.append(stream[start:end])
        start = end
    return records
