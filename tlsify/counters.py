"""What has happened on this process's connections since it started."""

from __future__ import annotations

import threading
from collections import Counter
from enum import Enum


class Event(Enum):
    """Something worth counting, under the name that reports give it."""

    KEY_UPDATE_RECEIVED = "key_update_received"
    KEY_UPDATE_SENT = "key_update_sent"
    # The peer changed its keys, and the kernel that has ours cannot follow.
    KEY_UPDATE_REFUSED = "key_update_refused"
    KEY_LIMIT_REACHED = "key_limit_reached"
    PEER_ALERT = "peer_alert"
    # A record was wrong, and we said so with an alert.
    PEER_MISBEHAVED = "peer_misbehaved"
    TRUNCATED = "truncated"
    TICKET_RECEIVED = "ticket_received"


_counts: Counter[Event] = Counter()
_lock = threading.Lock()


def count(event: Event) -> None:
    """Add one."""
    with _lock:
        _counts[event] += 1


def counters() -> dict[str, int]:
    """Give every count by name, zeros included."""
    with _lock:
        return {event.value: _counts[event] for event in Event}
