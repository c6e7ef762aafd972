"""Tests of codepoints."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL

from tlsify.codepoints import (
    DEFAULT_AEADS,
    Aead,
    AlertDescription,
    AlertLevel,
    CipherSuite,
    Codepoint,
    ContentType,
    HandshakeType,
    NamedGroup,
    ProtocolVersion,
)

REGISTRIES = (ContentType, HandshakeType, AlertLevel, AlertDescription)


@pytest.mark.parametrize("registry", REGISTRIES)
@given(number=st.integers(0, 255))
def test_any_byte_is_a_member_or_a_number(registry: type[Codepoint], number: int) -> None:
    """Every byte a peer may send has a name: its member's, or the number itself."""
    member = registry.known(number)
    if member is None:
        assert registry.name_of(number) == str(number)
    else:
        assert member == number
        assert registry.name_of(number) == member.name


def test_members_of_the_registries() -> None:
    """A sample of each registry stands under the number that IANA gave it."""
    assert (ContentType.change_cipher_spec, ContentType.alert) == (20, 21)
    assert (ContentType.handshake, ContentType.application_data) == (22, 23)
    assert (HandshakeType.client_hello, HandshakeType.new_session_ticket) == (1, 4)
    assert (HandshakeType.finished, HandshakeType.key_update) == (20, 24)
    assert (AlertDescription.bad_record_mac, AlertDescription.record_overflow) == (20, 22)
    assert (AlertDescription.unknown_ca, AlertDescription.decode_error) == (48, 50)
    assert (AlertDescription.protocol_version, AlertDescription.no_renegotiation) == (70, 100)
    assert AlertDescription.known(120) is AlertDescription.no_application_protocol


@pytest.mark.parametrize("group", NamedGroup)
def test_group_by_name(group: NamedGroup) -> None:
    """A group is found by its name, in any case."""
    assert NamedGroup.parse(group.name) is group
    assert NamedGroup.parse(group.name.upper()) is group


@pytest.mark.parametrize(
    ("name", "number"),
    [("P-256", 23), ("p-384", 24), ("P-521", 25), ("x25519", 29), ("X25519MLKEM768", 4588)],
)
def test_names_of_groups(name: str, number: int) -> None:
    """NIST's names are known as well; the numbers are IANA's."""
    assert NamedGroup.parse(name) == number


@pytest.mark.parametrize("name", ["", "P-224", "ffdhe2048", "secp256k1", "X25519:P-256", "?x448"])
def test_no_group(name: str) -> None:
    """What is weak, or OpenSSL's syntax, is none."""
    assert NamedGroup.parse(name) is None


@pytest.mark.parametrize("version", ProtocolVersion)
def test_version_label(version: ProtocolVersion) -> None:
    """A version's label is OpenSSL's spelling."""
    assert version.label in {"TLSv1.2", "TLSv1.3"}
    assert version.label.removeprefix("TLSv").replace(".", "_") in version.name


@pytest.mark.parametrize("suite", CipherSuite)
def test_suite_looked_up_by_openssl_name(suite: CipherSuite) -> None:
    """OpenSSL's name leads back to the suite."""
    assert CipherSuite.from_openssl(suite.openssl_name) is suite
    assert CipherSuite.from_number(suite.value.number) is suite


def test_suite_that_tlsify_does_not_negotiate() -> None:
    """A CBC suite is a KeyError, not some other suite."""
    with pytest.raises(KeyError):
        CipherSuite.from_openssl("ECDHE-RSA-AES128-SHA")
    with pytest.raises(KeyError):
        CipherSuite.from_number(0x1305)


@pytest.mark.parametrize("suite", CipherSuite)
def test_suite_table_agrees_with_its_own_name(suite: CipherSuite) -> None:
    """Version, algorithm, key length and hash are those that the suite's IANA name states."""
    assert (suite.version is ProtocolVersion.TLSv1_3) == ("WITH" not in suite.name)
    if "CHACHA20" in suite.name:
        assert suite.aead is Aead.CHACHA20_POLY1305
    else:
        bits, mode = suite.name.split("AES_")[1].split("_")[:2]
        assert suite.aead.name == f"AES_{mode}_{bits}"
        assert suite.aead.key_length * 8 == int(bits)
    assert suite.hash_name == ("sha384" if suite.name.endswith("SHA384") else "sha256")


def test_suite_numbers_are_unique_and_openssls() -> None:
    """Each number is the one that OpenSSL puts on the wire for that name."""
    context = SSL.Context(SSL.TLS_METHOD)
    tls12 = [s for s in CipherSuite if s.version is ProtocolVersion.TLSv1_2]
    context.set_cipher_list(":".join(s.openssl_name for s in tls12).encode())
    tls13 = [s for s in CipherSuite if s.version is ProtocolVersion.TLSv1_3]
    context.set_tls13_ciphersuites(":".join(s.openssl_name for s in tls13).encode())
    client = SSL.Connection(context, None)
    client.set_connect_state()
    with pytest.raises(SSL.WantReadError):
        client.do_handshake()
    hello = client.bio_read(2**16)
    start = 5 + 4 + 2 + 32
    start += 1 + hello[start]
    length = int.from_bytes(hello[start : start + 2], "big")
    block = hello[start + 2 : start + 2 + length]
    offered = {int.from_bytes(block[i : i + 2], "big") for i in range(0, length, 2)}
    assert offered - {0x00FF} == {suite.value.number for suite in CipherSuite}
    assert len({suite.value.number for suite in CipherSuite}) == len(CipherSuite)


def test_explicit_nonce() -> None:
    """Only ChaCha20-Poly1305 sends no nonce with TLS 1.2 records."""
    assert {a for a in Aead if not a.has_explicit_nonce} == {Aead.CHACHA20_POLY1305}


def test_ccm_is_opt_in() -> None:
    """CCM is not offered unless asked for."""
    assert set(DEFAULT_AEADS) == set(Aead) - {Aead.AES_CCM_128}
