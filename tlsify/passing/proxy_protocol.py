"""PROXY protocol, version 2: addresses and outcome of TLS, in front of the data."""

from __future__ import annotations

import socket
import struct
from enum import IntEnum, IntFlag
from typing import Any, NamedTuple

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
# Most bytes that nginx takes; others take more.
USUAL_LIMIT = 4096
MAX_SIZE = 16 + 2**16 - 1

_HEAD = struct.Struct("!12sBBH")  # signature, version and command, family and protocol, length
HEAD_SIZE = _HEAD.size
_FIELD = struct.Struct("!BH")  # type, length of the value
_SSL = struct.Struct("!BI")  # client flags, verify
_PORTS = struct.Struct("!HH")
_LOCAL, _PROXY = 0x20, 0x21
_UNSPEC, _TCP4, _TCP6, _UNIX = 0x00, 0x11, 0x21, 0x31
LOCAL = _HEAD.pack(SIGNATURE, _LOCAL, _UNSPEC, 0)  # of a connection of our own
_PATH = 108  # sizeof(sockaddr_un.sun_path)
_SIZES = {_UNSPEC: 0, _TCP4: 12, _TCP6: 36, _UNIX: 2 * _PATH}
_MAPPED = bytes(10) + b"\xff\xff"  # in front of an IPv4 address that is spelled in IPv6


class Kind(IntEnum):
    """Types of fields: PP2_TYPE_* and PP2_SUBTYPE_* of proxy-protocol.txt; from 0xE0 on our own."""

    ALPN = 0x01
    AUTHORITY = 0x02
    SSL = 0x20
    SSL_VERSION = 0x21
    SSL_CN = 0x22
    SSL_CIPHER = 0x23
    SSL_GROUP = 0x26
    SSL_CLIENT_CERT = 0x28
    CERTIFICATE_HASH = 0xE4
    SUBJECT = 0xE5
    OFFLOAD = 0xE6
    REASON = 0xE7
    RESUMED = 0xE8


class Client(IntFlag):
    """Flags of `Kind.SSL`: PP2_CLIENT_*."""

    SSL = 1
    CERT_CONN = 2
    CERT_SESS = 4


class Field(NamedTuple):
    """One field: type, length and value in the header.

    Attributes:
        kind: a `Kind`, or a number of another program.
        value: at most 65535 bytes, all of them together, too.
    """

    kind: int
    value: bytes


class Ssl(NamedTuple):
    """The value of `Kind.SSL`.

    Attributes:
        client: whether there is TLS, and a certificate.
        verify: 0 if the client showed a certificate, and it was verified.
        fields: those whose names begin with ``SSL_``.
    """

    client: Client
    verify: int
    fields: tuple[Field, ...]

    def encode(self) -> bytes:
        """Write it."""
        return _SSL.pack(self.client, self.verify) + _encode_fields(self.fields)

    @classmethod
    def decode(cls, value: bytes) -> Ssl:
        """Read it.

        Raises:
            ValueError: it is malformed.
        """
        if len(value) < _SSL.size:
            raise ValueError("SSL field cut short")
        client, verify = _SSL.unpack_from(value)
        return cls(Client(client), verify, _decode_fields(value[_SSL.size :]))


class Header(NamedTuple):
    """The header in front of the data.

    Attributes:
        peer: the client's address, as from ``getpeername``: (host, port, ...), a path, or None if
            unknown.
        local: where it has come to, likewise and of the same family.
        fields: in the order in which they are sent.
    """

    peer: Any
    local: Any
    fields: tuple[Field, ...] = ()


def encode(header: Header) -> bytes:
    """Write a header.

    Raises:
        ValueError: there is too much in it.
    """
    family, addresses = _encode_addresses(header.peer, header.local)
    body = addresses + _encode_fields(header.fields)
    try:
        return _HEAD.pack(SIGNATURE, _PROXY, family, len(body)) + body
    except struct.error as exc:
        raise ValueError("too much for one header") from exc


