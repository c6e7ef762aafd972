"""Tests of certificates."""

from __future__ import annotations

import hashlib
import subprocess
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import crypto

from tests.interop.programs import require
from tlsify.selfsigned import make_key_pair
from tlsify.tls.certificates import key_hash, name_hashes

if TYPE_CHECKING:
    from pathlib import Path

    import trustme

MADE = make_key_pair(["example.org"])
PEM = MADE.certificate_pem()


def test_names_are_those_that_openssl_looks_for(tmp_path: Path) -> None:
    """The hash is the one that openssl-rehash would name a link after."""
    require("openssl")
    (tmp_path / "it.pem").write_bytes(PEM)
    words = ["openssl", "x509", "-noout", "-subject_hash", "-in", str(tmp_path / "it.pem")]
    told = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    assert [f"{number:08x}" for number in name_hashes(PEM).values()] == [told.strip()]


def test_file_with_several(authority: trustme.CA) -> None:
    """Each certificate counts once, and what stands in between does not."""
    other = authority.cert_pem.bytes()
    assert len(name_hashes(b"first\n" + PEM + b"second\n" + other + PEM)) == 2
    old = PEM.replace(b"CERTIFICATE-----", b"X509 CERTIFICATE-----")
    old = old.replace(b"BEGIN CERTIFICATE", b"BEGIN X509 CERTIFICATE")
    assert name_hashes(old) == name_hashes(PEM)


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"garbage",
        PEM[: len(PEM) // 2],
        PEM + PEM[: len(PEM) // 2],
        PEM.replace(b"M", b"!", 3),
        b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
        PEM + b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
    ],
)
def test_broken_file(pem: bytes) -> None:
    """One broken certificate spoils the file, whatever else is in it."""
    with pytest.raises(ValueError, match="certificate"):
        name_hashes(pem)


@given(st.binary(max_size=100), st.integers(0, 2000))
def test_damaged_file(noise: bytes, position: int) -> None:
    """Damage anywhere is a ValueError, or leaves a certificate."""
    position %= len(PEM)
    try:
        assert name_hashes(PEM[:position] + noise + PEM[position + 1 :])
    except ValueError as error:
        assert str(error)  # noqa: PT017 - or nothing is raised


def test_hash_of_a_key() -> None:
    """A pin is the SHA-256 of the SubjectPublicKeyInfo."""
    info = MADE.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    leaf = crypto.X509.from_cryptography(MADE.chain[0])
    assert key_hash(leaf) == hashlib.sha256(info).digest()


def test_hash_of_a_key_that_nobody_knows() -> None:
    """A key of an unknown kind has none, and so fits no pin."""
    der = MADE.chain[0].public_bytes(Encoding.DER)
    known = bytes.fromhex("06072a8648ce3d0201")  # id-ecPublicKey
    assert der.count(known) == 1
    strange = der.replace(known, known[:-1] + b"\x7f")
    assert key_hash(crypto.load_certificate(crypto.FILETYPE_ASN1, strange)) == b""
