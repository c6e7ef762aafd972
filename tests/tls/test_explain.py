"""Tests of explain."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL

from tlsify.codepoints import AlertDescription
from tlsify.credentials.parse import encoded
from tlsify.credentials.pem import spell_pin
from tlsify.errors import IdentityError, PeerMisbehaved
from tlsify.names import ReferenceIdentifier
from tlsify.tls.explain import (
    handshake_failure,
    library_failure,
    peer_alert,
    untrusted_path,
    wrong_key,
    wrong_peer,
)
from tlsify.tls.identity import presented
from tlsify.tls.openssl import verify_error

if TYPE_CHECKING:
    from tlsify.credentials.key_pair import KeyPair


@given(st.integers(0, 255))
def test_any_alert(number: int) -> None:
    """Every description byte becomes an error that names it and says what to do."""
    error = peer_alert(number, "the handshake")
    assert error.alert == AlertDescription.known(number)
    name = AlertDescription.name_of(number)
    assert str(error) == f"the peer ended the handshake with alert {name}"
    assert error.hint


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (AlertDescription.handshake_failure, "cipher suite"),
        (AlertDescription.protocol_version, "protocol version"),
        (AlertDescription.unknown_ca, "authority"),
        (AlertDescription.no_application_protocol, "ALPN"),
        (AlertDescription.unrecognized_name, "--servername"),
        (AlertDescription.certificate_required, "client certificate"),
        (AlertDescription.certificate_revoked, "withdrawn"),
    ],
)
def test_alert_that_the_user_can_do_something_about(number: int, words: str) -> None:
    """Common alerts have a hint of their own."""
    assert words in peer_alert(number, "the handshake").hint


@pytest.mark.parametrize(
    ("number", "words", "hint"),
    [
        (3, "unable to get certificate CRL", "revocation list"),
        (9, "not yet valid", "clock"),
        (10, "expired", "renew"),
        (11, "CRL is not yet valid", "clock"),
        (12, "CRL has expired", "current"),
        (18, "self-signed", "--ca"),
        (19, "self-signed", "--ca"),
        (20, "unable to get local issuer", "--ca"),
        (21, "unable to verify the first certificate", "intermediate"),
        (23, "revoked", "withdrawn"),
        (7, "signature failure", "same name"),
        (24, "public key", "another certificate"),
        (26, "purpose", "another use"),
        (28, "rejected", "not to be trusted"),
        (34, "unhandled critical extension", "another certificate"),
        (47, "permitted subtree", "may not issue"),
        (67, "too weak", "too weak"),
    ],
)
def test_untrusted_path(number: int, words: str, hint: str) -> None:
    """OpenSSL's reason is told, with a remedy that fits it."""
    error = untrusted_path(number, verify_error(number))
    assert words in str(error)
    assert hint in error.hint
    assert error.alert is None


def _remedy(number: int) -> str:
    return untrusted_path(number, verify_error(number)).hint


def test_more_trust_is_no_remedy() -> None:
    """An anchor is asked for where one is missing, under a condition, and nowhere else."""
    asking = {number for number in range(-1, 200) if "--ca" in _remedy(number)}
    assert asking == {2, 18, 19, 20}
    for number in asking:
        assert "if you " in _remedy(number)
    for number in range(200):
        assert "verif" not in _remedy(number)


@given(st.integers(-(2**31), 2**31 - 1))
def test_any_verification_error(number: int) -> None:
    """A number that this OpenSSL does not know has words, too."""
    assert "not trusted" in str(untrusted_path(number, verify_error(number)))


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (SSL.Error([("SSL routines", "", "one"), ("lib", "", "two")]), "one; two"),
        (SSL.Error([]), "unknown reason"),
        (SSL.ZeroReturnError(), "unknown reason"),
        (SSL.SysCallError(-1, "Unexpected EOF"), "Unexpected EOF"),
        (SSL.SysCallError(104, None), "None"),
    ],
)
def test_every_shape_of_failure(failure: SSL.Error, words: str) -> None:
    """Whatever pyOpenSSL raises becomes an error with the alert that was sent."""
    error = library_failure("the handshake", failure, AlertDescription.decode_error)
    assert str(error) == f"the handshake failed: {words}"
    assert error.alert is AlertDescription.decode_error


def test_wrong_peer(key_pair: KeyPair) -> None:
    """What was wanted and what was presented are both named."""
    error = wrong_peer(
        presented(encoded(key_pair.chain[0])), [ReferenceIdentifier.for_host("a.example")]
    )
    assert str(error).startswith("the peer is not dns:a.example: it presents dns:example.org")
    assert "dns:localhost" in error.mismatches
    assert error.alert is AlertDescription.bad_certificate
    assert "--ref-id" in error.hint


def test_wrong_key() -> None:
    """The key that was shown is spelled as it would be pinned, if it has a spelling."""
    error = wrong_key(bytes(32))
    assert error.mismatches == (spell_pin(bytes(32)),)
    assert spell_pin(bytes(32)) in str(error)
    assert error.alert is AlertDescription.certificate_unknown
    strange = wrong_key(b"")
    assert strange.mismatches == ()
    assert "does not know" in str(strange)


def test_client_that_shows_nothing() -> None:
    """One thing that OpenSSL refuses is about who the peer is; all else is its misbehaviour."""
    alert = AlertDescription.certificate_required
    none = SSL.Error([("SSL routines", "", "peer did not return a certificate")])
    error = handshake_failure(none, alert)
    assert isinstance(error, IdentityError)
    assert error.alert is alert
    for other in (
        SSL.Error([("SSL routines", "", "no shared cipher")]),
        SSL.Error([]),
        SSL.Error(),
    ):
        assert isinstance(handshake_failure(other, None), PeerMisbehaved)
