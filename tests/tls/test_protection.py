"""Tests of protection."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from tlsify.codepoints import AlertDescription, CipherSuite, ContentType, ProtocolVersion
from tlsify.errors import PeerMisbehaved
from tlsify.keys import IV_LENGTH, TrafficKeys
from tlsify.tls.protection import TAG_LENGTH, open_record, seal_record
from tlsify.tls.record import HEADER_LENGTH, decode_header

SUITES = st.sampled_from(list(CipherSuite))
TYPES = st.sampled_from(list(ContentType))
SEQS = st.integers(0, 2**64 - 1)


def _keys(suite: CipherSuite, seq: int = 0) -> TrafficKeys:
    key = bytearray(range(suite.aead.key_length))
    return TrafficKeys(suite, key, bytearray(range(IV_LENGTH)), seq)


@given(SUITES, SEQS, TYPES, st.binary(max_size=100))
def test_open_what_was_sealed(
    suite: CipherSuite, seq: int, content_type: ContentType, payload: bytes
) -> None:
    """Every suite gives back what went in, at every sequence number."""
    keys = _keys(suite)
    record = seal_record(keys, seq, content_type, payload)
    header = decode_header(record[:HEADER_LENGTH])
    assert header.length == len(record) - HEADER_LENGTH
    hidden = suite.version is ProtocolVersion.TLSv1_3
    assert header.content_type == (ContentType.application_data if hidden else content_type)
    assert open_record(keys, seq, record) == (content_type, payload)


@given(SUITES, st.binary(max_size=20), st.data())
def test_flipped_bit(suite: CipherSuite, payload: bytes, data: st.DataObject) -> None:
    """A change in the body is a bad_record_mac, wherever it is."""
    keys = _keys(suite)
    record = bytearray(seal_record(keys, 3, ContentType.application_data, payload))
    record[data.draw(st.integers(HEADER_LENGTH, len(record) - 1))] ^= 1 << data.draw(
        st.integers(0, 7)
    )
    with pytest.raises(PeerMisbehaved) as caught:
        open_record(keys, 3, bytes(record))
    assert caught.value.alert is AlertDescription.bad_record_mac


@pytest.mark.parametrize("suite", CipherSuite)
def test_wrong_sequence_number(suite: CipherSuite) -> None:
    """A record that was dropped, repeated or exchanged does not open."""
    keys = _keys(suite)
    record = seal_record(keys, 3, ContentType.application_data, b"data")
    for seq in (2, 4):
        with pytest.raises(PeerMisbehaved):
            open_record(keys, seq, record)


@pytest.mark.parametrize("suite", CipherSuite)
def test_wrong_content_type(suite: CipherSuite) -> None:
    """The type in the header is authenticated."""
    keys = _keys(suite)
    record = bytearray(seal_record(keys, 3, ContentType.application_data, b"data"))
    record[0] = ContentType.alert
    with pytest.raises(PeerMisbehaved):
        open_record(keys, 3, bytes(record))


@given(SUITES, SEQS, st.binary(min_size=HEADER_LENGTH, max_size=80))
def test_arbitrary_record(suite: CipherSuite, seq: int, record: bytes) -> None:
    """Arbitrary bytes raise PeerMisbehaved, however short."""
    with pytest.raises(PeerMisbehaved) as caught:
        open_record(_keys(suite), seq, record)
    assert caught.value.alert is AlertDescription.bad_record_mac


@pytest.mark.parametrize("padding", [0, 1, 100])
def test_padded_record(padding: int) -> None:
    """TLS 1.3 padding is taken off."""
    keys = _keys(CipherSuite.TLS_AES_128_GCM_SHA256)
    # Sealing data that ends in a type and zeros, then reading the type before them as the real one.
    payload = b"data\0" + bytes([ContentType.alert]) + bytes(padding)
    record = _seal_inner(keys, payload)
    assert open_record(keys, 0, record) == (ContentType.alert, b"data\0")


def test_record_without_content_type() -> None:
    """A TLS 1.3 record of nothing but zeros is an unexpected_message (RFC 8446 5.4)."""
    keys = _keys(CipherSuite.TLS_AES_128_GCM_SHA256)
    for zeros in (0, 1, 50):
        with pytest.raises(PeerMisbehaved) as caught:
            open_record(keys, 0, _seal_inner(keys, bytes(zeros)))
        assert caught.value.alert is AlertDescription.unexpected_message


def _seal_inner(keys: TrafficKeys, inner: bytes) -> bytes:
    """Seal a whole TLSInnerPlaintext, as no decent sender builds it."""
    header = bytes([23, 3, 3]) + (len(inner) + TAG_LENGTH).to_bytes(2, "big")
    return header + AESGCM(bytes(keys.key)).encrypt(bytes(keys.iv), inner, header)


@given(
    st.sampled_from([s for s in CipherSuite if s.version is ProtocolVersion.TLSv1_2]),
    st.integers(0, 2**64 - 1),
    st.integers(0, 1000),
)
def test_explicit_nonce_counts_on(suite: CipherSuite, start: int, records: int) -> None:
    """TLS 1.2 sends the nonce of its keys with the first record and counts on from there."""
    keys = _keys(suite, seq=1)
    keys.iv[4:] = start.to_bytes(8, "big")
    record = seal_record(keys, 1 + records, ContentType.application_data, b"data")
    if suite.aead.has_explicit_nonce:
        assert int.from_bytes(record[5:13], "big") == (start + records) % 2**64
        assert len(record) == HEADER_LENGTH + 8 + 4 + TAG_LENGTH
    else:
        assert len(record) == HEADER_LENGTH + 4 + TAG_LENGTH
    assert open_record(keys, 1 + records, record) == (ContentType.application_data, b"data")
