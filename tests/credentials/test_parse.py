"""Tests of credentials; test_config has those of keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import make_crl
from tests.spellings import bad, good
from tlsify.credentials.parse import parse_certificates, parse_crls
from tlsify.credentials.pem import read_pem
from tlsify.credentials.self_signed import make_key_pair
from tlsify.errors import ConfigError

if TYPE_CHECKING:
    import trustme

MADE = make_key_pair(["example.org"])
PEM = MADE.certificate_pem()


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


# -- revocation lists


def test_lists_in_pem_and_der(authority: trustme.CA) -> None:
    """A file holds one list or several in PEM, among other things, or one in DER."""
    pem = make_crl(authority)
    (one,) = parse_crls(pem, "it")
    assert parse_crls(one.public_bytes(Encoding.DER), "it") == (one,)
    assert parse_crls(b"two:\n" + pem + authority.cert_pem.bytes() + pem, "it") == (one, one)


@pytest.mark.parametrize("data", [b"", b"garbage"])
def test_no_list(data: bytes) -> None:
    """The file without one is named."""
    with pytest.raises(ConfigError, match="it holds no usable certificate revocation list"):
        parse_crls(data, "it")


def test_list_that_is_not_whole(authority: trustme.CA) -> None:
    """It is never left out, since it may be the one that names the peer's certificate."""
    pem = make_crl(authority)
    for damaged in (
        pem[: len(pem) // 2],
        pem[:-3],
        pem.replace(b"BEGIN", b"BEG1N"),
        pem.replace(b"\n", b"\n-", 2),
        b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n",
    ):
        for file in (damaged, pem + damaged, damaged + pem):
            with pytest.raises(ConfigError, match="revocation list that is cut off"):
                parse_crls(file, "it")


def test_many_beginnings() -> None:
    """Lists that begin, and never end, are read in a time that their size is worth."""
    with pytest.raises(ConfigError):
        parse_crls(b"-----BEGIN X509 CRL-----\nMII\n" * 100_000, "it")


def test_certificate_instead_of_a_list(authority: trustme.CA) -> None:
    """A certificate is no list of withdrawn ones."""
    with pytest.raises(ConfigError, match="no usable certificate revocation list"):
        parse_crls(authority.cert_pem.bytes(), "it")


@given(st.binary(max_size=200), st.integers(0, 2000))
def test_damaged_list(authority: trustme.CA, noise: bytes, position: int) -> None:
    """Damage anywhere is a ConfigError, or does not matter."""
    good = make_crl(authority)
    position %= len(good)
    try:
        parse_crls(good[:position] + noise + good[position + 1 :], "it")
    except ConfigError as error:
        assert error.hint
