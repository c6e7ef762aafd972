"""Certificates as OpenSSL sees them: the names it finds them by, the hash of their key."""

from __future__ import annotations

import re

from OpenSSL import crypto

_BEGIN = re.compile(rb"-----BEGIN (?:X509 )?CERTIFICATE-----")
_BLOCK = re.compile(_BEGIN.pattern + rb".*?-----END (?:X509 )?CERTIFICATE-----", re.DOTALL)


def name_hashes(pem: bytes) -> dict[str, int]:
    """Tell under which subjects OpenSSL looks for the certificates of a file.

    Returns:
        Digest of each certificate -> 32-bit hash of its subject's name.

    Raises:
        ValueError: there is no certificate, or one is malformed.

    Source: X509_LOOKUP_hash_dir(3), openssl-rehash(1).
    """
    blocks = _BLOCK.findall(pem)
    if not blocks or len(blocks) != len(_BEGIN.findall(pem)):
        msg = "no certificate, or half of one"
        raise ValueError(msg)
    try:
        certificates = [crypto.load_certificate(crypto.FILETYPE_PEM, block) for block in blocks]
    except crypto.Error as exc:
        msg = "malformed certificate"
        raise ValueError(msg) from exc
    return {
        certificate.digest("sha256").decode("ascii"): certificate.subject_name_hash()
        for certificate in certificates
    }


def der(certificate: crypto.X509) -> bytes:
    """Give a certificate as it came."""
    return crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)


def key_hash(certificate: crypto.X509) -> bytes:
    """Give the SHA-256 of a certificate's SubjectPublicKeyInfo, which pins name (RFC 7469 2.4).

    Returns:
        32 bytes; none if OpenSSL does not know that kind of key.
    """
    try:
        info = crypto.dump_publickey(crypto.FILETYPE_ASN1, certificate.get_pubkey())
    except crypto.Error:
        return b""
    import hashlib  # noqa: PLC0415 - only pins need it

    return hashlib.sha256(info).digest()
