"""Wear: how much a sending key has protected that cannot be changed when wanted (RFC 8446 5.5)."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from tlsify.errors import RekeyUnsupported
from tlsify.tls.record import MAX_PLAINTEXT

if TYPE_CHECKING:
    from tlsify.tls.negotiated import Negotiated

# What wears a key out is blocks of AES: 16 bytes each, and in each record content type, tag and
# lengths beside them. The limits are those of full records.
_BLOCK, _BESIDE = 16, 4
_FULL = MAX_PLAINTEXT // _BLOCK + _BESIDE
# Full records' worth of records beside data: tickets, alerts, answers to KeyUpdates.
_SPARE = 64


class Wear:
    """Count of the blocks that OpenSSL has protected with its sending key."""

    def __init__(self, negotiated: Negotiated) -> None:
        """Begin with a new key."""
        self._longest = negotiated.longest
        limit = negotiated.suite.aead.record_limit
        self._limit = inf if limit is None else (limit - _SPARE) * _FULL
        self._blocks = 0

    def add(self, size: int) -> None:
        """Count the records for so many bytes of plaintext."""
        self._blocks += self._blocks_of(size)

    def _blocks_of(self, size: int) -> int:
        records = -(-size // self._longest)  # rounded up
        return size // _BLOCK + records * _BESIDE

    def renew(self) -> None:
        """Begin again with another key."""
        self._blocks = 0

    def refusal(self, size: int) -> RekeyUnsupported | None:
        """Return the error if the records for so many bytes are too many."""
        if self._blocks + self._blocks_of(size) <= self._limit:
            return None
        return worn_out("relay", f"as much as {self._blocks // _FULL} full records")


def worn_out(step: str, protected: str) -> RekeyUnsupported:
    """Return the error for a key that has reached its limit.

    Args:
        step: as `RekeyUnsupported` has it.
        protected: what the key has protected.
    """
    return RekeyUnsupported(
        step,
        0,
        f"one key has protected {protected}, and it could not be changed",
        hint="connect again for more; kernel TLS of Linux 6.14 can change the keys of TLS 1.3",
    )
