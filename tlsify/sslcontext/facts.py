"""Properties of a connection, in the terms of Python's `ssl`."""

from __future__ import annotations

import logging
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, overload

from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from tlsify.connection.handoff import Reason
    from tlsify.tls.negotiated import Negotiated

_log = logging.getLogger("tlsify")

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
# OpenSSL's long names (crypto/objects/objects.txt) of what names are made of; of anything else
# `ssl` gives the number, too.
_ATTRIBUTES = {
    "2.5.4.3": "commonName",
    "2.5.4.4": "surname",
    "2.5.4.5": "serialNumber",
    "2.5.4.6": "countryName",
    "2.5.4.7": "localityName",
    "2.5.4.8": "stateOrProvinceName",
    "2.5.4.9": "streetAddress",
    "2.5.4.10": "organizationName",
    "2.5.4.11": "organizationalUnitName",
    "2.5.4.12": "title",
    "2.5.4.15": "businessCategory",
    "2.5.4.16": "postalAddress",
    "2.5.4.17": "postalCode",
    "2.5.4.42": "givenName",
    "2.5.4.43": "initials",
    "2.5.4.44": "generationQualifier",
    "2.5.4.45": "x500UniqueIdentifier",
    "2.5.4.46": "dnQualifier",
    "2.5.4.65": "pseudonym",
    "2.5.4.97": "organizationIdentifier",
    "0.9.2342.19200300.100.1.1": "userId",
    "0.9.2342.19200300.100.1.25": "domainComponent",
    "1.2.840.113549.1.9.1": "emailAddress",
    "1.2.840.113549.1.9.2": "unstructuredName",
    "1.3.6.1.4.1.311.60.2.1.1": "jurisdictionLocalityName",
    "1.3.6.1.4.1.311.60.2.1.2": "jurisdictionStateOrProvinceName",
    "1.3.6.1.4.1.311.60.2.1.3": "jurisdictionCountryName",
}

_ACCESS = {
    "OCSP": AuthorityInformationAccessOID.OCSP,
    "caIssuers": AuthorityInformationAccessOID.CA_ISSUERS,
}

# Relative distinguished names, each of one or more (attribute, value).
_Name: TypeAlias = tuple[tuple[tuple[str, str], ...], ...]


class Established(Protocol):
    """A connection whose handshake is finished, such as a Handoff."""

    @property
    def negotiated(self) -> Negotiated:
        """Outcome of the handshake."""

    @property
    def reason(self) -> Reason | None:
        """Why it is relayed; None if it is not."""


class TLSInfo:
    """Outcome of a handshake, with the methods of `ssl.SSLObject` that describe it.

    Attributes:
        server_hostname: SNI, sent or received; None if there was none.
        session_reused: whether a session was resumed.
        group: key exchange group, such as ``x25519``; None if it is not known.
        ktls: "kernel", or the code of the reason why the connection is relayed (docs/cli.md).
    """

    def __init__(self, handoff: Established, *, verified: bool = True) -> None:
        """Store the hand-off's data; the connection itself is not touched.

        Args:
            handoff: of the connection.
            verified: whether the peer's certificate, if it showed one, was judged. Servers judge
                whatever they ask for; a client's configuration may say otherwise.
        """
        negotiated = handoff.negotiated
        self._suite = negotiated.suite
        self._alpn = negotiated.alpn
        self._certificate = negotiated.certificate
        self._verified = verified
        self._chain, self._verified_chain = negotiated.chain, negotiated.verified_chain
        self.group = negotiated.group or None
        self.server_hostname = negotiated.server_name
        self.session_reused = negotiated.resumed
        self.ktls = "kernel" if handoff.reason is None else handoff.reason.code

    def version(self) -> str:
        """Return the protocol version, such as ``TLSv1.3``."""
        return self._suite.version.label

    def cipher(self) -> tuple[str, str, int]:
        """Return OpenSSL's name of the suite, the protocol version, and the bits of the key."""
        return self._suite.openssl_name, self.version(), 8 * self._suite.aead.key_length

    def compression(self) -> None:
        """Return None: there is never any."""

    def selected_alpn_protocol(self) -> str | None:
        """Return the protocol agreed on, or None."""
        return None if self._alpn is None else self._alpn.decode("ascii", "backslashreplace")

    @overload
    def getpeercert(self, binary_form: Literal[False] = False) -> dict[str, Any] | None: ...
    @overload
    def getpeercert(self, binary_form: Literal[True]) -> bytes | None: ...
    @overload
    def getpeercert(self, binary_form: bool) -> dict[str, Any] | bytes | None: ...
    def getpeercert(self, binary_form: bool = False) -> dict[str, Any] | bytes | None:
        """Return the peer's certificate in DER, or as a dict in `ssl`'s format.

        Returns:
            None if it showed none; an empty dictionary if it was not judged, or is written so
            that it cannot be read.
        """
        if self._certificate is None or binary_form:
            return self._certificate
        return describe(self._certificate) if self._verified else {}

    def chain(self) -> tuple[bytes, ...]:
        """Return the peer's certificates in DER as it showed them, its own first."""
        return self._kept(self._chain)

    def verified_chain(self) -> tuple[bytes, ...]:
        """Return the peer's certificate and those that lead to a trust anchor."""
        return self._kept(self._verified_chain)

    def _kept(self, chain: tuple[bytes, ...]) -> tuple[bytes, ...]:
        if self._certificate is not None and not chain:
            raise NotImplementedError("the peer's chain was not kept: set keep_chain")
        return chain

    @property
    def peer_name(self) -> str:
        """The common name in the peer's certificate, or empty."""
        for relative in (self.getpeercert() or {}).get("subject", ()):
            for name, value in relative:
                if name == "commonName":
                    return str(value)
        return ""


