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
        return self.refusal(port) is None

    def refusal(self, port: int) -> str | None:
        """Return why a port does not get it; None if it does."""
        if port in self.plain:
            return "--plain-port names it"
        return "--port does not name it" if self.wrapped and port not in self.wrapped else None
