"""Which of a wrapped program's ports get TLS."""

from __future__ import annotations

from typing import NamedTuple


class Ports(NamedTuple):
    """The program's TCP ports.

    Attributes:
        wrapped: these alone; empty for all.
        plain: not these.
    """

    wrapped: frozenset[int] = frozenset()
    plain: frozenset[int] = frozenset()

    def have(self, port: int) -> bool:
        """Return whether a port gets it."""
        return port not in self.plain and (not self.wrapped or port in self.wrapped)
