"""Metadata of a connection that is passed on: its addresses, and the outcome of TLS."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from tlsify.codepoints import CipherSuite
from tlsify.connection.handoff import Offload
from tlsify.errors import PeerMisbehaved
from tlsify.passing import proxies, proxy_text
from tlsify.passing.proxy_protocol import (
    MAX_SIZE,
    USUAL_LIMIT,
    Client,
    Field,
    Header,
    Kind,
    Ssl,
    decode,
    encode,
)
from tlsify.tls.negotiated import Negotiated

if TYPE_CHECKING:
    from tlsify.connection.handoff import Handoff
    from tlsify.connection.plain import Plain

# Most bytes of a message with a descriptor: a header, and the state of a session behind it.
MAX_MESSAGE = MAX_SIZE + 2**18
# X509_V_ERR_UNSPECIFIED: no certificate, or an unverified one.
_UNVERIFIED = 1
_COMMON_NAME = "2.5.4.3"  # RFC 5280 A.1


class ConnectionInfo(NamedTuple):
    """Metadata of a connection.

    Attributes:
        peer: the client's address, as from ``getpeername``; None if it had already gone.
        local: the address that the client connected to, likewise.
        server_name: SNI, or None.
        alpn: protocol agreed on, or None.
        suite: fixes the version too.
        group: key exchange group; empty if unknown.
        resumed: whether a session was resumed.
        offload: kernel or relay.
        reason: code of why it is not the kernel (docs/cli.md lists them); None if it is.
        subject: subject of the client's certificate (RFC 4514), or None.
        common_name: the subject's common name, or None.
        certificate_hash: SHA-256 of the client's certificate, 64 hexadecimal digits, or None.
        certificate: the certificate in DER; None also if it is too long for a header.
    """

    peer: Any
    local: Any
    server_name: str | None
    alpn: bytes | None
    suite: CipherSuite
    group: str
    resumed: bool
    offload: Offload
    reason: str | None
    subject: str | None
    common_name: str | None
    certificate_hash: str | None
    certificate: bytes | None

    @property
    def version(self) -> str:
        """Protocol version, such as ``TLSv1.3``."""
        return self.suite.version.label

    @classmethod
    def of(cls, handed: Handoff) -> Self:
        """Return the metadata of an established connection."""
        agreed = handed.negotiated
        local, peer = _told_ends(handed)
        return cls(
            peer=peer,
            local=local,
            server_name=agreed.server_name,
            alpn=agreed.alpn,
            suite=agreed.suite,
            group=agreed.group,
            resumed=agreed.resumed,
            offload=handed.offload,
            reason=None if handed.reason is None else handed.reason.code,
            subject=agreed.peer_subject,
            common_name=_common_name(agreed),
            certificate_hash=agreed.peer_hash,
            certificate=agreed.certificate,
        )

    def encode(self, limit: int = USUAL_LIMIT) -> bytes:
        """Write it as a PROXY header.

        Args:
            limit: most bytes; where it is too much the certificate is left out, then its names.
        """
        short = self._replace(certificate=None)
        for told in (self, short):
            # One of more than 64 KiB is too much for any header.
            with contextlib.suppress(ValueError):
                if len(raw := _spell(told)) <= limit:
                    return raw
        return _spell(short._replace(subject=None, common_name=None))

    @classmethod
    def decode(cls, raw: bytes | bytearray | memoryview) -> tuple[Self, int]:
        """Read what `encode` has written.

        Returns:
            The metadata, and the length of the header in bytes.

        Raises:
            ValueError: it is malformed, or is not about a connection of tlsify's.
        """
        header, size = decode(raw)
        fields = dict(header.fields)
        inside = dict(Ssl.decode(fields.get(Kind.SSL, b"")).fields)
        try:
            suite = CipherSuite.from_openssl(_text(inside, Kind.SSL_CIPHER) or "")
        except KeyError as exc:
            raise ValueError("unknown cipher suite") from exc
        told = cls(
            peer=header.peer,
            local=header.local,
            server_name=_text(fields, Kind.AUTHORITY),
            alpn=fields.get(Kind.ALPN),
            suite=suite,
            group=_text(inside, Kind.SSL_GROUP) or "",
            resumed=Kind.RESUMED in fields,
            offload=Offload(_text(fields, Kind.OFFLOAD)),
            reason=_text(fields, Kind.REASON),
            subject=_text(fields, Kind.SUBJECT),
            common_name=_text(inside, Kind.SSL_CN),
            certificate_hash=_text(fields, Kind.CERTIFICATE_HASH),
            certificate=inside.get(Kind.SSL_CLIENT_CERT),
        )
        return told, size

    def negotiated(self) -> Negotiated:
        """Return the metadata as a handshake's outcome, as far as known."""
        return Negotiated(
            self.suite,
            alpn=self.alpn,
            server_name=self.server_name,
            certificate=self.certificate,
            group=self.group,
            resumed=self.resumed,
            max_fragment_length=None,
        )


