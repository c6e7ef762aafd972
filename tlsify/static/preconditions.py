"""Conditional requests: the deciding condition, and its result (RFC 9110 13)."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from tlsify.static.validators import parse_date

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlsify.static.validators import Validators

    # Gives a field of the request, its lines joined by commas; None if there is none.
    Fields = Callable[[str], str | None]


class Verdict(Enum):
    """Answer to a GET or HEAD whose file has been found."""

    PERFORM = 200
    NOT_MODIFIED = 304
    FAILED = 412


def judge(field: Fields, validators: Validators) -> Verdict:
    """Evaluate the conditions of a GET or HEAD, in the order of precedence (13.2.2)."""
    if (wanted := field("If-Match")) is not None:
        if not validators.matches(wanted, strongly=True):
            return Verdict.FAILED
    elif _is_newer(field("If-Unmodified-Since"), validators):
        return Verdict.FAILED
    if (known := field("If-None-Match")) is not None:
        if validators.matches(known, strongly=False):
            return Verdict.NOT_MODIFIED
    elif _is_newer(field("If-Modified-Since"), validators) is False:
        return Verdict.NOT_MODIFIED
    return Verdict.PERFORM


def range_is_wanted(field: Fields, validators: Validators) -> bool:
    """Return whether a Range counts: If-Range, if there is one, must name these bytes (13.1.5)."""
    value = field("If-Range")
    if value is None:
        return True
    if value.lstrip("\t ").startswith(('"', "W/")):
        return "," not in value and validators.matches(value, strongly=True)
    return validators.is_date_strong and parse_date(value) == validators.modified


def _is_newer(date: str | None, validators: Validators) -> bool | None:
    """Return whether the file has been changed since; None if there is no date that counts."""
    since = None if date is None else parse_date(date)
    return None if since is None else validators.modified > since
