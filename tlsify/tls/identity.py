"""RFC 9525: reference identifiers against a certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography import x509
from service_identity.cryptography import extract_patterns
from service_identity.exceptions import CertificateError, VerificationError
from service_identity.hazmat import (
    DNS_ID,
    SRV_ID,
    URI_ID,
    CertificatePattern,
    IPAddress_ID,
    ServiceID,
    verify_service_identity,
)

from tlsify.config import IdKind, ReferenceIdentifier
from tlsify.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_SERVICE_IDS: dict[IdKind, Callable[[str], ServiceID]] = {
    IdKind.DNS: DNS_ID,
    IdKind.IP: IPAddress_ID,
    IdKind.SRV: SRV_ID,
    IdKind.URI: URI_ID,
}

# What cryptography raises for a subjectAltName, or another extension, that it cannot read.
_UNREADABLE_NAMES = (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)


def compile_identifiers(identities: Iterable[ReferenceIdentifier]) -> tuple[ServiceID, ...]:
    """Prepare reference identifiers for matching.

    Raises:
        ConfigError: one is not valid for its kind.
    """
    compiled: list[ServiceID] = []
    for identity in identities:
        try:
            compiled.append(_SERVICE_IDS[identity.kind](identity.name))
        except (ValueError, ImportError) as exc:  # ImportError: Unicode, and no idna package
            raise ConfigError(
                f'"{identity}" is not a valid {identity.kind.name}-ID',
                hint="write dns:NAME, ip:ADDRESS, srv:_SERVICE.NAME or uri:SCHEME:NAME",
            ) from exc
    return tuple(compiled)


def matches(certificate: x509.Certificate, accepted: Sequence[ServiceID]) -> bool:
    """Tell whether a certificate presents at least one of the accepted identifiers."""
    try:
        patterns = extract_patterns(certificate)
    except (CertificateError, *_UNREADABLE_NAMES):
        return False
    return any(_matches_one(patterns, identifier) for identifier in accepted)


def _matches_one(patterns: Sequence[CertificatePattern], identifier: ServiceID) -> bool:
    try:
        verify_service_identity(patterns, obligatory_ids=[identifier], optional_ids=[])
    except (CertificateError, VerificationError):
        return False
    return True


def presented(certificate: x509.Certificate) -> tuple[str, ...]:
    """List the DNS, IP and URI names of a certificate, for messages."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, *_UNREADABLE_NAMES):
        return ()
    found = (
        *(f"dns:{name}" for name in names.get_values_for_type(x509.DNSName)),
        *(f"ip:{address}" for address in names.get_values_for_type(x509.IPAddress)),
        *(f"uri:{uri}" for uri in names.get_values_for_type(x509.UniformResourceIdentifier)),
    )
    # The peer chose these bytes, and a terminal may read them.
    return tuple(name if name.isprintable() else ascii(name) for name in found)