def text_header(client: Handoff | Plain) -> bytes:
    """Return a PROXY header of version 1, which has the addresses alone."""
    local, peer = _told_ends(client)
    return proxy_text.encode(Header(peer, local))


def plain_header(client: Plain) -> bytes:
    """Return the PROXY header of a connection without TLS: its addresses."""
    local, peer = _told_ends(client)
    return encode(Header(peer, local))


def _spell(told: ConnectionInfo) -> bytes:
    found = {
        Kind.ALPN: told.alpn,
        Kind.AUTHORITY: _bytes(told.server_name),
        Kind.SSL: _ssl(told).encode(),
        Kind.CERTIFICATE_HASH: _bytes(told.certificate_hash),
        Kind.SUBJECT: _bytes(told.subject),
        Kind.OFFLOAD: _bytes(told.offload.value),
        Kind.REASON: _bytes(told.reason),
        Kind.RESUMED: b"" if told.resumed else None,
    }
    fields = (Field(kind, value) for kind, value in found.items() if value is not None)
    return encode(Header(told.peer, told.local, tuple(fields)))


def _ssl(told: ConnectionInfo) -> Ssl:
    client, verify = Client.SSL, _UNVERIFIED
    if told.certificate_hash is not None:
        verify = 0  # or the handshake would have failed
        client |= Client.CERT_SESS
        if not told.resumed:
            client |= Client.CERT_CONN
    found = {
        Kind.SSL_VERSION: _bytes(told.version),
        Kind.SSL_CN: _bytes(told.common_name),
        Kind.SSL_CIPHER: _bytes(told.suite.openssl_name),
        Kind.SSL_GROUP: _bytes(told.group or None),
        Kind.SSL_CLIENT_CERT: told.certificate,
    }
    fields = (Field(kind, value) for kind, value in found.items() if value is not None)
    return Ssl(client, verify, tuple(fields))


def _told_ends(handed: Handoff | Plain) -> tuple[Any, Any]:
    """Return both addresses, or, behind a proxy, those that it has told."""
    header = proxies.told.get()
    return ends(handed) if header is None else (header.local, header.peer)


def ends(handed: Handoff | Plain) -> tuple[Any, Any]:
    """Return both addresses, ours first; None for each of a connection that is already broken."""
    if handed.relay is not None:
        return handed.relay.local_address, handed.relay.peer_address
    try:
        return handed.sock.getsockname(), handed.sock.getpeername()
    except OSError:
        return None, None


def _common_name(agreed: Negotiated) -> str | None:
    try:
        if (leaf := agreed.peer_certificate) is None:
            return None
        found = [each for each in leaf.subject if each.oid.dotted_string == _COMMON_NAME]
    except (PeerMisbehaved, ValueError, TypeError):  # cryptography reads it only now
        return None
    if not found:
        return None
    name = str(found[0].value)
    return name if name.isprintable() else ascii(name)[1:-1]


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode(errors="surrogateescape")


def _text(fields: dict[int, bytes], kind: Kind) -> str | None:
    value = fields.get(kind)
    return None if value is None else value.decode()
