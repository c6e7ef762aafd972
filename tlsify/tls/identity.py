"""RFC 9525: reference identifiers against a certificate."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

from tlsify.config import IdKind, ReferenceIdentifier, is_ip_address
from tlsify.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from cryptography import x509
    from service_identity.hazmat import CertificatePattern, ServiceID

# service_identity takes longer to import than a handshake does. So it is imported where there is a
# certificate to match: the ClientHello is on its way then.

# A name that service_identity takes; one without a letter it might take for an address.
_PLAIN_NAME = re.compile(r"(?=[^A-Za-z]*[A-Za-z])[A-Za-z0-9_.-]+")


def check_identifiers(identities: Iterable[ReferenceIdentifier]) -> None:
    """Make sure that `compile_identifiers` will take them; for most of them that is easily told.

    Raises:
        ConfigError: one is not valid for its kind.
    """
    for identity in identities:
        kind, name = identity.kind, identity.name
        is_plain_name = kind is IdKind.DNS and _PLAIN_NAME.fullmatch(name)
        if not is_plain_name and not (kind is IdKind.IP and is_ip_address(name)):
            compile_identifiers([identity])


def compile_identifiers(identities: Iterable[ReferenceIdentifier]) -> tuple[ServiceID, ...]:
    """Prepare reference identifiers for matching.

    Raises:
        ConfigError: one is not valid for its kind.
    """
    return tuple(map(_compile, identities))


@functools.lru_cache(256)  # it takes 40 µs each, and a program has few peers
def _compile(identity: ReferenceIdentifier) -> ServiceID:
    from service_identity import hazmat  # noqa: PLC0415 - see above

    kinds: dict[IdKind, Callable[[str], ServiceID]] = {
        IdKind.DNS: hazmat.DNS_ID,
        IdKind.IP: hazmat.IPAddress_ID,
        IdKind.SRV: hazmat.SRV_ID,
        IdKind.URI: hazmat.URI_ID,
    }
    try:
        return kinds[identity.kind](identity.name)
    except (ValueError, ImportError) as exc:  # ImportError: Unicode, and no idna package
        raise ConfigError(
            f'"{identity}" is not a valid {identity.kind.name}-ID',
            hint="write dns:NAME, ip:ADDRESS, srv:_SERVICE.NAME or uri:SCHEME:NAME",
        ) from exc


@functools.lru_cache(256)  # names take 100 µs to read, and a program meets the same peers again
def presents(der: bytes, accepted: tuple[ReferenceIdentifier, ...]) -> bool:
    """Do as `matches`, for a certificate in DER.

    Raises:
        ValueError: the certificate is malformed.
        x509.InvalidVersion: likewise.
        ConfigError: as `compile_identifiers`.
    """
    from cryptography import x509  # noqa: PLC0415 - see above

    return matches(x509.load_der_x509_certificate(der), compile_identifiers(accepted))


def matches(certificate: x509.Certificate, accepted: Sequence[ServiceID]) -> bool:
    """Tell whether a certificate presents at least one of the accepted identifiers."""
    from service_identity.cryptography import extract_patterns  # noqa: PLC0415 - see above
    from service_identity.exceptions import CertificateError  # noqa: PLC0415

    try:
        patterns = extract_patterns(certificate)
    except CertificateError:
        return False
    except _unreadable_names():
        return False
    return any(_matches_one(patterns, identifier) for identifier in accepted)


def _matches_one(patterns: Sequence[CertificatePattern], identifier: ServiceID) -> bool:
    from service_identity.exceptions import (  # noqa: PLC0415 - see above
        CertificateError,
        VerificationError,
    )
    from service_identity.hazmat import verify_service_identity  # noqa: PLC0415

    try:
        verify_service_identity(patterns, obligatory_ids=[identifier], optional_ids=[])
    except (CertificateError, VerificationError):
        return False
    return True


def presented(certificate: x509.Certificate) -> tuple[str, ...]:
    """List the DNS, IP and URI names of a certificate, for messages."""
    from cryptography import x509  # noqa: PLC0415 - see above

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    except _unreadable_names():
        return ()
    found = (
        *(f"dns:{name}" for name in names.get_values_for_type(x509.DNSName)),
        *(f"ip:{address}" for address in names.get_values_for_type(x509.IPAddress)),
        *(f"uri:{uri}" for uri in names.get_values_for_type(x509.UniformResourceIdentifier)),
    )
    # The peer chose these bytes, and a terminal may read them.
    return tuple(name if name.isprintable() else ascii(name) for name in found)


def _unreadable_names() -> tuple[type[Exception], ...]:
    """Give what cryptography raises for a subjectAltName, or another extension, it cannot read."""
    from cryptography import x509  # noqa: PLC0415 - see above

    return ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType
