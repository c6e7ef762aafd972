"""Budgets for a peer's records, in its handshake and besides its data."""

from __future__ import annotations

from dataclasses import dataclass

from tlsify.codepoints import AlertDescription
from tlsify.errors import PeerMisbehaved

# Two tickets are usual, and a key is good for 2**24 records. Each control record costs us what some
# 64 KiB of data cost, however little it costs the peer.
MOST = 64
BYTES_FOR_ONE = 2**16
SECONDS_FOR_ONE = 1.0


# In a handshake a record costs us the same however little is in it. Each is worth its bytes and
# costs so many, of which there are some to begin with: 2048 records of any size, which a usual
# handshake needs at a byte each, and more if those are no smaller on the average. Byte for byte
# that is less work than to answer a ClientHello (docs/limits.md).
RECORD_COST = 2**8
ALLOWANCE = 2**11 * RECORD_COST


def is_overdrawn(length: int, records: int) -> bool:
    """Return whether the records of a handshake have cost more than they may.

    Args:
        length: bytes of all of them so far.
        records: their number.
    """
    return RECORD_COST * records - length > ALLOWANCE


def overdrawn() -> PeerMisbehaved:
    """Build the error for them."""
    return PeerMisbehaved(
        "too many records for the handshake in them", alert=AlertDescription.unexpected_message
    )


@dataclass(slots=True)
class Ration:
    """The control records of a connection: some at once, then more with data and with time.

    The caller says what has come, and what time it is.

    Attributes:
        left: control records that may still come, never more than `MOST`.
    """

    left: float = MOST
    _received: int = 0
    _since: float | None = None

    def earn(self, received: int, now: float) -> None:
        """Grant more for what has come, and for the time since the last call.

        Args:
            received: bytes on the connection so far, of any kind; may be too few, for a moment.
            now: monotonic, in seconds.
        """
        since = now if self._since is None else self._since
        # What the kernel says of two moments: data that came between them counts as unread.
        received = max(received, self._received)
        earned = (received - self._received) / BYTES_FOR_ONE + (now - since) / SECONDS_FOR_ONE
        self._received, self._since = received, now
        self.left = min(self.left + earned, MOST)

    def spend(self) -> bool:
        """Spend one; return whether there was one."""
        self.left -= 1
        return self.left >= 0


def exceeded(
    alert: AlertDescription | None = AlertDescription.unexpected_message,
) -> PeerMisbehaved:
    """Build the error for a peer that has none left."""
    return PeerMisbehaved("too many control records for the data between them", alert=alert)
