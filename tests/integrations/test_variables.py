"""Tests of variables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from tests.certificate_samples import VICTIM, facts_of, make_certificate
from tlsify.integrations.variables import variables

if TYPE_CHECKING:
    from tlsify.credentials.key_pair import KeyPair


def test_a_client_with_a_certificate(key_pair: KeyPair) -> None:
    """What mod_ssl says of it, under the same names."""
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Ünïts"),
            x509.NameAttribute(NameOID.COMMON_NAME, "who, then"),
        ]
    )
    said = variables(facts_of(make_certificate(name)))
    assert said["HTTPS"] == "on"
    assert said["SSL_PROTOCOL"] == "TLSv1.3"
    assert said["SSL_CIPHER"] == "TLS_AES_256_GCM_SHA384"
    assert said["SSL_CIPHER_USEKEYSIZE"] == "256"
    assert said["SSL_TLS_SNI"] == "example.org"
    assert said["SSL_SESSION_RESUMED"] == "Initial"
    assert said["SSL_CLIENT_VERIFY"] == "SUCCESS"
    assert said["SSL_CLIENT_S_DN"].encode("latin-1").decode() == "CN=who\\, then,O=Ünïts"
    assert said["SSL_CLIENT_S_DN_CN"] == "who, then"
    assert said["SSL_CLIENT_M_SERIAL"] == "0ABC"
    assert said["TLSIFY_KTLS"] == "relay:policy-off"
    pem = variables(facts_of(key_pair.chain[0].public_bytes(Encoding.DER)))["SSL_CLIENT_CERT"]
    assert pem.encode() == key_pair.chain[0].public_bytes(Encoding.PEM)


def test_a_client_without_one() -> None:
    """There is nothing about it, not even an empty name."""
    said = variables(facts_of(None))
    assert said["SSL_CLIENT_VERIFY"] == "NONE"
    assert not [
        name for name in said if name.startswith("SSL_CLIENT_") and name != "SSL_CLIENT_VERIFY"
    ]


@pytest.mark.parametrize("name", ["a\nb: c", "\x00", "\x1b[31m"])
def test_names_that_cannot_be_printed(name: str) -> None:
    """They are escaped: no log or header is to be written with them."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    said = variables(facts_of(make_certificate(subject)))
    assert said["SSL_CLIENT_S_DN_CN"].isprintable()
    assert said["SSL_CLIENT_S_DN"].isprintable()


@given(st.data())
def test_hostile_certificate(data: st.DataObject) -> None:
    """Whatever a peer wrote, the values are what PEP 3333 wants."""
    der = bytearray(VICTIM)
    for _ in range(data.draw(st.integers(1, 4))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    for value in variables(facts_of(bytes(der))).values():
        value.encode("latin-1")