def decode(raw: bytes | bytearray | memoryview) -> tuple[Header, int]:
    """Read a header.

    Args:
        raw: begins with it; data may follow.

    Returns:
        The header, and how many bytes it has. A LOCAL one, of which only the end counts, is as
        empty as one of unknown addresses and no fields.

    Raises:
        ValueError: it is malformed, or not whole.
    """
    if len(raw) < _HEAD.size:
        raise ValueError("PROXY header cut short")
    signature, command, family, length = _HEAD.unpack_from(raw)
    size = _HEAD.size + length
    if signature != SIGNATURE or command not in {_LOCAL, _PROXY}:
        raise ValueError("no PROXY header of version 2")
    if len(raw) < size:
        raise ValueError("PROXY header cut short")
    if command == _LOCAL:
        return Header(None, None), size
    body = bytes(raw[_HEAD.size : size])
    taken = _SIZES.get(family)
    if taken is None:
        raise ValueError(f"address family {family:#04x}")
    if length < taken:
        raise ValueError("addresses cut short")
    peer, local = _decode_addresses(family, body[:taken])
    return Header(peer, local, _decode_fields(body[taken:])), size


def rest(start: bytes, limit: int) -> int:
    """Return how many bytes of a header follow its first ones.

    Args:
        start: the first `HEAD_SIZE` bytes.
        limit: most bytes of the header.

    Raises:
        ValueError: they are none, or the header is longer.
    """
    signature, command, _, length = _HEAD.unpack(start)
    if signature != SIGNATURE or command not in {_LOCAL, _PROXY}:
        raise ValueError("no PROXY header of version 2")
    if len(start) + length > limit:
        raise ValueError(f"a PROXY header of {len(start) + length} bytes")
    return int(length)


def _encode_fields(fields: tuple[Field, ...]) -> bytes:
    try:
        return b"".join(_FIELD.pack(kind, len(value)) + value for kind, value in fields)
    except struct.error as exc:
        raise ValueError("too much for one field") from exc


def _decode_fields(raw: bytes) -> tuple[Field, ...]:
    fields, position = [], 0
    while position < len(raw):
        if len(raw) - position < _FIELD.size:
            raise ValueError("field cut short")
        kind, length = _FIELD.unpack_from(raw, position)
        position += _FIELD.size
        value = raw[position : position + length]
        if len(value) != length:
            raise ValueError("field goes beyond the end")
        fields.append(Field(kind, value))
        position += length
    return tuple(fields)


def _encode_addresses(peer: Any, local: Any) -> tuple[int, bytes]:
    """Write both ends; where they are not of one known family, say that nothing is known."""
    if isinstance(peer, tuple) and isinstance(local, tuple):
        ends = [_pack_ip(str(peer[0])), _pack_ip(str(local[0]))]
        if None not in ends:
            if all(end[:12] == _MAPPED for end in ends if end):
                family, ends = _TCP4, [end[12:] for end in ends if end]
            else:
                family = _TCP6
            return family, b"".join(filter(None, ends)) + _PORTS.pack(peer[1], local[1])
    if isinstance(peer, str | bytes) and isinstance(local, str | bytes):
        return _UNIX, b"".join(_pack_path(end) for end in (peer, local))
    return _UNSPEC, b""


def _pack_ip(host: str) -> bytes | None:
    """Write an address as one of IPv6, an IPv4 one as it is spelled there."""
    host = host.partition("%")[0]
    try:
        if ":" in host:
            return socket.inet_pton(socket.AF_INET6, host)
        return _MAPPED + socket.inet_pton(socket.AF_INET, host)
    except OSError:
        return None


def _pack_path(path: str | bytes) -> bytes:
    raw = path.encode(errors="surrogateescape") if isinstance(path, str) else path
    return raw[:_PATH].ljust(_PATH, b"\0")


def _decode_addresses(family: int, raw: bytes) -> tuple[Any, Any]:
    if family == _UNSPEC:
        return None, None
    if family == _UNIX:
        return _unpack_path(raw[:_PATH]), _unpack_path(raw[_PATH:])
    kind, size = (socket.AF_INET, 4) if family == _TCP4 else (socket.AF_INET6, 16)
    rest = () if family == _TCP4 else (0, 0)  # flow and scope, as getpeername has them
    ports = _PORTS.unpack(raw[2 * size :])
    hosts = (raw[:size], raw[size : 2 * size])
    peer, local = (
        (socket.inet_ntop(kind, host), port, *rest) for host, port in zip(hosts, ports, strict=True)
    )
    return peer, local


def _unpack_path(raw: bytes) -> str | bytes:
    """Read a path; an abstract name, which begins with NUL, has no end of its own."""
    if raw[:1] == b"\0":
        return raw.rstrip(b"\0") and raw
    return raw.rstrip(b"\0").decode(errors="surrogateescape")
