"""Tests of key_pair."""

from __future__ import annotations

import base64
import traceback
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x448, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.certificates import KEYS
from tests.conftest import issue
from tests.spellings import good
from tlsify.config import ServerConfig
from tlsify.credentials.key_pair import KeyPair
from tlsify.credentials.parse import parse_certificates, parse_key
from tlsify.credentials.self_signed import make_key_pair
from tlsify.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    import trustme
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

    from tlsify.credentials.parse import PrivateKey


def pem(key: PrivateKeyTypes, password: bytes | None = None) -> bytes:
    """Write a key as PKCS #8."""
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def test_key_pair_from_files(tmp_path: Path, made: KeyPair) -> None:
    """Both files are read, and the chain is given out again without the key."""
    (tmp_path / "chain.pem").write_bytes(made.certificate_pem())
    (tmp_path / "key.pem").write_bytes(pem(made.key))
    loaded = KeyPair.load(str(tmp_path / "chain.pem"), str(tmp_path / "key.pem"))
    assert loaded.chain == made.chain
    assert loaded.key.public_key() == made.key.public_key()
    assert b"PRIVATE" not in loaded.certificate_pem()


def test_whole_chain_is_kept(authority: trustme.CA) -> None:
    """Intermediates stay behind the leaf, in order."""
    middle = authority.create_child_ca()
    pair = issue(middle, "example.org")
    assert len(pair.chain) == 2
    assert pair.chain[0].issuer == pair.chain[1].subject
    assert pair.certificate_pem().count(b"BEGIN") == 2


def test_file_that_is_not_there(tmp_path: Path, made: KeyPair) -> None:
    """The path and the system's reason are told."""
    with pytest.raises(ConfigError, match=r"cannot read certificate .*absent.*No such file"):
        KeyPair.load(tmp_path / "absent", tmp_path / "absent")
    (tmp_path / "chain.pem").write_bytes(made.certificate_pem())
    with pytest.raises(ConfigError, match="cannot read private key"):
        KeyPair.load(tmp_path / "chain.pem", tmp_path)


def test_key_of_another_certificate(made: KeyPair) -> None:
    """A key that does not belong to the first certificate is refused."""
    other = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(ConfigError, match="does not belong"):
        KeyPair.from_pem(made.certificate_pem(), pem(other))


def test_chain_in_the_wrong_order(authority: trustme.CA, made: KeyPair) -> None:
    """The leaf has to come first."""
    chain = authority.cert_pem.bytes() + made.certificate_pem()
    with pytest.raises(ConfigError, match="does not belong"):
        KeyPair.from_pem(chain, pem(made.key))


def test_encrypted_key(made: KeyPair) -> None:
    """There is nobody to ask for the passphrase."""
    with pytest.raises(ConfigError, match="holds an encrypted"):
        KeyPair.from_pem(made.certificate_pem(), pem(made.key, b"passphrase"))


@pytest.mark.parametrize("make", [x25519.X25519PrivateKey.generate, x448.X448PrivateKey.generate])
def test_key_of_a_useless_kind(made: KeyPair, make: type) -> None:
    """A key that cannot sign for a server is refused with the kinds that can."""
    with pytest.raises(ConfigError, match="of a kind") as caught:
        KeyPair.from_pem(made.certificate_pem(), pem(make()))
    assert "Ed25519" in caught.value.hint


def test_key_on_a_curve_that_nobody_knows() -> None:
    """It is a key, and the error does not say otherwise."""
    known, strange = bytes.fromhex("06082a8648ce3d030107"), bytes.fromhex("06082a8648ce3d03017f")
    der = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.DER, PrivateFormat.PKCS8, NoEncryption()
    )
    body = base64.encodebytes(der.replace(known, strange)).decode()
    text = f"-----BEGIN PRIVATE KEY-----\n{body}-----END PRIVATE KEY-----\n"
    with pytest.raises(ConfigError, match="of a kind that TLS servers do not use"):
        parse_key(text.encode(), "it")


@pytest.mark.parametrize(
    "garbage", [b"", b"garbage", b"\xff\xfe\0", b"-----BEGIN PRIVATE KEY-----\n"]
)
def test_garbage(made: KeyPair, garbage: bytes) -> None:
    """Neither a certificate nor a key comes out of garbage."""
    with pytest.raises(ConfigError, match="no usable PEM private key"):
        KeyPair.from_pem(made.certificate_pem(), garbage)
    with pytest.raises(ConfigError, match="no usable PEM certificate"):
        KeyPair.from_pem(garbage, pem(made.key))


@given(st.binary(max_size=200), st.integers(0, 2000))
def test_damaged_pem(noise: bytes, position: int) -> None:
    """Damage anywhere in a file is a ConfigError, or does not matter."""
    good = _GOOD.certificate_pem() + pem(_GOOD.key)
    position %= len(good)
    damaged = good[:position] + noise + good[position + 1 :]
    try:
        KeyPair.from_pem(damaged, damaged)
    except ConfigError as error:
        assert error.hint


