"""Tests of failures."""

from __future__ import annotations

from tlsify.acme.failures import AcmeError
from tlsify.metrics.counters import Event


def test_error() -> None:
    """It has a hint in any case, and what is to be counted."""
    error = AcmeError(Event.ACME_REFUSED, "why", wait=7.0)
    assert (str(error), error.event, error.wait) == ("why", Event.ACME_REFUSED, 7.0)
    assert error.hint
    assert AcmeError(Event.ACME_REFUSED, "why", hint="this").hint == "this"
