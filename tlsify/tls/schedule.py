"""Secret -> key, iv; secret_N -> secret_N+1; TLS 1.2 key block."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.hmac import HMAC

from tlsify.keys import IV_LENGTH, TrafficKeys, wipe

if TYPE_CHECKING:
    from tlsify.codepoints import CipherSuite

# Of a caller that can wipe it, or of a library.
_Octets: TypeAlias = "bytes | bytearray"

_SALT_LENGTH = 4
EXPLICIT_NONCE_LENGTH = 8
# Of the OpenSSL that did the handshake, rather than of the system's, which is behind hashlib.
_HASHES: dict[str, hashes.HashAlgorithm] = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384()}


def _keyed(secret: _Octets, hash_name: str) -> HMAC:
    """Return an HMAC to be copied for each message, which costs less than another one."""
    return HMAC(secret, _HASHES[hash_name])


def _digest(keyed: HMAC, message: bytes) -> bytes:
    one = keyed.copy()
    one.update(message)
    return one.finalize()


def _take(whole: bytes, length: int) -> bytearray:
    """Return the beginning of a secret that a library has returned, and leave no other copy."""
    wanted = bytearray(whole)
    wipe(whole)
    del wanted[length:]
    return wanted


def expand_label(secret: _Octets, label: bytes, length: int, hash_name: str) -> bytearray:
    """HKDF-Expand-Label with an empty context (RFC 8446 7.1).

    One block of HKDF-Expand (RFC 5869 2.3) is as much as anything here is long.

    Args:
        secret: as long as the hash's output.
        label: without the "tls13 " prefix.
        length: bytes wanted, no more than the hash's output has.
        hash_name: "sha256" or "sha384".
    """
    keyed = _keyed(secret, hash_name)
    keyed.update(_info(label, length))
    return _take(keyed.finalize(), length)


@functools.cache
def _info(label: bytes, length: int) -> bytes:
    full = b"tls13 " + label
    return length.to_bytes(2, "big") + bytes([len(full)]) + full + b"\0" + b"\1"


def traffic_keys(suite: CipherSuite, secret: _Octets, seq: int = 0) -> TrafficKeys:
    """Derive the write key and iv of a TLS 1.3 traffic secret (RFC 8446 7.3)."""
    key_length = suite.aead.key_length
    key = _keyed(secret, suite.hash_name)
    iv = key.copy()
    key.update(_info(b"key", key_length))
    iv.update(_info(b"iv", IV_LENGTH))
    return TrafficKeys(
        suite, _take(key.finalize(), key_length), _take(iv.finalize(), IV_LENGTH), seq
    )


def next_secret(suite: CipherSuite, secret: _Octets) -> bytearray:
    """Derive application_traffic_secret_N+1 from secret_N (RFC 8446 7.2)."""
    return expand_label(secret, b"traffic upd", len(secret), suite.hash_name)


def prf(secret: _Octets, label: bytes, seed: bytes, length: int, hash_name: str) -> bytearray:
    """Compute the TLS 1.2 pseudorandom function (RFC 5246 5)."""
    keyed, size = _keyed(secret, hash_name), _HASHES[hash_name].digest_size
    output = bytearray(length + size)  # whose last block is cut
    a = seed = label + seed
    for start in range(0, length, size):
        a = _digest(keyed, a)
        block = _digest(keyed, a + seed)
        output[start : start + size] = block
        wipe(block)
    del output[length:]
    return output


class KeyBlock(NamedTuple):
    """Both directions of a TLS 1.2 AEAD connection: write keys and fixed IVs (RFC 5246 6.3)."""

    client_key: bytearray
    server_key: bytearray
    client_iv: bytearray
    server_iv: bytearray

    def __repr__(self) -> str:
        """Show nothing: all of it is secret."""
        return "KeyBlock(...)"


def key_block(
    suite: CipherSuite,
    master_secret: _Octets,
    client_random: bytes,
    server_random: bytes,
) -> KeyBlock:
    """Expand the master secret; AEAD suites have no MAC keys.

    Args:
        suite: a TLS 1.2 suite.
        master_secret: 48 bytes.
        client_random: 32 bytes, as the server's.
        server_random: 32 bytes.

    Source: RFC 5246 6.3; fixed IV of 4 bytes for GCM and CCM (RFC 5288 3), 12 for
    ChaCha20-Poly1305 (RFC 7905 2).
    """
    key_length = suite.aead.key_length
    iv_length = _SALT_LENGTH if suite.aead.has_explicit_nonce else IV_LENGTH
    ivs = 2 * key_length
    block = prf(
        master_secret,
        b"key expansion",
        server_random + client_random,
        ivs + 2 * iv_length,
        suite.hash_name,
    )
    halves = KeyBlock(
        block[:key_length],
        block[key_length:ivs],
        block[ivs : ivs + iv_length],
        block[ivs + iv_length :],
    )
    wipe(block)
    return halves


def tls12_keys(
    suite: CipherSuite, key: _Octets, fixed_iv: _Octets, last_record: bytes, *, seq: int = 1
) -> TrafficKeys:
    """Keys of one TLS 1.2 direction, right after that direction's Finished.

    The sender counts on from the explicit nonce of its last protected record, since starting
    over anywhere else risks using one twice with the same key (RFC 5288 3).

    Args:
        suite: a TLS 1.2 suite.
        key: write key.
        fixed_iv: 4 or 12 bytes of the key block.
        last_record: the Finished record as it went over the wire, header included.
        seq: number of the next record; 1 unless the peer spread its Finished over several.
    """
    iv = bytearray(fixed_iv)
    if suite.aead.has_explicit_nonce:
        used = int.from_bytes(last_record[5 : 5 + EXPLICIT_NONCE_LENGTH], "big")
        iv += ((used + 1) % 2**64).to_bytes(EXPLICIT_NONCE_LENGTH, "big")
    return TrafficKeys(suite, bytearray(key), iv, seq)
