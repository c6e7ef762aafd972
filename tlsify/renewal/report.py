"""Report of a process that renews: when it is needed again, and what has happened."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from tlsify.metrics.counters import Event

if TYPE_CHECKING:
    from collections.abc import Iterable

# Seconds: the clock may be set, and files may change, without anyone saying so.
LONGEST_PAUSE, _SHORTEST_PAUSE = 3600.0, 1.0
_PAUSE = struct.Struct("=d")
_EVENTS = tuple(Event)


class Report(NamedTuple):
    """What the process says at its end.

    Attributes:
        pause: seconds until it is needed again.
        events: to be counted.
    """

    pause: float = LONGEST_PAUSE
    events: tuple[Event, ...] = ()

    @classmethod
    def of(cls, parts: Iterable[Report]) -> Report:
        """Return what several tasks report together."""
        found = list(parts)
        pause = min((each.pause for each in found), default=LONGEST_PAUSE)
        return cls(pause, tuple(event for each in found for event in each.events))

    def encode(self) -> bytes:
        """Write it."""
        pause = max(min(self.pause, LONGEST_PAUSE), _SHORTEST_PAUSE)
        return _PAUSE.pack(pause) + bytes(_EVENTS.index(event) for event in self.events)

    @classmethod
    def decode(cls, raw: bytes) -> Report | None:
        """Read it; None if it is none. The process has read what strangers sent."""
        if len(raw) < _PAUSE.size:
            return None
        (pause,) = _PAUSE.unpack_from(raw)
        numbers = raw[_PAUSE.size :]
        if not _SHORTEST_PAUSE <= pause <= LONGEST_PAUSE or max(numbers, default=0) >= len(_EVENTS):
            return None
        return cls(pause, tuple(_EVENTS[number] for number in numbers))
