"""Tests of ranges."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlsify.static.ranges import Part, Unsatisfiable, parse


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("bytes=0-0", Part(0, 1)),
        ("bytes=0-", Part(0, 10)),
        ("bytes=9-", Part(9, 1)),
        ("bytes=3-4", Part(3, 2)),
        ("bytes=3-99", Part(3, 7)),
        ("bytes=-1", Part(9, 1)),
        ("bytes=-10", Part(0, 10)),
        ("bytes=-99", Part(0, 10)),
        ("bytes=0003-0004", Part(3, 2)),
        (f"bytes=3-{'9' * 5000}", Part(3, 7)),
        (f"bytes={'0' * 5000}3-", Part(3, 7)),
        ("Bytes = 3-4", Part(3, 2)),
        ("bytes= , 3-4 ,", Part(3, 2)),
    ],
)
def test_one_range(field: str, expected: Part) -> None:
    """It is found, and cut to the file."""
    assert parse(field, 10) == expected


@pytest.mark.parametrize("field", ["bytes=10-", "bytes=10-20", "bytes=-0", f"bytes={'9' * 5000}-"])
def test_no_such_bytes(field: str) -> None:
    """A range that is none of the file's is an error, for an empty file, too."""
    for size in (10, 0):
        with pytest.raises(Unsatisfiable):
            parse(field, size)


@pytest.mark.parametrize(
    "field",
    [
        *("", "bytes", "bytes=", "bytes=,", "items=0-1", "bytesx=0-1", "0-1", "=0-1"),
        *("bytes=1", "bytes=a-", "bytes=-a", "bytes=2-1", "bytes=1-2-3", "bytes=0-1,2-3"),
        *("bytes=-1,-2", "bytes=1 - 2", "bytes=+1-2", "bytes=1_0-", "bytes=٣-", "bytes=--1"),
    ],
)
def test_whole(field: str) -> None:
    """Anything else is ignored."""
    assert parse(field, 10) is None


def test_end_of_nothing() -> None:
    """An empty file is shorter than its last bytes, and so is all of them."""
    assert parse("bytes=-5", 0) is None


@given(
    st.one_of(st.text(), st.text(st.sampled_from("0123456789-,= ")).map("bytes={}".format)),
    st.integers(0, 2**63),
)
def test_any_field(field: str, size: int) -> None:
    """A part lies in the file and has a byte."""
    try:
        part = parse(field, size)
    except Unsatisfiable:
        return
    if part is not None:
        assert 0 <= part.offset < part.offset + part.size <= size
