"""DER: a reader of elements, for details that certificate libraries do not expose."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SEQUENCE = 0x30
_LONG_TAG, _LONG_LENGTH = 0x1F, 0x80


def elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield consecutive elements, each as its identifier octet and its contents.

    Raises:
        ValueError: something else is there, or half of one.
    """
    for start, begin, end in _spans(der):
        yield der[start], der[begin:end]


def whole(der: bytes) -> Iterator[bytes]:
    """Yield consecutive elements, each with its identifier and length; raises as `elements`."""
    for start, _, end in _spans(der):
        yield der[start:end]


def _spans(der: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the start of each element, that of its contents, and their end."""
    start = 0
    while start < len(der):
        begin, length = _length(der, start + 1)
        end = begin + length
        if der[start] & _LONG_TAG == _LONG_TAG or end > len(der):
            raise ValueError("no element, or half of one")
        yield start, begin, end
        start = end


def _length(der: bytes, start: int) -> tuple[int, int]:
    """Return the start and the length of the contents (X.690 8.1.3 and 10.1)."""
    first = int.from_bytes(der[start : start + 1], "big")
    if first < _LONG_LENGTH and start < len(der):
        return start + 1, first
    begin = start + 1 + first - _LONG_LENGTH
    octets = der[start + 1 : begin]
    if not octets.lstrip(b"\0"):
        raise ValueError("no length")
    return begin, int.from_bytes(octets, "big")
