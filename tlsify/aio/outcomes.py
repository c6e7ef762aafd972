"""Outcomes of failed handshakes and cut connections, by cause, for the counters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlsify.errors import (
    SHORTAGES,
    ConfigError,
    DeadlineExceeded,
    HandshakeError,
    IdentityError,
    KeyHolderError,
    KtlsError,
    NoCertificate,
    PeerAlert,
    PeerMisbehaved,
    ProxyHeaderError,
    ResourceError,
    Truncated,
)
from tlsify.metrics.counters import HANDSHAKE_OUTCOMES, Event, count
from tlsify.tls.challenge import ChallengeAnswered

if TYPE_CHECKING:
    from tlsify.connection.handoff import Handoff

# What a handshake may end with; anything else is a bug.
FAILURES = (HandshakeError, DeadlineExceeded, KtlsError, ConfigError, ResourceError, OSError)
# With health checks, port scans, browsers that begin without TLS, and ACME authorities.
USUAL = {
    Event.HANDSHAKE_TRUNCATED,
    Event.HANDSHAKE_BROKEN,
    Event.HANDSHAKE_PLAIN_HTTP,
    Event.HANDSHAKE_ACME_CHALLENGE,
}
_KINDS: tuple[tuple[type[Exception], Event], ...] = (
    (KeyHolderError, Event.HANDSHAKE_KEY_HOLDER),
    (ChallengeAnswered, Event.HANDSHAKE_ACME_CHALLENGE),
    (NoCertificate, Event.HANDSHAKE_NO_CERTIFICATE),
    (DeadlineExceeded, Event.HANDSHAKE_TOO_SLOW),
    (ProxyHeaderError, Event.HANDSHAKE_PROXY_HEADER),
    (PeerAlert, Event.HANDSHAKE_PEER_ALERT),
    (IdentityError, Event.HANDSHAKE_IDENTITY),
    (Truncated, Event.HANDSHAKE_TRUNCATED),
    (HandshakeError, Event.HANDSHAKE_MISBEHAVED),
    (KtlsError, Event.HANDSHAKE_KTLS),
    (ResourceError, Event.HANDSHAKE_RESOURCES),
    (Exception, Event.HANDSHAKE_BROKEN),
)
_NAMES = {event: name for name, event in HANDSHAKE_OUTCOMES.items()}


def outcome(error: Exception) -> Event:
    """Return as what to count it."""
    if isinstance(error, OSError) and error.errno in SHORTAGES:
        return Event.HANDSHAKE_RESOURCES
    if isinstance(error, PeerMisbehaved) and error.is_answered:
        return Event.HANDSHAKE_PLAIN_HTTP
    return next(event for kind, event in _KINDS if isinstance(error, kind))


def name_of(event: Event) -> str:
    """Return the name that reports have for how a handshake ended."""
    return _NAMES[event]


def count_cut(handed: Handoff) -> None:
    """Count a connection that was cut; truncations on the kernel path are already counted."""
    if handed.relay is None:
        if handed.death is not None and handed.death.number:
            count(Event.BROKEN)
    elif isinstance(handed.relay.failure, Truncated):
        count(Event.TRUNCATED)
    elif isinstance(handed.relay.failure, OSError):
        count(Event.BROKEN)
