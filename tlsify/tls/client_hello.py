"""SNI, ALPN, max_fragment_length of the first flight."""

from __future__ import annotations

import functools
import struct
from typing import TYPE_CHECKING, NamedTuple

from tlsify.codepoints import AlertDescription, ContentType, HandshakeType
from tlsify.errors import PeerAlert, PeerMisbehaved
from tlsify.tls.record import HEADER_LENGTH, MAX_PLAINTEXT, split_records

if TYPE_CHECKING:
    from collections.abc import Sequence

# Version and random, then session id, suites, compression methods and extensions, each vector full
# (RFC 8446 4.1.2); OpenSSL has the same limit.
MAX_LENGTH = 34 + (1 + 32) + (2 + 2**16 - 2) + (1 + 255) + (2 + 2**16 - 1)

_HANDSHAKE_HEADER = 4
_HANDSHAKE, _CLIENT_HELLO = bytes([ContentType.handshake]), bytes([HandshakeType.client_hello])
_SERVER_NAME = 0
_MAX_FRAGMENT_LENGTH = 1
_LENGTH_CODES = range(1, 5)  # RFC 6066 4
_ALPN = 16
_WANTED = {_SERVER_NAME, _MAX_FRAGMENT_LENGTH, _ALPN}
_EXTENSION_HEADER = struct.Struct(">HH").unpack_from  # its number, and how long it is
_HOST_NAME = 0
_LDH = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")
_LONGEST_LABEL, _LONGEST_NAME = 63, 253  # RFC 1035 2.3.4, as text


class ClientHello(NamedTuple):
    """The few fields of a ClientHello that are needed before the engine starts.

    Attributes:
        server_name: SNI host name (RFC 6066 3); None if there is none, or it is no host name.
        alpn: offered protocols in order (RFC 7301).
        max_fragment_length: bytes the client asks records to stay below (RFC 6066 4), or None.
    """

    server_name: str | None
    alpn: tuple[bytes, ...]
    max_fragment_length: int | None


class HelloCollector:
    """Collects a client's first records until its ClientHello is complete."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._records: list[bytes] = []
        self._buffer = bytearray()

    def add(self, records: bytes) -> ClientHello | None:
        """Add whole records; return the hello once it is complete.

        Raises:
            PeerAlert: an alert came instead.
            PeerMisbehaved: anything else did, or the hello is too long or malformed.
        """
        self._records.append(records)
        for record in split_records(records):
            if record[0] != ContentType.handshake:
                raise _not_a_hello(record[0])
            if (hello := self.feed(record[HEADER_LENGTH:])) is not None:
                return hello
        return None

    def take(self) -> bytes:
        """Return all records that were added, and forget them."""
        records = b"".join(self._records)
        self._records.clear()
        return records

    def feed(self, fragment: bytes) -> ClientHello | None:
        """Add the payload of one handshake record; return the hello once it is complete.

        Raises:
            PeerMisbehaved: not a ClientHello, too long, or malformed.
        """
        if not fragment:  # RFC 8446 5.1; without this, empty records could go on for ever
            msg = "empty handshake record"
            raise PeerMisbehaved(msg, alert=AlertDescription.unexpected_message)
        buffer = self._buffer
        buffer += fragment
        if buffer[0] != HandshakeType.client_hello:
            raise PeerMisbehaved(
                f"handshake starts with message type {buffer[0]}, not a ClientHello",
                alert=AlertDescription.unexpected_message,
            )
        if len(buffer) < _HANDSHAKE_HEADER:
            return None
        length = int.from_bytes(buffer[1:_HANDSHAKE_HEADER], "big")
        if length > MAX_LENGTH:
            raise PeerMisbehaved(
                f"ClientHello of {length} bytes exceeds {MAX_LENGTH}",
                alert=AlertDescription.illegal_parameter,
            )
        end = _HANDSHAKE_HEADER + length
        if len(buffer) < end:
            return None
        return decode_client_hello(bytes(buffer[_HANDSHAKE_HEADER:end]))


def shortest(received: bytes) -> int:
    """Return how many bytes a client has sent at least once its ClientHello is whole.

    These are no more than it has sent if the ClientHello is whole, or if it will never be.

    Args:
        received: everything so far.
    """
    message, end = b"", 0
    while (missing := _missing(message)) > 0:
        start = end + HEADER_LENGTH
        header = received[end:start]
        if not _begins_handshake(header):
            return 0
        if len(header) < HEADER_LENGTH:
            return start + missing
        length = int.from_bytes(header[3:], "big")
        end = start + length
        message += received[start:end]
        if len(received) < end:  # records are processed as a whole
            behind = _missing(message) - (end - len(received))
            return end + (HEADER_LENGTH + behind if behind > 0 else 0)
    return end


def _begins_handshake(header: bytes) -> bool:
    """Return whether bytes can be the beginning of a handshake record that is not empty."""
    return (
        header[:1] in {b"", _HANDSHAKE}
        and header[1:2] in {b"", b"\x03"}
        and (len(header) < HEADER_LENGTH or 0 < int.from_bytes(header[3:], "big") <= MAX_PLAINTEXT)
    )


def _missing(message: bytes) -> int:
    """Return how many bytes of a ClientHello have yet to come; 0 if it is whole, or is none."""
    if message[:1] not in {b"", _CLIENT_HELLO}:
        return 0
    length = int.from_bytes(message[1:_HANDSHAKE_HEADER], "big")
    is_known = len(message) >= _HANDSHAKE_HEADER
    return max(_HANDSHAKE_HEADER + (length if is_known else 0) - len(message), 0)


def _not_a_hello(content_type: int) -> PeerAlert | PeerMisbehaved:
    """Build the error for a record of another type instead of a ClientHello."""
    if content_type == ContentType.alert:
        return PeerAlert("the client sent an alert instead of a ClientHello")
    return PeerMisbehaved(
        f"record of type {content_type} instead of a ClientHello",
        alert=AlertDescription.unexpected_message,
    )


def decode_client_hello(body: bytes) -> ClientHello:
    """Read a ClientHello message without its 4-byte handshake header.

    Raises:
        PeerMisbehaved: malformed (decode_error).

    Source: RFC 8446 4.1.2.
    """
    try:
        at = 35 + body[34]  # legacy_version, random, session id
        at += 2 + (body[at] << 8 | body[at + 1])  # cipher suites
        at += 1 + body[at]  # compression methods
        found = _extensions(body, *_vector(body, at, 2)) if at != len(body) else {}
    except (IndexError, struct.error) as exc:
        raise _cut_short() from exc
    return ClientHello(
        _server_name(found[_SERVER_NAME]) if _SERVER_NAME in found else None,
        _alpn(found[_ALPN]) if _ALPN in found else (),
        _max_fragment_length(found.get(_MAX_FRAGMENT_LENGTH)),
    )


def check_alpn(offered: Sequence[bytes], own: Sequence[bytes]) -> None:
    """Refuse a client that offers none of a server's protocols, before OpenSSL sees it.

    pyOpenSSL keeps what a callback raises with the Context, where any other connection of the
    configuration may pick it up.

    Raises:
        PeerMisbehaved: it offers some, and none in common (RFC 7301 3.2).
    """
    if own and offered and not set(own) & set(offered):
        raise PeerMisbehaved(
            "the client offers no ALPN protocol in common",
            alert=AlertDescription.no_application_protocol,
        )


def _vector(data: bytes, at: int, width: int) -> tuple[int, int]:
    """Return where the vector begins and ends whose length has so many bytes (RFC 8446 3.4).

    Raises:
        PeerMisbehaved: it goes beyond the end of the data.
    """
    start = at + width
    end = start + int.from_bytes(data[at:start], "big")
    if start > len(data) or end > len(data):
        raise _cut_short()
    return start, end


def _extensions(data: bytes, at: int, end: int) -> dict[int, bytes]:
    """Find those that are wanted; all others are OpenSSL's affair."""
    found = {}
    while at < end:
        number, length = _EXTENSION_HEADER(data, at)
        at += 4 + length
        if number in _WANTED:
            found[number] = data[at - length : at]
    if at != end:
        raise _cut_short()
    return found


