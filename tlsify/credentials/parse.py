"""Certificates, keys and revocation lists: from files to values, and back."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeAlias

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from tlsify.credentials.pem import malformed, read_file, read_pem
from tlsify.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

# cryptography's serialization takes its time to load, and a server's --help does without: it is
# imported where it is used.

PrivateKey: TypeAlias = (
    RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey | Ed448PrivateKey
)

# Without headers, which have hyphens: an encrypted key's (RFC 1421) are the library's to read.
_PRIVATE_KEY = re.compile(rb"-----BEGIN ([A-Z ]*PRIVATE KEY)-----([^-]*)-----END \1-----")
_PEM_CRL = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)


def parse_certificates(pem: bytes, what: str) -> tuple[x509.Certificate, ...]:
    """Read one or more PEM certificates.

    Raises:
        ConfigError: there is none, or one is malformed.
    """
    try:
        return tuple(map(x509.load_der_x509_certificate, read_pem(pem, what)))
    except (ValueError, x509.InvalidVersion) as exc:
        raise malformed(what) from exc


def parse_crls(data: bytes, what: str) -> tuple[x509.CertificateRevocationList, ...]:
    """Read one or more PEM certificate revocation lists, or one in DER (RFC 5280 5).

    Raises:
        ConfigError: there is none, or one is malformed.
    """
    try:
        if blocks := _PEM_CRL.findall(data):
            return tuple(map(x509.load_pem_x509_crl, blocks))
        return (x509.load_der_x509_crl(data),)
    except (ValueError, x509.InvalidVersion) as exc:
        raise ConfigError(
            f"{what} holds no usable certificate revocation list",
            hint='it must be DER, or contain "-----BEGIN X509 CRL-----"',
        ) from exc


def load_crls(path: Path) -> tuple[x509.CertificateRevocationList, ...]:
    """Read a file of revocation lists and parse it (`parse_crls`)."""
    return parse_crls(read_file(path, "revocation list"), str(path))


def parse_key(pem: bytes) -> PrivateKey:
    """Read an unencrypted PEM key that a certificate for TLS may have: the first of a file.

    As with certificates, blanks within it and whatever is around it make no difference.

    Raises:
        ConfigError: it is encrypted, malformed, or of another kind.
    """
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415 - see above
        load_pem_private_key,
    )

    if found := _PRIVATE_KEY.search(pem):
        label, body = found.groups()
        lines = (b"-----BEGIN %b-----" % label, *body.split(), b"-----END %b-----" % label)
        pem = b"\n".join(lines)
    private = None  # as one whose curve the library does not know
    try:
        private = load_pem_private_key(pem, None)
    except UnsupportedAlgorithm:
        pass
    except TypeError as exc:
        raise ConfigError(
            "the private key is encrypted", hint="give an unencrypted key file of mode 0600"
        ) from exc
    except ValueError as exc:
        raise ConfigError(
            "the key file holds no usable PEM private key",
            hint='name a file that contains "-----BEGIN PRIVATE KEY-----", and all of the key',
        ) from exc
    if not isinstance(private, PrivateKey):
        raise ConfigError(
            "the private key is of a kind that TLS servers do not use",
            hint="use an RSA (2048 bits or more), EC (P-256, P-384 or P-521) or Ed25519 key",
        )
    return private


def encoded(
    signed: x509.Certificate | x509.CertificateRevocationList, *, pem: bool = False
) -> bytes:
    """Return a certificate, or a revocation list, in DER or in PEM."""
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415 - see above

    return signed.public_bytes(Encoding.PEM if pem else Encoding.DER)
