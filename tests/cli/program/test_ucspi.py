"""Tests of ucspi."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given
from hypothesis import strategies as st

from tests.doubles import RELAY, Lab
from tlsify.cli.program import ucspi
from tlsify.tls.negotiated import Negotiated

if TYPE_CHECKING:
    from tlsify.credentials.key_pair import KeyPair


@pytest.fixture
def connection(lab: Lab) -> ucspi.Connection:
    """A client's, relayed."""
    handoff, _ = lab.pair(RELAY)
    return ucspi.Connection(handoff, ("127.0.0.1", 1), ("::1", 2, 0, 0))


def test_variables(connection: ucspi.Connection, key_pair: KeyPair) -> None:
    """Everything that can be known of it."""
    leaf = key_pair.chain[0]
    assert ucspi.variables(connection) == {
        "PROTO": "SSL",
        "SSL_PROTOCOL": "TLSv1.3",
        "SSL_CIPHER": connection.handoff.negotiated.suite.name,
        "SSL_SESSION_REUSED": "0",
        "SSL_PEER_CERT_HASH": f"SHA256:{leaf.fingerprint(SHA256()).hex()}",
        "SSL_PEER_CERT_SUBJECT": leaf.subject.rfc4514_string(),
        "TLSIFY_KTLS_TX": "relay",
        "TLSIFY_KTLS_RX": "relay",
        "TLSIFY_KTLS_REASON": "policy-off",
        "SSLLOCALIP": "127.0.0.1",
        "SSLLOCALPORT": "1",
        "TCPLOCALIP": "127.0.0.1",
        "TCPLOCALPORT": "1",
        "SSLREMOTEIP": "::1",
        "SSLREMOTEPORT": "2",
        "TCPREMOTEIP": "::1",
        "TCPREMOTEPORT": "2",
    }


def test_ends_without_addresses(connection: ucspi.Connection) -> None:
    """They are left out."""
    told = ucspi.variables(connection._replace(local="", remote=None))
    assert not [name for name in told if name.endswith(("IP", "PORT"))]


@pytest.mark.parametrize(("length", "is_told"), [(4000, True), (5000, False)])
def test_subject_of_any_length(
    connection: ucspi.Connection, monkeypatch: pytest.MonkeyPatch, length: int, *, is_told: bool
) -> None:
    """A peer can neither fill the environment nor have its name cut to another's."""
    subject = "CN=" + "é" * length
    monkeypatch.setattr(Negotiated, "peer_subject", property(lambda _: subject))
    told = ucspi.variables(connection)
    assert told.get("SSL_PEER_CERT_SUBJECT") == (subject if is_told else None)
    assert "SSL_PEER_CERT_HASH" in told


def test_what_is_ours_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where keys are is not the program's business, nor are another connection's facts."""
    for name in ("KEYFILE", "KEYFILE:example.org", "TLS_UID", "SSLREMOTEIP", "SSL_ALPN"):
        monkeypatch.setenv(name, "old")
    monkeypatch.setenv("SSL_CERT_DIR", "/kept")
    monkeypatch.setenv("TLSIFY_KTLS", "off")
    before = dict(os.environ)
    try:
        ucspi.apply({"PROTO": "SSL"})
        assert os.environ["PROTO"] == "SSL"
        assert os.environ["SSL_CERT_DIR"] == "/kept"
        assert os.environ["TLSIFY_KTLS"] == "off"  # an administrator's word goes for all
        gone = set(before) - set(os.environ)
        assert gone == {"KEYFILE", "KEYFILE:example.org", "TLS_UID", "SSLREMOTEIP", "SSL_ALPN"}
    finally:
        os.environ.clear()
        os.environ.update(before)


@given(
    st.dictionaries(
        st.text(st.characters(categories=["Lu"]), min_size=1),
        st.text(st.characters(exclude_categories=["Cs", "Cc"])),
    )
)
def test_encoding(told: dict[str, str]) -> None:
    """What is encoded is decoded."""
    assert ucspi.decode(ucspi.encode(told)) == told