def _cut_short() -> PeerMisbehaved:
    return PeerMisbehaved(
        "ClientHello is cut short or inconsistent", alert=AlertDescription.decode_error
    )


def _server_name(extension: bytes) -> str | None:
    if not extension:
        return None
    at, end = _vector(extension, 0, 2)
    names = extension[:end]
    while at < end:
        start, stop = _vector(names, at + 1, 2)
        if names[at] == _HOST_NAME:
            text = names[start:stop].decode("latin-1").lower()
            if not text.isascii() or not text.isprintable():  # it will be shown and logged
                msg = "server name is not printable ASCII"
                raise PeerMisbehaved(msg, alert=AlertDescription.illegal_parameter)
            name = text.removesuffix(".")
            return text if len(name) <= _LONGEST_NAME and _is_host_name(name) else None
        at = stop
    return None


@functools.lru_cache(maxsize=256)
def _is_host_name(name: str) -> bool:
    """Return whether it consists of LDH labels (RFC 5890 2.3.1), which may have underscores.

    Whatever else a client sends would be a surprise to programs that are told of it.
    """
    return all(
        0 < len(label) <= _LONGEST_LABEL
        and _LDH.issuperset(label)
        and "-" not in {label[0], label[-1]}
        for label in name.split(".")
    )


def _alpn(extension: bytes) -> tuple[bytes, ...]:
    if not extension:
        return ()
    at, end = _vector(extension, 0, 2)
    names, protocols = extension[:end], []
    while at < end:
        start, at = _vector(names, at, 1)
        protocols.append(names[start:at])
        if start == at:  # RFC 7301 3.1: of at least one byte
            raise PeerMisbehaved(
                "the client offers an ALPN protocol without a name",
                alert=AlertDescription.decode_error,
            )
    return tuple(protocols)


def _max_fragment_length(extension: bytes | None) -> int | None:
    """2**9 .. 2**12; an unknown code is left to the engine, which refuses it."""
    if not extension:
        return None
    code = extension[0]
    return 2 ** (8 + code) if code in _LENGTH_CODES else None
