"""Certificates as OpenSSL sees them: the names it finds them by, the hash of their key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes
from OpenSSL import crypto

from tlsify.credentials.parse import encoded
from tlsify.tls.openssl import default_places, read_as_found

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tlsify.credentials.anchors import TrustAnchors


def load(found: bytes) -> crypto.X509:
    """Parse a certificate in DER with OpenSSL.

    Raises:
        ValueError: it cannot.
    """
    try:
        return crypto.load_certificate(crypto.FILETYPE_ASN1, found)
    except crypto.Error as exc:
        raise ValueError("malformed certificate") from exc


def name_hashes(found: Iterable[bytes]) -> dict[str, int]:
    """Return OpenSSL's hashes of certificates' subjects, by fingerprint.

    Returns:
        Digest of each certificate -> 32-bit hash of its subject's name.

    Raises:
        ValueError: one is malformed.

    Source: X509_LOOKUP_hash_dir(3), openssl-rehash(1).
    """
    return {
        certificate.digest("sha256").decode("ascii"): certificate.subject_name_hash()
        for certificate in map(load, found)
    }


def is_read_so(pem: bytes, expected: Iterable[bytes]) -> bool:
    """Return whether OpenSSL, where it finds a file by itself, reads these certificates in it.

    It takes fewer spellings of PEM than `pem.read_pem`, and says nothing of the rest.
    """
    found = read_as_found(pem)
    return found is not None and list(map(der, found)) == list(expected)


def der(certificate: crypto.X509) -> bytes:
    """Return a certificate as it came."""
    return crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)


def key_hash(certificate: crypto.X509) -> bytes:
    """Return the SHA-256 of a certificate's SubjectPublicKeyInfo, which pins name (RFC 7469 2.4).

    Returns:
        32 bytes; none if OpenSSL does not know that kind of key.
    """
    try:
        info = crypto.dump_publickey(crypto.FILETYPE_ASN1, certificate.get_pubkey())
    except crypto.Error:
        return b""
    return sha256(info)


def digest_of_anchors(trust: TrustAnchors) -> bytes:
    """Return a digest that identifies trust anchors (`TrustAnchors.content`)."""
    if trust.certificates is not None:
        return digest(*sorted(map(encoded, trust.certificates)))
    return digest(trust.content(*default_places()))


def digest(*parts: bytes) -> bytes:
    """Hash parts, each with its length in front, so that no other parts have the same hash."""
    return sha256(b"".join(len(p).to_bytes(8, "big") + p for p in parts))


def sha256(data: bytes) -> bytes:
    """Hash with what OpenSSL brought along: a client says hello sooner without hashlib."""
    made = hashes.Hash(hashes.SHA256())
    made.update(data)
    return made.finalize()
