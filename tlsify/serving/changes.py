"""Changes of a value that is looked at from time to time, such as the state of files."""

from __future__ import annotations

# Seconds between two looks, and until the next one after a change.
_INTERVAL = 3.0
_SETTLE = 0.5
# How many looks in succession may find another change.
_UNSETTLED = 20


class Changes:
    """Notices a change once what has changed stays as it is, or will not do so soon.

    A certificate and its key are two files, and one is replaced after the other.

    Attributes:
        pause: seconds until the next look.
    """

    def __init__(self, seen: object) -> None:
        """Begin with a value."""
        self._seen = seen
        self._changed: object = None
        self._unsettled = 0
        self.pause = _INTERVAL

    def accept(self, state: object) -> None:
        """Take a value as the one that is known."""
        self._seen = state

    def look(self, state: object) -> bool:
        """Return whether the value has changed since it was accepted, and is worth a reaction."""
        if state not in (self._seen, self._changed) and self._unsettled < _UNSETTLED:
            self._changed = state
            self._unsettled += 1
            self.pause = _SETTLE
            return False
        self._changed, self._unsettled = None, 0
        self.pause = _INTERVAL
        return state != self._seen
