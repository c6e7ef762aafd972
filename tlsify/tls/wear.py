"""Wear: how much a sending key has protected that cannot be changed when wanted (RFC 8446 5.5)."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from tlsify.errors import RekeyUnsupported

if TYPE_CHECKING:
    from tlsify.tls.negotiated import Negotiated

# Records beside data: tickets, alerts, answers to KeyUpdates.
_SPARE = 64


class Wear:
    """Count of the records that OpenSSL has protected with its sending key."""

    def __init__(self, negotiated: Negotiated) -> None:
        """Begin with a new key."""
        self._longest = negotiated.longest
        limit = negotiated.suite.aead.record_limit
        self._limit = inf if limit is None else limit - _SPARE
        self._records = 0

    def add(self, size: int) -> None:
        """Count the records for so many bytes of plaintext."""
        self._records -= -size // self._longest  # rounded up

    def renew(self) -> None:
        """Begin again with another key."""
        self._records = 0

    def refusal(self, size: int) -> RekeyUnsupported | None:
        """Return the error if the records for so many bytes are too many."""
        if self._records - -size // self._longest <= self._limit:
            return None
        return worn_out("relay", self._records)


def worn_out(step: str, sent: int) -> RekeyUnsupported:
    """Return the error for a key that has reached its limit.

    Args:
        step: as `RekeyUnsupported` has it.
        sent: number of records.
    """
    return RekeyUnsupported(
        step,
        0,
        f"{sent} records were sent with one key, and it could not be changed",
        hint="connect again for more; kernel TLS of Linux 6.14 can change the keys of TLS 1.3",
    )
