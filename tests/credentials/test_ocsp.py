"""Tests of ocsp."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from cryptography.x509.ocsp import OCSPCertStatus
from hypothesis import given
from hypothesis import strategies as st

from tests.certificates import DAY, certify, now, refusal_to_answer, respond
from tlsify.credentials import ocsp
from tlsify.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from tlsify.credentials.key_pair import KeyPair

AUTHORITY = trustme.CA()
PAIR = certify(AUTHORITY, "example.org")
GOOD = respond(AUTHORITY, PAIR)


def objection(der: bytes, pair: KeyPair = PAIR) -> str | None:
    """Ask about it now."""
    return ocsp.objection(der, pair.chain[0], now())


def test_good_response(tmp_path: Path) -> None:
    """One that says so, for now or for ever, can be stapled."""
    (tmp_path / "it").write_bytes(GOOD)
    assert ocsp.load(str(tmp_path / "it")) == GOOD
    assert objection(GOOD) is None
    assert objection(respond(AUTHORITY, PAIR, end=None)) is None
    assert ocsp.belongs(GOOD, PAIR.chain[0])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"status": OCSPCertStatus.REVOKED}, "says revoked"),
        ({"status": OCSPCertStatus.UNKNOWN}, "says unknown"),
        ({"begin": -2 * DAY, "end": -DAY}, "expired on 20"),
        ({"begin": DAY, "end": 2 * DAY}, "is not valid before 20"),
    ],
)
def test_response_not_to_be_shown(changes: dict[str, Any], said: str) -> None:
    """What is stale, or does not vouch for the certificate, only does harm."""
    found = objection(respond(AUTHORITY, PAIR, **changes))
    assert found is not None
    assert said in found


def test_end_of_a_response() -> None:
    """It is good until nextUpdate and no longer."""
    end = now().replace(microsecond=0) + dt.timedelta(hours=1)
    der = respond(AUTHORITY, PAIR, end=end - now())
    instant = dt.timedelta(seconds=2)
    assert ocsp.objection(der, PAIR.chain[0], end - instant) is None
    assert ocsp.objection(der, PAIR.chain[0], end + instant) is not None


def test_response_about_another(authority: trustme.CA) -> None:
    """Serial number and issuer both have to be the certificate's."""
    other = certify(AUTHORITY, "example.org")
    assert not ocsp.belongs(GOOD, other.chain[0])
    assert "about another certificate" in str(objection(GOOD, other))
    namesake = certify(authority, "example.org", serial=PAIR.chain[0].serial_number)
    assert not ocsp.belongs(GOOD, namesake.chain[0])


def test_refusal_to_answer(tmp_path: Path) -> None:
    """A responder's tryLater is a response, and not one to staple."""
    (tmp_path / "it").write_bytes(refusal_to_answer())
    assert "error response" in str(objection(ocsp.load(tmp_path / "it")))


@pytest.mark.parametrize("content", [b"", b"rubbish", GOOD[:-1], b"-----BEGIN OCSP RESPONSE-----"])
def test_no_response(tmp_path: Path, content: bytes) -> None:
    """The file without one is named."""
    (tmp_path / "it").write_bytes(content)
    with pytest.raises(ConfigError, match="it holds no OCSP response"):
        ocsp.load(tmp_path / "it")
    with pytest.raises(ConfigError, match="cannot read OCSP response"):
        ocsp.load(tmp_path / "absent")


@given(st.binary(max_size=50), st.integers(0, 2000))
def test_damaged_response(noise: bytes, position: int) -> None:
    """Damage anywhere keeps it from being stapled, or does not matter; nothing is raised."""
    position %= len(GOOD)
    damaged = GOOD[:position] + noise + GOOD[position + 1 :]
    found = objection(damaged)
    assert found is None or "OCSP response" in found


def test_demanded() -> None:
    """Some certificates are of no use without a response."""
    assert ocsp.demanded(certify(AUTHORITY, "a.example", must_staple=True).chain[0])
    assert not ocsp.demanded(PAIR.chain[0])
