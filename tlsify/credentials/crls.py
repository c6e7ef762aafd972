"""Revocation lists: read from a file (RFC 5280 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlsify.credentials.parse import parse_crls
from tlsify.credentials.reading import read_file

if TYPE_CHECKING:
    from _typeshed import StrPath
    from cryptography import x509


def load(path: StrPath) -> tuple[x509.CertificateRevocationList, ...]:
    """Read a file of revocation lists.

    Raises:
        ConfigError: it cannot be read, or holds none.
        ResourceError: no descriptor or memory is available.
    """
    return parse_crls(read_file(path, "revocation list"), str(path))