_GOOD = make_key_pair(["example.org"])


def _with_version(made: KeyPair, version: int) -> bytes:
    """Write a certificate that says another X.509 version; its signature no longer fits."""
    der = made.chain[0].public_bytes(Encoding.DER)
    der = der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01" + bytes([version]), 1)
    body = base64.encodebytes(der)
    return b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n"


def test_certificate_of_an_unknown_version(made: KeyPair) -> None:
    """X.509 v4 is malformed, not a bug of ours."""
    with pytest.raises(ConfigError, match="cut off or damaged"):
        parse_certificates(_with_version(made, 3), "the file")


def test_secret_in_no_text(made: KeyPair) -> None:
    """The key shows in no repr, and in no error about it."""
    key = pem(made.key)
    secret = key.splitlines()[1].decode()
    number = str(made.key.private_numbers().private_value)  # type: ignore[union-attr]  # it is an EC key
    config = ServerConfig(key_pair=made)
    with pytest.raises(ConfigError) as caught:
        KeyPair.from_pem(_GOOD.certificate_pem(), key)
    texts = [repr(made), str(made), repr(config), str(config)]
    texts += traceback.format_exception(caught.value)
    for text in texts:
        assert secret not in text
        assert number not in text
        assert "PRIVATE" not in text
    assert "example.org" in repr(made)


SEC1 = PrivateFormat.TraditionalOpenSSL
# A file for both, spelled so, has somebody else's certificate or key in front, or no key.
_NOT_FOR_BOTH = {
    *("joined without a line break", "among others", "key in front"),
    *("one line of base64", "lines of 76"),
}


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, SEC1], ids=["PKCS #8", "SEC 1"])
@pytest.mark.parametrize("spelling", [each for each in good(b"") if each not in _NOT_FOR_BOTH])
def test_one_file_for_both(spelling: str, form: PrivateFormat) -> None:
    """However tools spell it, with the key before or behind the certificate, both are found."""
    key = _GOOD.key.private_bytes(Encoding.PEM, form, NoEncryption())
    for both in (_GOOD.certificate_pem() + key, key + _GOOD.certificate_pem()):
        file = good(both)[spelling]
        assert KeyPair.from_pem(file, file).chain[0] == _GOOD.chain[0]


EC_KEY, RSA_KEY = KEYS["ec"], KEYS["rsa"]
CURVE = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"


def old_pem(key: PrivateKeyTypes, password: bytes | None = None) -> bytes:
    """Write a key as PKCS #1 or SEC 1."""
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, SEC1, encryption)


def one_line(file: bytes) -> bytes:
    """Write PEM with all of its base64 in a line."""
    begin, *body, end = file.splitlines()
    return b"\n".join([begin, b"".join(body), end])


@pytest.mark.parametrize(
    ("key", "file"),
    [
        pytest.param(RSA_KEY, old_pem(RSA_KEY), id="PKCS #1"),
        pytest.param(RSA_KEY, one_line(pem(RSA_KEY)), id="PKCS #8 in one line"),
        pytest.param(EC_KEY, CURVE + old_pem(EC_KEY), id="SEC 1 behind its curve"),
    ],
)
def test_formats_of_a_key(key: PrivateKey, file: bytes) -> None:
    """What older tools write is read as well."""
    assert parse_key(file, "it").public_key() == key.public_key()


@pytest.mark.parametrize(
    ("file", "said"),
    [
        pytest.param(
            EC_KEY.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
            "no usable PEM private key",
            id="DER",
        ),
        pytest.param(
            pem(EC_KEY).decode().encode("utf-16"), "no usable PEM private key", id="UTF-16"
        ),
        pytest.param(
            EC_KEY.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()),
            "no usable PEM private key",
            id="OpenSSH",
        ),
        pytest.param(
            old_pem(EC_KEY, b"secret"), "holds an encrypted private key", id="SEC 1, encrypted"
        ),
    ],
)
def test_key_in_another_form(file: bytes, said: str) -> None:
    """What is no PEM that can be read is refused, and what is needed is told."""
    with pytest.raises(ConfigError, match=said) as caught:
        parse_key(file, "it")
    assert "key" in caught.value.hint


def test_another_key_in_front(made: KeyPair) -> None:
    """The first key counts, and the certificate has to be its own."""
    with pytest.raises(ConfigError, match="does not belong"):
        KeyPair.from_pem(made.certificate_pem(), pem(EC_KEY) + pem(made.key))


def test_key_kinds_that_servers_use() -> None:
    """RSA and Ed25519 keys are read as well as EC keys."""
    for key in (rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate()):
        with pytest.raises(ConfigError, match="does not belong"):
            KeyPair.from_pem(_GOOD.certificate_pem(), pem(key))
