"""Tests of keys."""

from __future__ import annotations

import pickle
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlsify.codepoints import CipherSuite
from tlsify.keys import IV_LENGTH, SEQ_LIMIT, Keys, TrafficKeys

SUITES = st.sampled_from(list(CipherSuite))
SECRET = b"planted-secret!!"


def make(suite: CipherSuite, seq: int = 0) -> TrafficKeys:
    """Fill keys with a recognizable secret."""
    key = (SECRET * 2)[: suite.aead.key_length]
    return TrafficKeys(suite, bytearray(key), bytearray(SECRET[:IV_LENGTH]), seq)


@given(SUITES, st.binary(max_size=40), st.binary(max_size=20))
def test_lengths(suite: CipherSuite, key: bytes, iv: bytes) -> None:
    """Keys exist exactly if both lengths are those of the suite."""
    fits = len(key) == suite.aead.key_length and len(iv) == IV_LENGTH
    try:
        made = TrafficKeys(suite, bytearray(key), bytearray(iv), 0)
    except ValueError:
        assert not fits
    else:
        assert fits
        assert made.key == key


@pytest.mark.parametrize("seq", [-1, SEQ_LIMIT, SEQ_LIMIT + 1])
def test_sequence_number_out_of_bounds(seq: int) -> None:
    """A number that does not fit into 8 bytes is refused."""
    with pytest.raises(ValueError, match="out of bounds"):
        make(CipherSuite.TLS_AES_128_GCM_SHA256, seq)


@pytest.mark.parametrize("seq", [0, 1, SEQ_LIMIT - 1])
def test_sequence_number_at_the_bounds(seq: int) -> None:
    """The first and the last number are accepted."""
    assert make(CipherSuite.TLS_AES_128_GCM_SHA256, seq).seq == seq


def _spellings(secret: bytes) -> tuple[str, ...]:
    return (secret.decode(), secret.hex(), repr(list(secret))[1:-1], repr(secret)[2:-1])


@pytest.mark.parametrize("suite", CipherSuite)
def test_secret_in_no_text(suite: CipherSuite) -> None:
    """Neither repr, str nor format shows key or iv in any spelling."""
    keys = make(suite, 7)
    for text in (repr(keys), str(keys), f"{keys}", repr([keys]), "%s" % keys):  # noqa: UP031 - another way to print
        assert suite.name in text
        assert "seq=7" in text
        for spelling in _spellings(SECRET[:IV_LENGTH]):
            assert spelling not in text


def test_secret_of_a_wrong_length_in_no_traceback() -> None:
    """The error for a wrong length tells lengths, not bytes."""
    with pytest.raises(ValueError, match="key 15 bytes, iv 12 bytes") as caught:
        TrafficKeys(
            CipherSuite.TLS_AES_128_GCM_SHA256,
            bytearray(SECRET[:15]),
            bytearray(SECRET[:IV_LENGTH]),
            0,
        )
    text = "".join(traceback.format_exception(caught.value))
    assert SECRET[:IV_LENGTH].decode() not in text
    assert SECRET[:IV_LENGTH].hex() not in text


def test_wipe() -> None:
    """Wiping overwrites the very buffers, whoever else holds them."""
    keys = make(CipherSuite.TLS_AES_256_GCM_SHA384)
    key, iv = keys.key, keys.iv
    keys.wipe()
    assert key == bytes(32)
    assert iv == bytes(IV_LENGTH)
    assert keys.key is key


def test_wipe_of_a_connection() -> None:
    """Both directions' keys and traffic secrets are overwritten in place."""
    suite = CipherSuite.TLS_AES_128_GCM_SHA256
    keys = Keys(make(suite), make(suite), bytearray(SECRET), bytearray(SECRET))
    held = [keys.tx.key, keys.tx.iv, keys.rx.key, keys.rx.iv, keys.tx_secret, keys.rx_secret]
    keys.wipe()
    assert not any(map(any, held))


def test_keys_are_compared_by_identity() -> None:
    """No comparison of secrets that takes as long as they agree."""
    suite = CipherSuite.TLS_AES_128_GCM_SHA256
    assert make(suite) != make(suite)


def test_fields_are_frozen() -> None:
    """What was packed for the kernel cannot be exchanged afterwards."""
    keys = make(CipherSuite.TLS_AES_128_GCM_SHA256)
    with pytest.raises(AttributeError):
        keys.seq = 1  # type: ignore[misc]  # the point of the test
    assert not hasattr(keys, "__dict__")


def test_suite_survives_pickling() -> None:
    """A suite is the same object in another process."""
    suite = CipherSuite.TLS_AES_128_GCM_SHA256
    assert pickle.loads(pickle.dumps(suite)) is suite
