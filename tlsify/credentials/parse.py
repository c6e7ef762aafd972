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

from tlsify.credentials.pem import malformed, read_blocks, read_pem
from tlsify.errors import ConfigError

if TYPE_CHECKING:
    from types import ModuleType


PrivateKey: TypeAlias = (
    RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey | Ed448PrivateKey
)

# Without headers, which have hyphens: an encrypted key's (RFC 1421) are the library's to read.
_PRIVATE_KEY = re.compile(rb"-----BEGIN ([A-Z ]*PRIVATE KEY)-----([^-]*)-----END \1-----")
_CERTIFICATE, _KEY = b"-----BEGIN CERTIFICATE-----", b"PRIVATE KEY-----"
_CRL = "X509 CRL"


def parse_certificates(pem: bytes, what: str) -> tuple[x509.Certificate, ...]:
    """Read one or more PEM certificates.

    Raises:
        ConfigError: there is none, or one is malformed.
    """
    try:
        return tuple(map(x509.load_der_x509_certificate, read_pem(pem, what)))
    except (ValueError, x509.InvalidVersion) as exc:
        raise malformed(what) from exc


def has_crls(pem: bytes) -> bool:
    """Return whether a PEM file has revocation lists, or what is left of them."""
    return f"{_CRL}-----".encode() in pem


def parse_crls(data: bytes, what: str) -> tuple[x509.CertificateRevocationList, ...]:
    """Read one or more PEM certificate revocation lists, or one in DER (RFC 5280 5).

    Raises:
        ConfigError: there is none, or one is malformed.
    """
    try:
        blocks = read_blocks(data, (_CRL.encode(),))
        return tuple(map(x509.load_der_x509_crl, blocks or (data,)))
    except (ValueError, x509.InvalidVersion) as exc:
        if has_crls(data):
            raise malformed(what, "certificate revocation list", _CRL) from exc
        raise ConfigError(
            f"{what} holds no usable certificate revocation list",
            hint='it must be DER, or contain "-----BEGIN X509 CRL-----"',
        ) from exc


def parse_key(pem: bytes, what: str) -> PrivateKey:
    """Read an unencrypted PEM key that a certificate for TLS may have: the first of a file.

    As with certificates, blanks within it and whatever is around it make no difference.

    Raises:
        ConfigError: there is none, or it is encrypted, malformed, or of another kind.
    """
    if _CERTIFICATE in pem and _KEY not in pem:
        raise ConfigError(
            f"{what} holds no private key",
            hint="name the key's file, too: --key FILE or KEYFILE, for backends --backend-key FILE",
        )
    if found := _PRIVATE_KEY.search(pem):
        label, body = found.groups()
        lines = (b"-----BEGIN %b-----" % label, *body.split(), b"-----END %b-----" % label)
        pem = b"\n".join(lines)
    private = None  # as one whose curve the library does not know
    try:
        private = _serialization().load_pem_private_key(pem, None)
    except UnsupportedAlgorithm:
        pass
    except TypeError as exc:
        raise ConfigError(
            f"{what} holds an encrypted private key",
            hint="give an unencrypted key file of mode 0600",
        ) from exc
    except ValueError as exc:
        raise ConfigError(
            f"{what} holds no usable PEM private key",
            hint='name a file that contains "-----BEGIN PRIVATE KEY-----", and all of the key',
        ) from exc
    if not isinstance(private, PrivateKey):
        raise ConfigError(
            f"{what} holds a private key of a kind that TLS servers do not use",
            hint="use an RSA (2048 bits or more), EC (P-256, P-384 or P-521) or Ed25519 key",
        )
    return private


def encoded(
    signed: x509.Certificate | x509.CertificateRevocationList, *, pem: bool = False
) -> bytes:
    """Return a certificate, or a revocation list, in DER or in PEM."""
    encoding = _serialization().Encoding
    return signed.public_bytes(encoding.PEM if pem else encoding.DER)


def decrypt_key(pem: bytes, password: bytes, what: str) -> bytes:
    """Decrypt a PEM key; return an unencrypted key unchanged.

    Raises:
        ConfigError: the password is wrong, or the key is malformed.
    """
    library = _serialization()
    try:
        key = library.load_pem_private_key(pem, password)
    except TypeError:
        return pem
    except ValueError as exc:
        raise ConfigError(
            f"the private key of {what} cannot be decrypted",
            hint="check the password and the key file",
        ) from exc
    form = library.Encoding.PEM, library.PrivateFormat.PKCS8, library.NoEncryption()
    return bytes(key.private_bytes(*form))


def _serialization() -> ModuleType:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - slow; --help does without

    return serialization
