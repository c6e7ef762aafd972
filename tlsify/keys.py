"""TrafficKeys, Direction: the one value the two pillars share; Keys: a connection's."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from tlsify.codepoints import CipherSuite

IV_LENGTH = 12
SEQ_LIMIT = 2**64
_memset: Any = ctypes.memset  # it takes bytes, too, of which its type knows nothing


class Direction(Enum):
    """Which way records flow, seen from this host, in the kernel's words."""

    TX = "TX"
    RX = "RX"


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class TrafficKeys:
    """Record protection of one direction, ready to be installed.

    Attributes:
        suite: fixes version, algorithm and lengths.
        key: 16 or 32 bytes; a bytearray so that it can be wiped.
        iv: 12 bytes. TLS 1.3 and ChaCha20-Poly1305: the write IV. TLS 1.2 GCM and CCM:
            4 bytes of salt, then the next explicit nonce.
        seq: number of the next record, 0 <= seq < 2**64.

    Raises:
        ValueError: a length or the sequence number is out of bounds.

    Source: RFC 8446 5.3 and 7.3; RFC 5288 3; linux/tls.h.
    """

    suite: CipherSuite
    key: bytearray
    iv: bytearray
    seq: int

    def __post_init__(self) -> None:
        """Check values that the kernel would misread instead of refusing."""
        if len(self.key) != self.suite.aead.key_length or len(self.iv) != IV_LENGTH:
            msg = f"{self.suite.name}: key {len(self.key)} bytes, iv {len(self.iv)} bytes"
            raise ValueError(msg)
        if not 0 <= self.seq < SEQ_LIMIT:
            msg = f"sequence number {self.seq} is out of bounds"
            raise ValueError(msg)

    def __repr__(self) -> str:
        """Show everything except the secrets."""
        return f"TrafficKeys({self.suite.name}, seq={self.seq})"

    def wipe(self) -> None:
        """Overwrite the key and iv held here; copies made by libraries are out of reach."""
        wipe(self.key, self.iv)


def wipe(*secrets: bytes | bytearray) -> None:
    """Overwrite secrets where they are, so that none is found in memory that has been freed.

    Libraries return secrets as bytes. Those are immutable for the sake of others that have them
    too: what is wiped must have come from a library just now, and be nobody else's.
    """
    for secret in secrets:
        if isinstance(secret, bytearray):
            secret[:] = bytes(len(secret))
        elif len(secret) > 1:  # Python has each shorter one only once
            _memset(secret, 0, len(secret))


class Keys(NamedTuple):
    """Keys of a finished handshake, until its last user wipes them.

    Attributes:
        tx: of what we send next.
        rx: of what we receive next.
        tx_secret: TLS 1.3 traffic secret behind ``tx``; else empty.
        rx_secret: TLS 1.3 traffic secret behind ``rx``, likewise.
    """

    tx: TrafficKeys
    rx: TrafficKeys
    tx_secret: bytearray
    rx_secret: bytearray

    def __repr__(self) -> str:
        """Show everything except the secrets."""
        return f"Keys({self.tx!r}, {self.rx!r})"

    def wipe(self) -> None:
        """Overwrite every secret held here."""
        self.tx.wipe()
        self.rx.wipe()
        wipe(self.tx_secret, self.rx_secret)
