"""SNI, ALPN, max_fragment_length of the first flight."""

from __future__ import annotations

import struct
from typing import NamedTuple

from tlsify.codepoints import AlertDescription, HandshakeType
from tlsify.errors import PeerMisbehaved

# Version and random, then session id, suites, compression methods and extensions, each vector full
# (RFC 8446 4.1.2); OpenSSL has the same limit.
MAX_LENGTH = 34 + (1 + 32) + (2 + 2**16 - 2) + (1 + 255) + (2 + 2**16 - 1)

_HANDSHAKE_HEADER = 4
_SERVER_NAME = 0
_MAX_FRAGMENT_LENGTH = 1
_ALPN = 16
_WANTED = {_SERVER_NAME, _MAX_FRAGMENT_LENGTH, _ALPN}
_EXTENSION_HEADER = struct.Struct(">HH")  # its number, and how long it is
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


class _Reader:
    """Reads length-prefixed vectors; running out of bytes is the peer's decode_error."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def __bool__(self) -> bool:
        return self._position < len(self._data)

    def take(self, count: int) -> bytes:
        end = self._position + count
        if end > len(self._data):
            raise _cut_short()
        taken = self._data[self._position : end]
        self._position = end
        return taken

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def vector(self, width: int) -> _Reader:
        return _Reader(self.take(self.number(width)))

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._position)


class HelloCollector:
    """Collects handshake fragments until one ClientHello is complete."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._buffer = bytearray()

    def feed(self, fragment: bytes) -> ClientHello | None:
        """Add the payload of one handshake record; return the hello once it is complete.

        Raises:
            PeerMisbehaved: not a ClientHello, too long, or malformed.
        """
        if not fragment:  # RFC 8446 5.1; without this, empty records could go on for ever
            msg = "empty handshake record"
            raise PeerMisbehaved(msg, alert=AlertDescription.unexpected_message)
        self._buffer += fragment
        if self._buffer[0] != HandshakeType.client_hello:
            raise PeerMisbehaved(
                f"handshake starts with message type {self._buffer[0]}, not a ClientHello",
                alert=AlertDescription.unexpected_message,
            )
        length = int.from_bytes(self._buffer[1:_HANDSHAKE_HEADER], "big")
        if len(self._buffer) >= _HANDSHAKE_HEADER and length > MAX_LENGTH:
            raise PeerMisbehaved(
                f"ClientHello of {length} bytes exceeds {MAX_LENGTH}",
                alert=AlertDescription.illegal_parameter,
            )
        if len(self._buffer) < _HANDSHAKE_HEADER + length:
            return None
        return decode_client_hello(bytes(self._buffer[_HANDSHAKE_HEADER:][:length]))


def decode_client_hello(body: bytes) -> ClientHello:
    """Read a ClientHello message without its 4-byte handshake header.

    Raises:
        PeerMisbehaved: malformed (decode_error).

    Source: RFC 8446 4.1.2.
    """
    reader = _Reader(body)
    reader.take(34)  # legacy_version, random
    for width in (1, 2, 1):  # session id, cipher suites, compression methods
        reader.take(reader.number(width))
    extensions = _extensions(reader.take(reader.number(2))) if reader else {}
    return ClientHello(
        server_name=_server_name(extensions.get(_SERVER_NAME)),
        alpn=_alpn(extensions.get(_ALPN)),
        max_fragment_length=_max_fragment_length(extensions.get(_MAX_FRAGMENT_LENGTH)),
    )


def _extensions(block: bytes) -> dict[int, _Reader]:
    """Find those that are wanted; all others are OpenSSL's affair."""
    found: dict[int, _Reader] = {}
    start = 0
    while start < len(block):
        body = start + _EXTENSION_HEADER.size
        if body > len(block):
            raise _cut_short()
        number, length = _EXTENSION_HEADER.unpack_from(block, start)
        start = body + length
        if start > len(block):
            raise _cut_short()
        if number in _WANTED:
            found[number] = _Reader(block[body:start])
    return found


def _cut_short() -> PeerMisbehaved:
    return PeerMisbehaved(
        "ClientHello is cut short or inconsistent", alert=AlertDescription.decode_error
    )


def _server_name(extension: _Reader | None) -> str | None:
    if not extension:
        return None
    names = extension.vector(2)
    while names:
        kind, name = names.number(1), names.vector(2).rest()
        if kind == _HOST_NAME:
            text = name.decode("latin-1").lower()
            if not text.isascii() or not text.isprintable():  # it will be shown and logged
                msg = "server name is not printable ASCII"
                raise PeerMisbehaved(msg, alert=AlertDescription.illegal_parameter)
            return text if _is_host_name(text) else None
    return None


def _is_host_name(text: str) -> bool:
    """Return whether it consists of LDH labels (RFC 5890 2.3.1), which may have underscores.

    Whatever else a client sends would be a surprise to programs that are told of it.
    """
    name = text.removesuffix(".")
    return len(name) <= _LONGEST_NAME and all(
        0 < len(label) <= _LONGEST_LABEL
        and _LDH.issuperset(label)
        and "-" not in {label[0], label[-1]}
        for label in name.split(".")
    )


def _alpn(extension: _Reader | None) -> tuple[bytes, ...]:
    protocols: list[bytes] = []
    if extension:
        names = extension.vector(2)
        while names:
            protocols.append(names.vector(1).rest())
            if not protocols[-1]:  # RFC 7301 3.1: of at least one byte
                raise PeerMisbehaved(
                    "the client offers an ALPN protocol without a name",
                    alert=AlertDescription.decode_error,
                )
    return tuple(protocols)


def _max_fragment_length(extension: _Reader | None) -> int | None:
    """2**9 .. 2**12; an unknown code is left to the engine, which refuses it."""
    if not extension:
        return None
    code = extension.number(1)
    return 2 ** (8 + code) if 1 <= code <= 4 else None  # noqa: PLR2004 - the four codes of RFC 6066 4
