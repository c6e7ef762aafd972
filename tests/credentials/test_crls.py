"""Tests of files of revocation lists."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from tests.conftest import make_crl
from tlsify.credentials import crls
from tlsify.credentials.parse import parse_crls
from tlsify.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    import trustme

DAY = timedelta(days=1)


def test_file(authority: trustme.CA, tmp_path: Path) -> None:
    """All the lists of a file are read; one that is not there is named."""
    pem = make_crl(authority)
    path = tmp_path / "lists"
    path.write_bytes(pem)
    assert crls.load(str(path)) == parse_crls(pem, "it")
    with pytest.raises(ConfigError, match=r"cannot read revocation list .*absent"):
        crls.load(tmp_path / "absent")


def test_lists_that_are_not_valid_now(authority: trustme.CA) -> None:
    """OpenSSL refuses each certificate of the issuer then, which a warning says in advance."""
    (good,) = parse_crls(make_crl(authority), "it")
    assert crls.amiss(good) is None
    now = datetime.now(UTC)
    for begin, end, said in (
        (now - 2 * DAY, now - DAY, "expired on"),
        (now + DAY, now + 2 * DAY, "is not valid before"),
    ):
        key = ec.generate_private_key(ec.SECP256R1())
        builder = x509.CertificateRevocationListBuilder(good.issuer, begin, end)
        assert said in str(crls.amiss(builder.sign(key, hashes.SHA256())))
