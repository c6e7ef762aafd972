"""Tests of self_signed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from tests.doubles import EnginePair
from tlsify.config import ClientConfig, ServerConfig
from tlsify.credentials.anchors import TrustAnchors
from tlsify.credentials.self_signed import make_key_pair
from tlsify.errors import IdentityError
from tlsify.names import ReferenceIdentifier

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from tlsify.credentials.key_pair import KeyPair

NAMES = ["localhost", "127.0.0.1", "::1", "example.org"]


@pytest.fixture(scope="module")
def made() -> KeyPair:
    """A certificate for several names."""
    return make_key_pair(NAMES)


def _leaf(made: KeyPair) -> Certificate:
    return made.chain[0]


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_accepted(made: KeyPair, name: str) -> None:
    """A client that trusts the certificate accepts every one of its names."""
    client = ClientConfig.for_host(name, trust=TrustAnchors(made.chain))
    ours, theirs = EnginePair(client, ServerConfig(key_pair=made)).run()
    assert ours.suite is theirs.suite
    assert ours.peer_certificate == _leaf(made)


def test_name_that_is_not_in_it(made: KeyPair) -> None:
    """Being the trust anchor does not make the certificate good for other names."""
    client = ClientConfig(
        identities=(ReferenceIdentifier.for_host("example.com"),), trust=TrustAnchors(made.chain)
    )
    with pytest.raises(IdentityError, match=r"presents .*dns:localhost"):
        EnginePair(client, ServerConfig(key_pair=made)).run()


def test_validity(made: KeyPair) -> None:
    """It is valid already for a clock that is a little behind, and not for long."""
    now = datetime.now(UTC)
    leaf = _leaf(made)
    assert leaf.not_valid_before_utc < now - timedelta(minutes=50)
    assert now < leaf.not_valid_after_utc < now + timedelta(days=31)


def test_it_cannot_sign_others(made: KeyPair) -> None:
    """Trusting it means trusting this one certificate, not an authority."""
    constraints = _leaf(made).extensions.get_extension_for_class(x509.BasicConstraints)
    assert not constraints.value.ca
    usage = _leaf(made).extensions.get_extension_for_class(x509.KeyUsage).value
    assert not usage.key_cert_sign


def test_name_longer_than_a_common_name() -> None:
    """A host name of more than 64 bytes is legal, though no common name may be so long."""
    name = f"{'a' * 63}.example.org"
    made = make_key_pair([name])
    names = _leaf(made).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [name]


def test_every_key_is_new() -> None:
    """Two calls share no key."""
    one, two = make_key_pair(["a"]), make_key_pair(["a"])
    assert one.key.public_key() != two.key.public_key()
