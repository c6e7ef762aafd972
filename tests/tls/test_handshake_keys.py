"""Tests of handshake_keys."""

from __future__ import annotations

import pytest

from tlsify.codepoints import CipherSuite, ContentType
from tlsify.errors import TlsifyError
from tlsify.keys import TrafficKeys
from tlsify.tls.handshake_keys import tls12_keys, tls13_keys
from tlsify.tls.protection import seal_record
from tlsify.tls.schedule import KeyBlock, traffic_keys

SUITE13 = CipherSuite.TLS_AES_128_GCM_SHA256
SUITE12 = CipherSuite.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
PLANTED = b"planted!" * 4


@pytest.fixture
def block() -> KeyBlock:
    """A key block, which is wiped by use."""
    halves = PLANTED[:16], b"server-write-key", b"plan", b"salt"
    return KeyBlock(*map(bytearray, halves))


def _sealed(key: bytearray, salt: bytearray, seq: int) -> bytes:
    keys = TrafficKeys(SUITE12, bytearray(key), bytearray(salt + b"nonce..."), seq)
    return seal_record(keys, seq, ContentType.handshake, b"finished")


def test_tls13_keys_start_at_zero() -> None:
    """Both directions start at record 0, from their own secrets."""
    keys = tls13_keys(SUITE13, bytearray(PLANTED), bytearray(b"r" * 32), [])
    assert (keys.tx.seq, keys.rx.seq) == (0, 0)
    assert keys.tx.key == traffic_keys(SUITE13, PLANTED).key
    assert keys.rx.key == traffic_keys(SUITE13, b"r" * 32).key


def test_tls13_records_sent() -> None:
    """Records that the peer is sent count, those held back do not."""
    keys = traffic_keys(SUITE13, PLANTED)
    sealed = [seal_record(keys, seq, ContentType.handshake, b"ticket") for seq in range(2)]
    for sent in (0, 2):
        made = tls13_keys(SUITE13, bytearray(PLANTED), bytearray(32), sealed, sent=sent)
        assert (made.tx.seq, made.rx.seq) == (sent, 0)


def test_tls13_key_that_does_not_fit() -> None:
    """A derived key that does not open what the engine sealed is a bug, and told without it."""
    foreign = seal_record(traffic_keys(SUITE13, b"x" * 32), 0, ContentType.handshake, b"ticket")
    with pytest.raises(TlsifyError, match="do not open record 0") as caught:
        tls13_keys(SUITE13, bytearray(PLANTED), bytearray(32), [foreign])
    assert PLANTED.hex() not in str(caught.value)


def test_tls13_records_counted_wrong() -> None:
    """The last of the records tells whether as many were sealed as there are."""
    keys = traffic_keys(SUITE13, PLANTED)
    sealed = [seal_record(keys, seq, ContentType.handshake, b"ticket") for seq in (0, 2)]
    with pytest.raises(TlsifyError, match="do not open record 1"):
        tls13_keys(SUITE13, bytearray(PLANTED), bytearray(32), sealed)


def test_tls13_record_of_another_kind() -> None:
    """The engine seals nothing but handshake messages after its Finished."""
    data = seal_record(traffic_keys(SUITE13, PLANTED), 0, ContentType.application_data, b"x")
    with pytest.raises(TlsifyError, match="no handshake record"):
        tls13_keys(SUITE13, bytearray(PLANTED), bytearray(32), [data])


@pytest.mark.parametrize("is_client", [True, False])
def test_tls12_halves(block: KeyBlock, *, is_client: bool) -> None:
    """Each role sends with its own half of the key block, and counts on from its own nonce."""
    client = _sealed(block.client_key, block.client_iv, 0)
    server = _sealed(block.server_key, block.server_iv, 0)
    sent, received = (client, server) if is_client else (server, client)
    expected = [bytes(block.client_key), bytes(block.server_key)]
    keys = tls12_keys(SUITE12, block, is_client=is_client, sent=sent, received=[received])
    assert [keys.tx.key, keys.rx.key] == (expected if is_client else expected[::-1])
    assert not any(b"".join(block))
    assert (keys.tx.seq, keys.rx.seq) == (1, 1)
    assert keys.tx.iv[4:] == b"nonce../"  # "." + 1
    assert not keys.tx_secret


def test_tls12_peer_with_a_finished_of_three_records(block: KeyBlock) -> None:
    """The peer's next record is the fourth."""
    sent = _sealed(block.client_key, block.client_iv, 0)
    received = [_sealed(block.server_key, block.server_iv, seq) for seq in range(3)]
    keys = tls12_keys(SUITE12, block, is_client=True, sent=sent, received=received)
    assert (keys.tx.seq, keys.rx.seq) == (1, 3)


def test_tls12_key_that_does_not_fit(block: KeyBlock) -> None:
    """A key block that does not open a Finished is a bug, whichever direction it is."""
    good = _sealed(block.client_key, block.client_iv, 0)
    with pytest.raises(TlsifyError, match="do not open record 0"):
        tls12_keys(SUITE12, block, is_client=True, sent=good, received=[good])
