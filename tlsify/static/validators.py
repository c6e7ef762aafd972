"""Validators of a file's state: ETag and Last-Modified (RFC 9110 8.8)."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import formatdate, parsedate_tz
from functools import lru_cache
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import os

# The clock by which the kernel dates files; it goes by ticks of some milliseconds.
_CLOCK_REALTIME_COARSE = 5
_SECOND = 10**9
# How coarse the dates of file systems are that have no fractions of a second.
_COARSEST = 2 * _SECOND
_LONGEST_DATE = len("Wednesday, 06-Nov-94 08:49:37 GMT")
# Each blank fits one place only: a client may send many of them.
_TAG = re.compile(r'[\t ]*(?:(W/)?"([\x21\x23-\x7e\x80-\U0010ffff]*)"[\t ]*)?(?:,|\Z)')


@dataclass(frozen=True, slots=True)
class Validators:
    """A file's, at some moment.

    Attributes:
        tag: the opaque part of the ETag.
        is_strong: whether what has the same tag has the same bytes; not while another change
            would leave the file's dates as they are.
        modified: when it was changed last, in seconds; never in the future (8.8.2.1).
        is_date_strong: whether the date tells as much (8.8.2.2): not before its second is over.
    """

    tag: str
    is_strong: bool
    modified: int
    is_date_strong: bool

    @classmethod
    def of(cls, status: os.stat_result, coding: str = "", now: int | None = None) -> Self:
        """Make them for a file, or for its variant in a content coding.

        Part of the tag is its inode's change time, which no program can set: files of one size may
        have one date, too, where builds are reproducible or files are copied with their dates.

        Args:
            status: of the open file.
            coding: what sets the variant's tag apart; empty for the file itself.
            now: in nanoseconds, by the clock that dates files, which is asked if this is None.
        """
        if now is None:
            now = time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)
        grain = 1 if status.st_ctime_ns % _SECOND else _COARSEST
        modified = max(0, min(status.st_mtime_ns, now) // _SECOND)
        suffix = coding and f"-{coding}"
        return cls(
            tag=f"{status.st_mtime_ns:x}-{status.st_ctime_ns:x}-{status.st_size:x}{suffix}",
            is_strong=now - status.st_ctime_ns >= grain,
            modified=modified,
            is_date_strong=now // _SECOND > modified,
        )

    @property
    def etag(self) -> str:
        """The field ETag."""
        return f'"{self.tag}"' if self.is_strong else f'W/"{self.tag}"'

    @property
    def last_modified(self) -> str:
        """The field Last-Modified."""
        return format_date(self.modified)

    def matches(self, field: str, *, strongly: bool) -> bool:
        """Return whether a list of entity tags has this one, or is "*" (8.8.3.2, 13.1.1).

        Args:
            field: as it was sent; from where it is no such list any more, it is passed over.
            strongly: whether weak tags match nothing.
        """
        if field.strip() == "*":
            return True
        if strongly and not self.is_strong:
            return False
        position = 0
        while position < len(field) and (found := _TAG.match(field, position)):
            is_weak, tag = found.groups()
            if tag == self.tag and not (strongly and is_weak):
                return True
            position = found.end()
        return False


@lru_cache(maxsize=1024)
def format_date(seconds: int) -> str:
    """Spell a date as an IMF-fixdate (5.6.7)."""
    return formatdate(seconds, usegmt=True)


def parse_date(text: str) -> int | None:
    """Read a date in any of HTTP's three forms; return None if it is none, or more than one."""
    if len(text) > _LONGEST_DATE:
        return None
    try:
        parsed = parsedate_tz(text)
        if parsed is None:
            return None
        return int(datetime(*parsed[:6], tzinfo=UTC).timestamp()) - (parsed[9] or 0)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
