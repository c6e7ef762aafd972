"""Places for connections: holders, newcomers that wait, and the handshake that makes room."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tlsify.cli.newcomers import Newcomer

_log = logging.getLogger("tlsify")

# How long a handshake may take before it makes room for others, in seconds: where handshakes take
# long in general, four times that, but no longer than ten.
_PATIENCE, _USUAL, _LONGEST = 2.0, 4.0, 10.0
_SMOOTHING = 0.1
# How many newcomers are accepted to wait for such a place; the others wait in the listening socket.
_ROOM = 16
# Seconds between two warnings that places are short.
_WARNING_INTERVAL = 60.0
# With stalled handshakes in more than this part of all places an origin counts as a hog.
_PART = 8


@dataclass(eq=False, slots=True)
class Place:
    """A connection's place, which its program and its keeper have until both have ended.

    Attributes:
        pid: of the process that becomes the program.
        origin: network that the connection comes from.
        address: as ``accept`` gives it.
        since: when it was given, on the monotonic clock.
        lifeline: the reading end of a pipe whose other end both have; -1 once neither has.
        runs: whether that process has not ended yet.
    """

    pid: int
    origin: bytes | None
    address: object
    since: float
    lifeline: int
    runs: bool = True


class Places:
    """All places of a server. Decisions are made here, and carried out elsewhere.

    Once no place is free, newcomers wait. A handshake that takes too long makes room: the oldest of
    the origin that has most. Its place goes to the newcomer whose origin has fewest. Newcomers of
    the origin that has most get such a place only while more than half of all handshakes have
    stalled; so others find one at once, however fast a flood is renewed. If too many wait,
    newcomers of the largest origin are refused.
    """

    def __init__(self, limit: int) -> None:
        """Begin with none taken.

        Args:
            limit: how many there are.
        """
        self._limit = limit
        self._taken: set[Place] = set()
        self._from = Counter[bytes | None]()
        # In their handshakes: the oldest first, and how many from where.
        self._openings: dict[Place, None] = {}
        self._opening_from = Counter[bytes | None]()
        self._given_up = 0
        self._usual = 0.0

    def __len__(self) -> int:
        """Count those that are taken."""
        return len(self._taken)

    @property
    def free(self) -> int:
        """Number of free places."""
        return self._limit - len(self._taken)

    def number_from(self, origin: bytes | None) -> int:
        """Count the places of connections from somewhere."""
        return self._from[origin]

    # -- what becomes of a place

    def enter(self, place: Place) -> None:
        """Occupy a place for a connection that begins its handshake."""
        self._taken.add(place)
        self._from[place.origin] += 1
        self._openings[place] = None
        self._opening_from[place.origin] += 1

    def is_opening(self, place: Place) -> bool:
        """Return whether it is in its handshake, and was not given up."""
        return place in self._openings

    def opened(self, place: Place, now: float) -> None:
        """The handshake is done; a no-op if it is not awaited any more."""
        if place in self._openings:
            self._usual += _SMOOTHING * (min(now - place.since, _LONGEST) - self._usual)
            self._leave_handshake(place)

    def give_up(self, place: Place) -> None:
        """Its handshake is to end, and the place will be free as soon as it has."""
        self._leave_handshake(place)
        self._given_up += 1

    def leave(self, place: Place) -> None:
        """Return one back."""
        self._taken.discard(place)
        self._from[place.origin] -= 1
        if not self._from[place.origin]:
            del self._from[place.origin]
        if place in self._openings:
            self._leave_handshake(place)
        elif self._given_up:
            self._given_up -= 1

    def _leave_handshake(self, place: Place) -> None:
        del self._openings[place]
        self._opening_from[place.origin] -= 1
        if not self._opening_from[place.origin]:
            del self._opening_from[place.origin]

    # -- decisions

    def admits(self, waiting: int) -> bool:
        """Return whether another newcomer is worth accepting, while so many wait."""
        return waiting < self.free or (bool(self._openings) and waiting <= _ROOM)

    def order(self, waiting: Sequence[Newcomer]) -> list[Newcomer]:
        """Sort newcomers: first by how few of their origin shake hands, then by age."""
        return sorted(waiting, key=lambda each: self._opening_from[each.origin])

    def refused(self, waiting: Sequence[Newcomer], now: float) -> Newcomer | None:
        """Find the newcomer that has to go since too many wait; None if none has to."""
        if len(waiting) <= _ROOM:
            return None
        stalled = Counter(place.origin for place in self._stalled(now))
        hogs = {origin for origin, number in stalled.items() if number > self._limit // _PART}
        crowd = self._opening_from + Counter(each.origin for each in waiting)
        candidates = [each for each in reversed(waiting) if each.origin in hogs]
        return max(candidates, key=lambda each: crowd[each.origin], default=None)

    def victims(self, waiting: Sequence[Newcomer], now: float) -> list[Place]:
        """Find the handshakes that make room for newcomers, beside those given up already."""
        found: list[Place] = []
        stalled, number = self._stalled(now), len(self._openings) + self._given_up
        most = max(self._opening_from.values(), default=0)
        for newcomer in self.order(waiting)[self.free + self._given_up :]:
            reserve = number // 2 if self._opening_from[newcomer.origin] == most else 0
            if len(stalled) <= reserve:
                break
            victim = max(stalled, key=lambda each: self._opening_from[each.origin])
            stalled.remove(victim)
            found.append(victim)
        return found

    def due(self, since: float) -> float | None:
        """Return when the next handshake has taken too long; None if there is none.

        Args:
            since: time of the last call: the moment may be over by now.
        """
        moments = (place.since + self._patience() for place in self._openings)
        return next((moment for moment in moments if moment > since), None)

    def _stalled(self, now: float) -> list[Place]:
        """List those that have taken too long, the oldest first."""
        patience = self._patience()
        return [place for place in self._openings if now - place.since >= patience]

    def _patience(self) -> float:
        return max(_PATIENCE, min(_USUAL * self._usual, _LONGEST))


class ShortageLog:
    """Tells the log that places are short, once in a while."""

    def __init__(self) -> None:
        """Begin with nothing to tell."""
        self._next = 0.0
        self._handshakes = self._newcomers = 0

    def note(self, now: float, *, handshakes: int = 0, newcomers: int = 0) -> None:
        """Count what has made room; log the numbers if the last time is long ago."""
        self._handshakes += handshakes
        self._newcomers += newcomers
        if now >= self._next:
            _log.warning(
                "places are short: %d handshakes took too long and made room, %d connections were "
                "closed",
                self._handshakes,
                self._newcomers,
            )
            self._next = now + _WARNING_INTERVAL
            self._handshakes = self._newcomers = 0
