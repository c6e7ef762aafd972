"""Failures of ACME, by what they are counted as."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlsify.errors import NetworkError

if TYPE_CHECKING:
    from tlsify.metrics.counters import Event


class AcmeError(NetworkError):
    """There is no certificate.

    Attributes:
        event: as what to count it.
        wait: seconds that the authority asks to wait for.
    """

    general_hint = "see what the authority says of this error"

    def __init__(
        self, event: Event, message: str, *, wait: float = 0.0, hint: str | None = None
    ) -> None:
        """Store it."""
        super().__init__(message, hint=hint)
        self.event = event
        self.wait = wait
