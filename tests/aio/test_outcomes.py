"""Tests of outcomes."""

from __future__ import annotations

import errno

import pytest

from tlsify.aio.outcomes import FAILURES, outcome
from tlsify.errors import (
    ConfigError,
    DeadlineExceeded,
    IdentityError,
    KtlsUnavailable,
    PeerAlert,
    PeerMisbehaved,
    ResourceError,
    Truncated,
)
from tlsify.metrics.counters import Event


@pytest.mark.parametrize(
    ("error", "event"),
    [
        (DeadlineExceeded("late"), Event.HANDSHAKE_TOO_SLOW),
        (PeerAlert("no"), Event.HANDSHAKE_PEER_ALERT),
        (IdentityError("no"), Event.HANDSHAKE_IDENTITY),
        (Truncated("cut"), Event.HANDSHAKE_TRUNCATED),
        (PeerMisbehaved("no"), Event.HANDSHAKE_MISBEHAVED),
        (KtlsUnavailable("TCP_ULP", 0, "none", code="no-tls-ulp"), Event.HANDSHAKE_KTLS),
        (ResourceError(RuntimeError("can't start"), "no relay"), Event.HANDSHAKE_RESOURCES),
        (OSError(errno.EMFILE, "too many"), Event.HANDSHAKE_RESOURCES),
        (OSError(errno.ECONNRESET, "reset"), Event.HANDSHAKE_BROKEN),
        (ConfigError("no"), Event.HANDSHAKE_BROKEN),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, Exception) else each.value,
)
def test_outcome(error: Exception, event: Event) -> None:
    """Each failure is counted once, as what it is."""
    assert isinstance(error, FAILURES)
    assert outcome(error) is event
