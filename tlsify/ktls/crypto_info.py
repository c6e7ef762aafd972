"""TrafficKeys -> struct tls12_crypto_info_* bytes, from one table."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from tlsify.codepoints import Aead
from tlsify.ktls import uapi

if TYPE_CHECKING:
    from tlsify.keys import TrafficKeys

HEADER = struct.Struct("=HH")  # struct tls_crypto_info: version, cipher_type


class Layout(NamedTuple):
    """Sizes in bytes of iv, key, salt and rec_seq, in the order in which they lie in the struct."""

    cipher_type: int
    iv: int
    key: int
    salt: int
    rec_seq: int

    @property
    def size(self) -> int:
        """Bytes of the whole struct, which has no padding."""
        return HEADER.size + self.iv + self.key + self.salt + self.rec_seq


LAYOUT: dict[Aead, Layout] = {
    aead: Layout(
        getattr(uapi, f"TLS_CIPHER_{aead.value}"),
        *(
            getattr(uapi, f"TLS_CIPHER_{aead.value}_{part}_SIZE")
            for part in ("IV", "KEY", "SALT", "REC_SEQ")
        ),
    )
    for aead in Aead
}


def pack(keys: TrafficKeys) -> bytearray:
    """Build the struct for one direction; the caller wipes it after use.

    The kernel's salt is the front of our iv and its iv the rest, in both versions: TLS 1.3 XORs
    the two as one nonce, TLS 1.2 GCM and CCM take the rest as the next explicit nonce.

    Source: linux/tls.h struct tls12_crypto_info_*.
    """
    layout = LAYOUT[keys.suite.aead]
    iv = memoryview(keys.iv)
    header = HEADER.pack(keys.suite.version, layout.cipher_type)
    number = keys.seq.to_bytes(layout.rec_seq, "big")
    # Made in one piece, it leaves none behind.
    return bytearray().join((header, iv[layout.salt :], keys.key, iv[: layout.salt], number))


def unpack_seq(packed: bytes) -> int:
    """Read the sequence number of the next record out of what the kernel gave back."""
    return int.from_bytes(packed[-uapi.TLS_CIPHER_AES_GCM_128_REC_SEQ_SIZE :], "big")