def describe(der: bytes) -> dict[str, Any]:
    """Return a certificate as a dict in `ssl`'s format; empty if it cannot be read.

    Source: Modules/_ssl.c _decode_certificate.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        said: dict[str, Any] = {
            "subject": _name(certificate.subject),
            "issuer": _name(certificate.issuer),
            "version": certificate.version.value + 1,
            "serialNumber": _even(f"{certificate.serial_number:X}"),
            "notBefore": _time(certificate.not_valid_before_utc),
            "notAfter": _time(certificate.not_valid_after_utc),
        }
        for extension in certificate.extensions:
            said |= _extension(extension.value)
    except Exception as exc:  # noqa: BLE001 - the peer wrote it, and cryptography has many errors
        _log.info("the peer's certificate cannot be read: %s", exc)
        return {}
    return said


def _extension(value: x509.ExtensionType) -> dict[str, tuple[Any, ...]]:
    """Return what `ssl` tells of an extension: names of the peer, addresses of its authority."""
    if isinstance(value, x509.SubjectAlternativeName):
        return {"subjectAltName": tuple(map(_general_name, value))}
    found: dict[str, tuple[Any, ...]] = {}
    if isinstance(value, x509.AuthorityInformationAccess):
        for key, method in _ACCESS.items():
            found[key] = _uris(
                each.access_location for each in value if each.access_method == method
            )
    if isinstance(value, x509.CRLDistributionPoints):
        names = (name for point in value for name in point.full_name or ())
        found["crlDistributionPoints"] = _uris(names)
    return {key: uris for key, uris in found.items() if uris}


def _uris(names: Iterable[x509.GeneralName]) -> tuple[str, ...]:
    return tuple(name.value for name in names if isinstance(name, x509.UniformResourceIdentifier))


def _even(digits: str) -> str:
    return digits if len(digits) % 2 == 0 else f"0{digits}"


def _time(moment: datetime) -> str:
    """Spell a time as OpenSSL does, whatever the locale (crypto/asn1/a_time.c)."""
    return f"{_MONTHS[moment.month - 1]} {moment.day:2} {moment:%H:%M:%S} {moment.year} GMT"


def _name(name: x509.Name) -> _Name:
    return tuple(
        tuple(
            (
                _ATTRIBUTES.get(part.oid.dotted_string, part.oid.dotted_string),
                part.value if isinstance(part.value, str) else part.value.decode("latin-1"),
            )
            for part in relative
        )
        for relative in name.rdns
    )


def _general_name(name: x509.GeneralName) -> tuple[str, str | _Name]:
    if isinstance(name, x509.DirectoryName):
        return "DirName", _name(name.value)
    if isinstance(name, x509.RegisteredID):
        return "Registered ID", name.value.dotted_string
    if isinstance(name, x509.IPAddress):
        address = name.value
        if isinstance(address, IPv6Address):
            groups = address.exploded.split(":")
            return "IP Address", ":".join(f"{int(group, 16):X}" for group in groups)
        return "IP Address", str(address)
    kinds = {x509.DNSName: "DNS", x509.RFC822Name: "email", x509.UniformResourceIdentifier: "URI"}
    kind = kinds.get(type(name))
    return ("othername", "<unsupported>") if kind is None else (kind, str(name.value))
