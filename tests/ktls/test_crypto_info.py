"""Tests of crypto_info."""

from __future__ import annotations

import struct
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlsify.codepoints import Aead, CipherSuite
from tlsify.keys import IV_LENGTH, SEQ_LIMIT, TrafficKeys
from tlsify.ktls.crypto_info import LAYOUT, pack, unpack_seq

SUITES = st.sampled_from(list(CipherSuite))


class Expected(NamedTuple):
    """One row of reference/kernel.md 1.4: cipher number, struct size, (offset, length) pairs."""

    cipher_type: int
    size: int
    iv: tuple[int, int]
    key: tuple[int, int]
    salt: tuple[int, int]
    rec_seq: int


TABLE = {
    Aead.AES_GCM_128: Expected(51, 40, (4, 8), (12, 16), (28, 4), 32),
    Aead.AES_GCM_256: Expected(52, 56, (4, 8), (12, 32), (44, 4), 48),
    Aead.AES_CCM_128: Expected(53, 40, (4, 8), (12, 16), (28, 4), 32),
    Aead.CHACHA20_POLY1305: Expected(54, 56, (4, 12), (16, 32), (48, 0), 48),
}


def _keys(suite: CipherSuite, seq: int) -> TrafficKeys:
    key = bytes(range(0x40, 0x40 + suite.aead.key_length))
    return TrafficKeys(suite, bytearray(key), bytearray(range(0xA0, 0xA0 + IV_LENGTH)), seq)


@given(SUITES, st.integers(0, SEQ_LIMIT - 1))
def test_struct_lies_as_the_kernel_reads_it(suite: CipherSuite, seq: int) -> None:
    """Every field stands at the offset and has the length of the kernel's struct."""
    keys, row = _keys(suite, seq), TABLE[suite.aead]
    packed = bytes(pack(keys))
    assert len(packed) == row.size
    assert struct.unpack("=HH", packed[:4]) == (suite.version, row.cipher_type)

    def field(place: tuple[int, int]) -> bytes:
        return packed[place[0] : place[0] + place[1]]

    assert field(row.key) == keys.key
    assert field(row.salt) + field(row.iv) == keys.iv
    assert packed[row.rec_seq :] == seq.to_bytes(8, "big")


@given(SUITES, st.integers(0, SEQ_LIMIT - 1))
def test_sequence_number_is_read_back(suite: CipherSuite, seq: int) -> None:
    """What getsockopt gives back yields the number that was packed."""
    assert unpack_seq(bytes(pack(_keys(suite, seq)))) == seq


@pytest.mark.parametrize("aead", Aead)
def test_layout_without_padding(aead: Aead) -> None:
    """The sizes add up to the length that the kernel demands exactly."""
    assert LAYOUT[aead].size == TABLE[aead].size
    assert LAYOUT[aead].cipher_type == TABLE[aead].cipher_type


def test_gcm_128_golden_bytes() -> None:
    """One whole struct, byte by byte, on a little-endian or big-endian host."""
    keys = _keys(CipherSuite.TLS_AES_128_GCM_SHA256, 5)
    assert bytes(pack(keys)).hex() == (
        struct.pack("=HH", 0x0304, 51).hex()
        + "a4a5a6a7a8a9aaab"
        + "404142434445464748494a4b4c4d4e4f"
        + "a0a1a2a3"
        + "0000000000000005"
    )


def test_packed_copy_is_wiped_apart_from_the_keys() -> None:
    """The struct is a copy: wiping it leaves the keys, and the other way round."""
    keys = _keys(CipherSuite.TLS_AES_128_GCM_SHA256, 0)
    packed = pack(keys)
    packed[:] = bytes(len(packed))
    assert any(keys.key)
