"""Attempts at something that may fail: when the next one is due, also after a restart."""

from __future__ import annotations

import json
import random
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tlsify.renewal.folder import Folder

# Seconds after the first failure, the second, ...: authorities count failures by the hour.
PAUSES = (60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 12 * 3600.0, 24 * 3600.0)
# Who insists waits no longer than this.
SHORTEST = 15.0
# Of the pause, so that machines which failed together do not come back together.
_SPREAD = 0.1
_LONGEST_TEXT = 500


@dataclass(slots=True)
class Attempts:
    """What has become of the last attempts.

    Attributes:
        failures: since the last success.
        tried: when the last one began, in seconds since 1970.
        pause: seconds from there to the next.
        why: what the last one failed of.
        what: was attempted, as the caller spells it.
    """

    failures: int = 0
    tried: float = 0.0
    pause: float = 0.0
    why: str = ""
    what: str = ""

    @classmethod
    def read(cls, folder: Folder, name: str, what: str = "") -> Attempts:
        """Return what a file of the folder says; nothing has been tried if it says nothing sound.

        Args:
            folder: the place.
            name: of the file.
            what: is to be attempted; failures of something else do not count.

        Raises:
            OSError: it cannot be read.
        """
        try:
            found = json.loads(folder.read(name) or b"{}")
            read = cls(
                max(int(found["failures"]), 0),
                float(found["tried"]),
                float(found["pause"]),
                str(found["why"])[:_LONGEST_TEXT],
                str(found.get("what", "")),
            )
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return cls(what=what)
        # Comparisons are false with what is no number.
        is_sound = 0 <= read.pause <= max(PAUSES) * (1 + _SPREAD)
        return read if is_sound and read.what == what else cls(what=what)

    def left(self, pause: float | None = None) -> float:
        """Return the seconds until the next attempt, or what is left of another pause.

        A clock that was set back makes none of them longer than twice the pause: what was tried
        further ahead than that was tried by another clock.
        """
        pause = self.pause if pause is None else min(self.pause, pause)
        left = self.tried + pause - time.time()
        return 0.0 if left > 2 * pause else min(max(left, 0.0), pause)

    def turn(self, *, insisting: bool) -> float:
        """Return the seconds until the next attempt, none of which are left for one who insists.

        That one waits here, for some seconds at most.
        """
        if insisting:
            time.sleep(self.left(SHORTEST))
            return 0.0
        return self.left()

    def begin(self, folder: Folder, name: str) -> None:
        """Store that an attempt begins, as one that fails: a crash must not make for another one.

        Raises:
            OSError: it cannot be stored, and should not be begun.
        """
        self.failures += 1
        pause = PAUSES[min(self.failures, len(PAUSES)) - 1]
        self.pause = pause * (1 + random.random() * _SPREAD)  # noqa: S311 - no secret
        self.tried = time.time()
        self.why = "it was interrupted"
        self._store(folder, name)

    def fail(self, folder: Folder, name: str, why: str, at_least: float = 0.0) -> None:
        """Store why it has failed.

        Args:
            folder: the place.
            name: of the file.
            why: for people.
            at_least: seconds that the authority asks to wait for; those of the longest pause count.

        Raises:
            OSError: it cannot be stored.
        """
        self.why = why[:_LONGEST_TEXT]
        self.pause = max(self.pause, min(at_least, max(PAUSES)))
        self._store(folder, name)

    def _store(self, folder: Folder, name: str) -> None:
        folder.write(name, json.dumps(asdict(self)).encode())
