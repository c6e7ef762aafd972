"""Revocation lists: read from a file (RFC 5280 5)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tlsify.credentials.parse import parse_crls
from tlsify.credentials.reading import REVOCATION_LIST, read_file

if TYPE_CHECKING:
    from _typeshed import StrPath
    from cryptography import x509


def load(path: StrPath) -> tuple[x509.CertificateRevocationList, ...]:
    """Read a file of revocation lists.

    Raises:
        ConfigError: it cannot be read, or holds none.
        ResourceError: no descriptor or memory is available.
    """
    return parse_crls(read_file(path, REVOCATION_LIST), str(path))


def amiss(found: x509.CertificateRevocationList) -> str | None:
    """Return a warning about a list that has every certificate of its issuer be refused, or None.

    Source: X509_V_ERR_CRL_HAS_EXPIRED and its kin, X509_verify_cert(3).
    """
    issuer, now = found.issuer.rfc4514_string(), datetime.now(UTC)
    begin, end = found.last_update_utc, found.next_update_utc
    if end is not None and end < now:
        return f"the revocation list of {issuer} expired on {end:%Y-%m-%d %H:%M:%S} UTC"
    if begin > now:
        return f"the revocation list of {issuer} is not valid before {begin:%Y-%m-%d %H:%M:%S} UTC"
    return None
