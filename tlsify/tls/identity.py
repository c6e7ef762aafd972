"""RFC 9525: reference identifiers against a certificate."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from cryptography import x509
from service_identity import hazmat
from service_identity.exceptions import CertificateError

from tlsify.credentials.presented import read
from tlsify.errors import ConfigError
from tlsify.names import IdKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from service_identity.hazmat import CertificatePattern, ServiceID

    from tlsify.credentials.presented import Presented
    from tlsify.names import ReferenceIdentifier


def compile_identifiers(identities: Iterable[ReferenceIdentifier]) -> tuple[ServiceID, ...]:
    """Prepare reference identifiers, in their canonical form, for matching.

    Raises:
        ConfigError: one is not valid for its kind.
    """
    return tuple(map(_compile, identities))


@functools.lru_cache(256)  # it takes 40 µs each, and a program has few peers
def _compile(identity: ReferenceIdentifier) -> ServiceID:
    kinds: dict[IdKind, Callable[[str], ServiceID]] = {
        IdKind.DNS: hazmat.DNS_ID,
        IdKind.IP: hazmat.IPAddress_ID,
        IdKind.SRV: hazmat.SRV_ID,
        IdKind.URI: hazmat.URI_ID,
    }
    try:
        return kinds[identity.kind](identity.name)
    except ValueError as exc:
        raise ConfigError(f'"{identity}" is not a valid {identity.kind.name}-ID') from exc


@functools.lru_cache(256)  # names take 100 µs to read, and a program meets the same peers again
def presents(der: bytes, accepted: tuple[ReferenceIdentifier, ...]) -> bool:
    """Match as `matches`, for a certificate in DER.

    Raises:
        ValueError: the certificate is malformed.
        x509.InvalidVersion: likewise.
        ConfigError: as `compile_identifiers`.
    """
    return matches(x509.load_der_x509_certificate(der), compile_identifiers(accepted))


def matches(certificate: x509.Certificate, accepted: Sequence[ServiceID]) -> bool:
    """Return whether a certificate presents at least one of the accepted identifiers."""
    found = [pattern for pattern in map(_pattern, read(certificate)) if pattern is not None]
    return any(_fits(pattern, identifier) for pattern in found for identifier in accepted)


def _pattern(name: Presented) -> CertificatePattern | None:
    """Return the matcher for a presented identifier; None for an unusable one."""
    kinds: dict[IdKind, Callable[[bytes], CertificatePattern]] = {
        IdKind.DNS: hazmat.DNSPattern.from_bytes,
        IdKind.IP: hazmat.IPAddressPattern.from_bytes,
        IdKind.SRV: hazmat.SRVPattern.from_bytes,
        IdKind.URI: hazmat.URIPattern.from_bytes,
    }
    try:
        pattern = kinds[name.kind](name.value)
    except (CertificateError, ValueError, IndexError):
        return None
    return pattern if name.kind is IdKind.IP or name.value.isascii() else None


def _fits(pattern: CertificatePattern, identifier: ServiceID) -> bool:
    if identifier.verify(pattern):
        return True
    # RFC 9525 lets a wildcard stand for an A-label, too, which service_identity does not yet.
    return (
        isinstance(pattern, hazmat.DNSPattern)
        and isinstance(identifier, hazmat.DNS_ID)
        and identifier.hostname.startswith(b"xn--")
        and pattern.pattern == b"*." + identifier.hostname.partition(b".")[2]
    )


def presented(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return a certificate's identifiers, for messages, with a remark on unusable ones."""
    return tuple(
        f"{name.kind.value}:{name.text}{'' if _pattern(name) else ' (unusable)'}"
        for name in read(certificate)
    )
