"""Tests of counters."""

from __future__ import annotations

from tests.doubles import Endpoint
from tlsify.counters import Event, count, counters


def test_every_event_has_its_number() -> None:
    """A report names all of them, those too that never happened."""
    found = counters()
    assert list(found) == [event.value for event in Event]
    assert all(number >= 0 for number in found.values())


def test_only_what_happened_is_counted() -> None:
    """One more is one more, and a report that was given stays as it is."""
    before = counters()
    count(Event.KEY_LIMIT_REACHED)
    after = counters()
    assert after.pop("key_limit_reached") == before.pop("key_limit_reached") + 1
    assert after == before


def test_counting_from_many_threads() -> None:
    """None gets lost between two threads."""
    before = counters()["ticket_received"]

    def count_on() -> None:
        for _ in range(1000):
            count(Event.TICKET_RECEIVED)

    threads = [Endpoint(count_on) for _ in range(4)]
    for thread in threads:
        thread.result()
    assert counters()["ticket_received"] == before + 4000
