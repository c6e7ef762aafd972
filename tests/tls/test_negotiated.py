"""Tests of negotiated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from tlsify.codepoints import CipherSuite, ProtocolVersion
from tlsify.credentials.self_signed import make_key_pair
from tlsify.errors import PeerMisbehaved
from tlsify.tls.handshake_keys import tls13_keys
from tlsify.tls.negotiated import Negotiated
from tlsify.tls.schedule import KeyBlock

if TYPE_CHECKING:
    from tlsify.credentials.key_pair import KeyPair
    from tlsify.keys import Keys

SUITE13 = CipherSuite.TLS_AES_128_GCM_SHA256
SUITE12 = CipherSuite.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
PLANTED = b"planted!" * 4
BLOCK = KeyBlock(*map(bytearray, (PLANTED[:16], b"server-write-key", b"plan", b"salt")))


def _tls13() -> Keys:
    return tls13_keys(SUITE13, bytearray(PLANTED), bytearray(b"r" * 32), [])


def _negotiated(
    suite: CipherSuite = SUITE13, peer: KeyPair | None = None, *, resumed: bool = False
) -> Negotiated:
    return Negotiated(
        suite=suite,
        alpn=None,
        server_name=None,
        certificate=peer.chain[0].public_bytes(Encoding.DER) if peer else None,
        group="",
        resumed=resumed,
        max_fragment_length=None,
    )


@pytest.mark.parametrize("secret", [PLANTED, PLANTED[:16]])
def test_secret_in_no_text(secret: bytes) -> None:
    """Neither keys nor key block show what they hold."""
    values = (_tls13(), BLOCK)
    for text in [f(value) for f in (repr, str) for value in values]:
        assert secret.decode() not in text
        assert secret.hex() not in text
        assert "salt" not in text


def test_version() -> None:
    """The suite fixes the version."""
    assert _negotiated().version is ProtocolVersion.TLSv1_3


# -- sessions


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([size]) if size < 128 else b"\x82" + size.to_bytes(2, "big")
    return bytes([tag]) + length + content


def _number(value: int) -> bytes:
    return _der(2, value.to_bytes(5, "big"))


def _session(begun: int, lifetime: int | None, ticket: bytes | None = b"ticket" * 50) -> bytes:
    """Write what matters of OpenSSL's SSL_SESSION."""
    fields = _number(1) + _number(0x304) + _der(4, PLANTED) + _der(0xA1, _number(begun))
    if lifetime is not None:
        fields += _der(0xA9, _number(lifetime))
    if ticket is not None:
        fields += _der(0xAA, _der(4, ticket))
    return _der(0x30, fields)


@pytest.mark.parametrize(
    ("suite", "lifetime", "expires"),
    [
        (SUITE13, 7200, 8200),
        (SUITE13, 604801, 605800),
        (SUITE13, 0, None),
        (SUITE13, None, None),
        (SUITE12, 300, 1300),
        (SUITE12, 2**32, 605800),
        (SUITE12, 0, 8200),
        (SUITE12, None, 8200),
    ],
)
def test_expiry_of_a_session(suite: CipherSuite, lifetime: int | None, expires: int | None) -> None:
    """The lifetime counts from the beginning, with a bound, and means different things at 0."""
    found = _negotiated(suite, resumed=True).resumable(_session(1000, lifetime))
    assert (found and found.expires) == expires
    assert found is None or found.resumed


def test_session_of_an_old_certificate(key_pair: KeyPair) -> None:
    """A session ends with the certificate that it stands for, be it in the past."""
    end = key_pair.chain[0].not_valid_after_utc.timestamp()
    found = _negotiated(peer=key_pair).resumable(_session(int(end) - 5, 7200))
    assert found is not None
    assert found.expires == end


def test_session_without_a_ticket() -> None:
    """There is nothing in it to resume with."""
    assert _negotiated().resumable(_session(1000, 7200, ticket=None)) is None
    assert _negotiated().resumable(None) is None


@given(st.binary(max_size=80), st.integers(0, 400))
def test_damaged_session(noise: bytes, position: int) -> None:
    """Whatever is in there, it is a session or none."""
    good = _session(1000, 7200)
    for damaged in (noise, good[:position] + noise + good[position + 1 :]):
        found = _negotiated().resumable(damaged)
        assert found is None or found.session == damaged


def test_session_in_no_text() -> None:
    """A session shows nothing of what it holds."""
    found = _negotiated().resumable(_session(1000, 7200))
    assert "planted" not in repr(found)
    assert "ticket" not in repr(found)


# -- who the peer is


def _shown(der: bytes | None) -> Negotiated:
    facts: dict[str, Any] = {
        "alpn": None,
        "server_name": None,
        "certificate": der,
        "group": "",
        "resumed": False,
        "max_fragment_length": None,
    }
    return Negotiated(SUITE13, **facts)


def _with_subject(tag: int, value: bytes) -> bytes:
    """Change the common name of a certificate, and its kind of string, behind its signature."""
    der = bytearray(make_key_pair(["abcdefgh.example"]).chain[0].public_bytes(Encoding.DER))
    start = der.rindex(bytes.fromhex("0603550403")) + 5
    assert der[start + 2 : start + 10] == b"abcdefgh"
    der[start] = tag
    der[start + 2 : start + 2 + len(value)] = value
    return bytes(der)


def test_peer_without_a_certificate() -> None:
    """There is nothing to say of it."""
    nobody = _shown(None)
    assert (nobody.peer_certificate, nobody.peer_subject, nobody.peer_hash) == (None, None, None)


def test_certificate_that_does_not_parse() -> None:
    """It is an error to whoever asks for it; its session is not kept."""
    malformed = _shown(_with_subject(0x0C, b"")[:-1])
    with pytest.raises(PeerMisbehaved, match="malformed"):
        _ = malformed.peer_certificate
    assert malformed.peer_subject == ""
    assert malformed.resumable(_session(1000, 7200)) is None


def test_peers_subject_and_hash() -> None:
    """They are what other programs show of the same certificate."""
    made = make_key_pair(["peer.example"]).chain[0]
    somebody = _shown(made.public_bytes(Encoding.DER))
    assert somebody.peer_certificate == made
    assert somebody.peer_subject == "CN=peer.example"
    assert somebody.peer_hash == made.fingerprint(SHA256()).hex()


@pytest.mark.parametrize(
    ("tag", "value", "expected"),
    [
        pytest.param(0x0C, b"a\nb\x1b[31", "CN=a\\nb\\x1b[31", id="control characters"),
        pytest.param(0x0C, b"a\xe2\x80\xaebcde", "CN=a\\u202ebcde", id="bidi"),
        pytest.param(0x0C, b"\xff\xff", "", id="not UTF-8"),
        pytest.param(0x03, b"\0ab", "", id="a bit string"),
        pytest.param(0x30, b"ab", "", id="no string"),
    ],
)
def test_subject_that_a_peer_has_thought_up(tag: int, value: bytes, expected: str) -> None:
    """It can be printed, and put into an environment, or is empty."""
    subject = _shown(_with_subject(tag, value)).peer_subject
    assert subject is not None
    assert subject.isprintable()
    assert subject.startswith(expected)
    assert bool(subject) == bool(expected)
