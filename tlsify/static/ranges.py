"""Range: the part of a file that a request asks for (RFC 9110 14)."""

from __future__ import annotations

import re
from typing import NamedTuple

_SET = re.compile(r"[\t ]*bytes[\t ]*=(.*)", re.IGNORECASE | re.DOTALL)
_RANGE = re.compile(r"([0-9]+)-([0-9]*)|-([0-9]+)")
_DIGITS = 18  # more of them are more than any file has, and than it takes time to convert


class Part(NamedTuple):
    """Some bytes of a file, at least one."""

    offset: int
    size: int


class Unsatisfiable(Exception):
    """The file has none of the bytes that are asked for."""


def parse(field: str, size: int) -> Part | None:
    """Read the field; return None if the whole file is to be sent.

    That is so for units other than bytes, for what is no range, and for several ranges, which
    a server may ignore (14.2). No client is wrong with the whole.

    Raises:
        Unsatisfiable: the range begins behind the end.
    """
    bytes_only = _SET.fullmatch(field)
    if bytes_only is None:
        return None
    ranges = [each for text in bytes_only[1].split(",") if (each := text.strip("\t "))]
    found = _RANGE.fullmatch(ranges[0]) if len(ranges) == 1 else None
    if found is None:
        return None
    first, last, suffix = found.groups()
    if suffix is not None:
        return _last(_number(suffix), size)
    begin, end = _number(first), size - 1
    if last:
        end = min(_number(last), end)
        if _number(last) < begin:
            return None
    if begin >= size:
        raise Unsatisfiable
    return Part(begin, end - begin + 1)


def _last(count: int, size: int) -> Part | None:
    if not count:
        raise Unsatisfiable
    count = min(count, size)
    return Part(size - count, count) if count else None  # an empty file, which has no parts


def _number(digits: str) -> int:
    significant = digits.lstrip("0") or "0"
    return int(significant) if len(significant) <= _DIGITS else 10**_DIGITS
