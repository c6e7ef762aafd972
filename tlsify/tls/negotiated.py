"""Outcome of a finished handshake."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tlsify.codepoints import CipherSuite, ProtocolVersion
from tlsify.errors import PeerMisbehaved
from tlsify.tls import messages
from tlsify.tls.record import MAX_PLAINTEXT

if TYPE_CHECKING:
    from cryptography import x509

_INTEGER, _SEQUENCE, _LONG_FORM = 0x02, 0x30, 0x80
_TIME, _LIFETIME_HINT, _TICKET = 0xA1, 0xA9, 0xAA  # of OpenSSL's SSL_SESSION
_LIFETIME_UNSPECIFIED = 7200  # seconds to keep a TLS 1.2 ticket that does not say how long


@dataclass(frozen=True, slots=True)
class Negotiated:
    """Outcome of a finished handshake, apart from its keys.

    Attributes:
        suite: fixes the version too.
        alpn: protocol agreed on, or None.
        server_name: SNI sent or received, or None.
        certificate: the peer's leaf in DER, or None if it showed none.
        group: key exchange group, such as ``X25519MLKEM768``; empty if unknown.
        resumed: whether a session was resumed.
        max_fragment_length: bytes the peer asked our records to stay below, or None.
        chain: the peer's certificates in DER as it showed them, its own first; empty if it showed
            none, or the configuration does not say ``keep_chain``.
        verified_chain: likewise its own, and those that lead to a trust anchor.
    """

    suite: CipherSuite
    alpn: bytes | None
    server_name: str | None
    certificate: bytes | None
    group: str
    resumed: bool
    max_fragment_length: int | None
    chain: tuple[bytes, ...] = ()
    verified_chain: tuple[bytes, ...] = ()

    @property
    def version(self) -> ProtocolVersion:
        """Protocol version, from the suite."""
        return self.suite.version

    @property
    def longest(self) -> int:
        """Bytes of plaintext in the longest record that we may send."""
        return min(self.max_fragment_length or MAX_PLAINTEXT, MAX_PLAINTEXT)

    @property
    def peer_certificate(self) -> x509.Certificate | None:
        """The peer's leaf, or None if it showed none; parsed each time.

        Raises:
            PeerMisbehaved: OpenSSL takes it, and cryptography finds it malformed.
        """
        if self.certificate is None:
            return None
        from cryptography import x509  # noqa: PLC0415 - slow, and few want it

        try:
            return x509.load_der_x509_certificate(self.certificate)
        except (ValueError, x509.InvalidVersion) as exc:
            raise PeerMisbehaved("the peer's certificate is malformed") from exc

    @property
    def peer_subject(self) -> str | None:
        """Subject of the peer's certificate, as in RFC 4514, printable.

        Empty if the peer has written what cannot be read; None if it showed no certificate.
        """
        try:
            if (leaf := self.peer_certificate) is None:
                return None
            subject = leaf.subject.rfc4514_string()
        except (PeerMisbehaved, ValueError, TypeError):  # cryptography reads it only now
            return ""
        return subject if subject.isprintable() else ascii(subject)[1:-1]

    @property
    def peer_hash(self) -> str | None:
        """SHA-256 of the peer's certificate, 64 hexadecimal digits; None if it showed none."""
        return None if self.certificate is None else hashlib.sha256(self.certificate).hexdigest()

    def resumable(self, session: bytes | None) -> Resumable | None:
        """Tell until when a session may be resumed: ticket and certificate both have to be good.

        Args:
            session: as OpenSSL writes it; the clock is OpenSSL's too. None if there is none.

        Returns:
            None if there is no ticket in it, or one to be discarded at once.

        Source: ssl/ssl_asn1.c; RFC 8446 4.6.1 (lifetime 0: discard), RFC 5077 3.3 (0: unspecified).
        """
        fields = _elements(_elements(session or b"").get(_SEQUENCE, b""))
        if session is None or _TICKET not in fields:
            return None
        begun, lifetime = (
            int.from_bytes(_elements(fields.get(tag, b"")).get(_INTEGER, b""), "big")
            for tag in (_TIME, _LIFETIME_HINT)
        )
        if not lifetime and self.version is ProtocolVersion.TLSv1_3:
            return None
        expires: float = begun + min(
            lifetime or _LIFETIME_UNSPECIFIED, messages.MAX_TICKET_LIFETIME
        )
        try:
            if (leaf := self.peer_certificate) is not None:
                expires = min(expires, leaf.not_valid_after_utc.timestamp())
        except (PeerMisbehaved, ValueError):
            return None
        return Resumable(session, expires, self.resumed)


@dataclass(frozen=True, slots=True)
class Resumable:
    """A session that one later connection may resume.

    Attributes:
        session: OpenSSL's DER of it, secrets included.
        expires: seconds since the epoch from which on it is of no use.
        resumed: whether it comes of a handshake that was resumed itself, in which the path of the
            peer's certificate was not judged anew.
    """

    session: bytes = field(repr=False)
    expires: float
    resumed: bool


def _elements(der: bytes) -> dict[int, bytes]:
    """Parse the elements inside a DER element; of each tag the last."""
    found: dict[int, bytes] = {}
    while der:
        length, start = int.from_bytes(der[1:2], "big"), 2
        if length & _LONG_FORM:
            start += length ^ _LONG_FORM
            length = int.from_bytes(der[2:start], "big")
        found[der[0]] = der[start : start + length]
        der = der[start + length :]
    return found
