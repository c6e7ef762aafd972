"""Tests of credentials; test_config has those of keys."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import make_crl
from tests.doubles import check_descriptors, descriptors
from tests.spellings import bad, good
from tlsify.credentials.parse import (
    as_file,
    load_crls,
    parse_certificates,
    parse_crls,
    parse_pins,
    read_pem,
    spell_pin,
)
from tlsify.credentials.self_signed import make_key_pair
from tlsify.errors import ConfigError

if TYPE_CHECKING:
    import trustme

MADE = make_key_pair(["example.org"])
PEM = MADE.certificate_pem()
DIGEST = hashlib.sha256(b"a key").digest()
PIN = "sha256//" + base64.b64encode(DIGEST).decode()


# -- certificates


@pytest.mark.parametrize("spelling", good(PEM))
def test_file_that_is_good(spelling: str) -> None:
    """However tools spell it, each certificate is found, as it was made."""
    found = read_pem(good(PEM)[spelling], "it")
    assert MADE.chain[0].public_bytes(Encoding.DER) in found
    assert MADE.chain[0] in parse_certificates(good(PEM)[spelling], "it")


@pytest.mark.parametrize("spelling", bad(PEM))
def test_file_that_is_bad(spelling: str) -> None:
    """A certificate that is not whole is never left out, and the error says what is the matter."""
    content, said = bad(PEM)[spelling]
    with pytest.raises(ConfigError, match="it holds") as caught:
        parse_certificates(content, "it")
    assert said in f"{caught.value} {caught.value.hint}"


@given(st.binary(max_size=100), st.integers(0, 2000))
def test_damaged_file(noise: bytes, position: int) -> None:
    """Damage anywhere is a ConfigError, or leaves a certificate."""
    position %= len(PEM)
    try:
        assert read_pem(PEM[:position] + noise + PEM[position + 1 :], "it")
    except ConfigError as error:
        assert error.hint


# -- pins


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=3))
def test_pins_spelled_and_parsed(digests: list[bytes]) -> None:
    """Parsing gives back what was spelled, one or several."""
    assert parse_pins(";".join(map(spell_pin, digests))) == tuple(digests)


def test_curls_spelling() -> None:
    """A pin is written as curl's --pinnedpubkey has it."""
    assert spell_pin(DIGEST) == PIN
    assert parse_pins(PIN) == (DIGEST,)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ";",
        f"{PIN};",
        f" {PIN}",
        f"{PIN}\n",
        PIN.removeprefix("sha256//"),
        PIN.replace("256", "1"),
        PIN[:-1],
        PIN + "=",
        "sha256//" + base64.b64encode(bytes(31)).decode(),
        "sha256//" + base64.b64encode(bytes(33)).decode(),
        "sha256//" + base64.urlsafe_b64encode(b"\xff" * 32).decode(),
    ],
)
def test_text_that_is_no_pin(text: str) -> None:
    """Digests of another length or kind, and half of the spelling, are no pins."""
    with pytest.raises(ConfigError, match="is not a pin") as caught:
        parse_pins(text)
    assert "sha256//" in caught.value.hint


@given(st.text(max_size=60))
def test_any_text_as_a_pin(text: str) -> None:
    """Any text is pins of 32 bytes or a ConfigError."""
    try:
        assert all(len(pin) == 32 for pin in parse_pins(text))
    except ConfigError as error:
        assert error.hint


# -- revocation lists


def test_lists_in_pem_and_der(authority: trustme.CA, tmp_path: Path) -> None:
    """A file holds one list or several in PEM, among other things, or one in DER."""
    pem = make_crl(authority)
    (one,) = parse_crls(pem, "it")
    assert parse_crls(one.public_bytes(Encoding.DER), "it") == (one,)
    (tmp_path / "lists").write_bytes(b"two:\n" + pem + authority.cert_pem.bytes() + pem)
    assert load_crls(tmp_path / "lists") == (one, one)


@pytest.mark.parametrize(
    "data", [b"", b"garbage", b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"]
)
def test_no_list(data: bytes) -> None:
    """The file without one is named."""
    with pytest.raises(ConfigError, match="it holds no usable certificate revocation list"):
        parse_crls(data, "it")


def test_certificate_instead_of_a_list(authority: trustme.CA, tmp_path: Path) -> None:
    """A certificate is no list of withdrawn ones, and what is not there neither."""
    with pytest.raises(ConfigError, match="no usable certificate revocation list"):
        parse_crls(authority.cert_pem.bytes(), "it")
    with pytest.raises(ConfigError, match=r"cannot read revocation list .*absent"):
        load_crls(tmp_path / "absent")


@given(st.binary(max_size=200), st.integers(0, 2000))
def test_damaged_list(authority: trustme.CA, noise: bytes, position: int) -> None:
    """Damage anywhere is a ConfigError, or does not matter."""
    good = make_crl(authority)
    position %= len(good)
    try:
        parse_crls(good[:position] + noise + good[position + 1 :], "it")
    except ConfigError as error:
        assert error.hint


# -- memory as a file


def test_memory_as_a_file() -> None:
    """What is in memory can be read at a path, until it is not needed any more."""
    before = descriptors()
    with as_file(b"content") as path:
        assert Path(path).read_bytes() == b"content"
    check_descriptors(before)


def test_many_beginnings() -> None:
    """Certificates that begin, and never end, are read in a time that their size is worth."""
    with pytest.raises(ConfigError):
        read_pem(b"-----BEGIN CERTIFICATE-----\nMII\n" * 100_000, "it")
