"""Limits of concurrent connections, and their numbers from each origin."""

from __future__ import annotations

import resource
from collections import Counter
from dataclasses import dataclass, field

# How many handshakes there may be at a time, by default.
MOST_HANDSHAKES = 4096


def most_handshakes() -> int:
    """Return how many handshakes this process has room for: not all descriptors are theirs."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_HANDSHAKES if soft == resource.RLIM_INFINITY else min(MOST_HANDSHAKES, soft // 2)


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of concurrent connections.

    Attributes:
        connections: handshakes included; more of them wait in the listening socket; None for any
            number.
        handshakes: maximum of concurrent handshakes; further ones wait until one ends or stalls. By
            default 4096, or half of this process's descriptors.
        per_address: connections from one IPv4 address or IPv6 /64; more of them are closed; None
            for any number.
    """

    connections: int | None = None
    handshakes: int = field(default_factory=most_handshakes)
    per_address: int | None = None

    def part(self, index: int, processes: int) -> Limits:
        """Return the part of one of several processes, which together are the whole.

        An address may have its number in each: which process it meets is the kernel's choice.
        """

        def divide(number: int) -> int:
            return max(number // processes + (index < number % processes), 1)

        connections = None if self.connections is None else divide(self.connections)
        return Limits(connections, divide(self.handshakes), self.per_address)


class Origins:
    """Numbers of connections from each origin (`pending.origin`)."""

    def __init__(self, limit: int | None) -> None:
        """Begin with none.

        Args:
            limit: for each; None for any number.
        """
        self._limit = limit
        self._numbers = Counter[bytes]()

    def enter(self, where: bytes | None, *, is_proxy: bool = False) -> bool:
        """Count one more; return whether it is within the limit, which a proxy need not be."""
        if where is None:
            return True
        if self._limit is not None and self._numbers[where] >= self._limit and not is_proxy:
            return False
        self._numbers[where] += 1
        return True

    def leave(self, where: bytes | None) -> None:
        """Count one less."""
        if where is not None:
            self._numbers[where] -= 1
            if not self._numbers[where]:
                del self._numbers[where]
