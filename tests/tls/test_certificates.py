"""Tests of certificates."""

from __future__ import annotations

import hashlib
import subprocess
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL import crypto

from tests.interop.programs import require
from tests.spellings import good
from tlsify.credentials.pem import read_pem
from tlsify.credentials.self_signed import make_key_pair
from tlsify.tls import openssl
from tlsify.tls.certificates import is_read_so, key_hash, name_hashes

if TYPE_CHECKING:
    from pathlib import Path

    import trustme

MADE = make_key_pair(["example.org"])
PEM = MADE.certificate_pem()
DER = read_pem(PEM, "it")
PASSED_OVER = "something damaged of another kind"  # by this OpenSSL, which others may not do
TWIN = make_key_pair(["example.org"])  # of the same name


def test_names_are_those_that_openssl_looks_for(tmp_path: Path) -> None:
    """The hash is the one that openssl-rehash would name a link after."""
    require("openssl")
    (tmp_path / "it.pem").write_bytes(PEM)
    words = ["openssl", "x509", "-noout", "-subject_hash", "-in", str(tmp_path / "it.pem")]
    told = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    assert [f"{number:08x}" for number in name_hashes(DER).values()] == [told.strip()]


def test_several(authority: trustme.CA) -> None:
    """Each certificate counts once."""
    other = read_pem(authority.cert_pem.bytes(), "it")
    assert len(name_hashes(DER + other + DER)) == 2


@pytest.mark.parametrize("encoded", [b"", b"garbage", b"\x30\x00", DER[0][:-1]])
def test_malformed(encoded: bytes) -> None:
    """What OpenSSL cannot read is a ValueError."""
    with pytest.raises(ValueError, match="malformed certificate"):
        name_hashes([*DER, encoded])


@pytest.mark.parametrize("spelling", good(PEM))
def test_what_openssl_finds(tmp_path: Path, spelling: str) -> None:
    """What is said of a file is what OpenSSL does with it, in a folder in its own layout."""
    file = tmp_path / "it"
    file.write_bytes(good(PEM)[spelling])
    (number,) = name_hashes(DER).values()
    (tmp_path / f"{number:08x}.0").symlink_to(file)
    (tmp_path / f"{number:08x}.1").write_bytes(TWIN.certificate_pem())
    found = []
    for pair in (MADE, TWIN):
        store = crypto.X509Store()
        store.load_locations(None, str(tmp_path))
        store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
        leaf = crypto.X509.from_cryptography(pair.chain[0])
        try:
            crypto.X509StoreContext(store, leaf).verify_certificate()
        except crypto.X509StoreContextError:
            found.append(False)
        else:
            found.append(True)
    encoded = read_pem(file.read_bytes(), "it")
    is_read = is_read_so(file.read_bytes(), encoded)
    assert all(found) if is_read else not all(found) or spelling == PASSED_OVER


def test_what_openssl_reads_in_part() -> None:
    """One certificate more, or less, is not the same."""
    assert is_read_so(PEM, DER)
    assert not is_read_so(PEM, DER * 2)
    assert not is_read_so(PEM * 2, DER)


def test_without_openssls_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it cannot be asked nothing is left to it."""
    monkeypatch.setattr(openssl, "_lib", object())
    assert not is_read_so(PEM, DER)


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
