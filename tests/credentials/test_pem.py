"""Tests of pem: pins, files in PEM as far as no parser is needed, memory as a file."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.doubles import check_descriptors, descriptors
from tlsify.credentials.pem import as_file, parse_pins, read_pem, spell_pin
from tlsify.credentials.self_signed import make_key_pair
from tlsify.errors import ConfigError

PEM = make_key_pair(["example.org"]).certificate_pem()
DIGEST = hashlib.sha256(b"a key").digest()
PIN = "sha256//" + base64.b64encode(DIGEST).decode()


@given(st.binary(max_size=100), st.integers(0, 2000))
def test_damaged_file(noise: bytes, position: int) -> None:
    """Damage anywhere is a ConfigError, or leaves a certificate."""
    position %= len(PEM)
    try:
        assert read_pem(PEM[:position] + noise + PEM[position + 1 :], "it")
    except ConfigError as error:
        assert error.hint


def test_many_beginnings() -> None:
    """Certificates that begin, and never end, are read in a time that their size is worth."""
    with pytest.raises(ConfigError):
        read_pem(b"-----BEGIN CERTIFICATE-----\nMII\n" * 100_000, "it")


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


# -- memory as a file


def test_memory_as_a_file() -> None:
    """What is in memory can be read at a path, until it is not needed any more."""
    before = descriptors()
    with as_file(b"content") as path:
        assert Path(path).read_bytes() == b"content"
    check_descriptors(before)
