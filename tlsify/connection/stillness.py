"""Stillness: detect connections that are idle, or whose peers do not read."""

from __future__ import annotations

import math
import time
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from tlsify.connection.ending.patience import tcp_progress, unacknowledged

if TYPE_CHECKING:
    from tlsify.connection.ending.patience import Progress
    from tlsify.connection.handoff import Handoff
    from tlsify.connection.plain import Plain

# Seconds for which a client may read nothing of a server's data.
SEND_TIMEOUT = 60.0
# Checks within the shorter of the two limits.
_LOOKS = 4


class Bounds(NamedTuple):
    """Limits for still connections, in seconds; None for any time.

    Attributes:
        idle: without a byte in either direction. A peer that still has data to read then counts as
            not reading.
        send: without the peer's reading any of its outstanding data, though its TCP answers; or,
            after our own end and with all data received, without any action of the peer's.
        may_think: whether a peer may do nothing for any time after our own end: it may be at work.
    """

    idle: float | None = None
    send: float | None = None
    may_think: bool = False


class Stillness(Enum):
    """State of a still connection."""

    IDLE = "nothing has come or gone"
    UNREAD = "the peer has read nothing of the sent data"
    UNENDED = "we have ended, and the peer does nothing"


class Watch:
    """Checks of one connection, made by the caller at intervals.

    TCP's own counts show whether data moves. They are the same on the kernel path and on the
    relay, and cost the data path nothing. Without TCP, the relay counts. A slow peer that reads, or
    sends, a little now and then is not still.

    Attributes:
        pause: seconds until the next check, and the most by which a finding is late.
        reason: the finding, in words.
    """

    def __init__(self, handed: Handoff | Plain, bounds: Bounds) -> None:
        """Begin now."""
        self._handed = handed
        self._bounds = bounds
        self.pause = min(each for each in (*bounds[:2], math.inf) if each is not None) / _LOOKS
        self._moved_at = self._taken_at = time.monotonic()
        self._seen: tuple[int, int] | None = None
        self._is_told = False
        self.reason = ""

    def moved(self) -> None:
        """Record that data has moved, for when TCP's counts are not available."""
        self._is_told = True
        self._moved_at = time.monotonic()

    def look(self) -> Stillness | None:
        """Return the finding; None if the connection may go on, or is over."""
        now = time.monotonic()
        try:
            progress, owed = self._ask()
        except (OSError, ValueError):  # it has been closed
            return None
        if progress is None and not self._is_told:
            return None  # its progress is unknown
        self._note(now, progress, owed)
        still, untaken = now - self._moved_at, now - self._taken_at
        idle, send = (math.inf if each is None else each for each in self._bounds[:2])
        if untaken >= send:
            return self._found(Stillness.UNREAD, send)
        if still >= idle:  # closing loses outstanding data, and the peer would not notice
            return self._found(Stillness.UNREAD if owed else Stillness.IDLE, idle)
        has_ended = progress is not None and progress.has_ended and not self._bounds.may_think
        if still >= send and not owed and has_ended:
            return self._found(Stillness.UNENDED, send)
        return None

    def _found(self, found: Stillness, seconds: float) -> Stillness:
        self.reason = f"{found.value} for {seconds:g} seconds"
        return found

    def _note(self, now: float, progress: Progress | None, owed: int) -> None:
        """Compare the counts with those of the last check."""
        before = self._seen
        self._seen = (0, owed) if progress is None else (progress.acknowledged, progress.received)
        if self._seen != before:
            self._moved_at = now
        # A path that is silent is TCP's to give up.
        is_excused = progress is None or progress.path_is_silent or not owed
        if before is None or self._seen[0] != before[0] or is_excused:
            self._taken_at = now

    def _ask(self) -> tuple[Progress | None, int]:
        """Return the connection's progress, and the number of sent bytes under way."""
        handed = self._handed
        if handed.relay is None:
            return tcp_progress(handed.sock), unacknowledged(handed.sock)
        progress = handed.relay.progress()
        if progress is None:  # another process relays: data that it has yet to read counts
            return None, unacknowledged(handed.sock)
        return progress, handed.relay.under_way()
