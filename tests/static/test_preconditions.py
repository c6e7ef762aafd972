"""Tests of preconditions: each combination of conditions, against RFC 9110's own order."""

from __future__ import annotations

from itertools import product

import pytest

from tlsify.static.preconditions import Verdict, judge, range_is_wanted
from tlsify.static.validators import Validators, format_date

MODIFIED = 1_500_000_000
FILE = Validators(tag="tag", is_strong=True, modified=MODIFIED, is_date_strong=True)
SAME, OLDER, NEWER = (format_date(MODIFIED + by) for by in (0, -1, 1))
ABSENT = None

IF_MATCH = {ABSENT: None, '"tag"': True, "*": True, '"x"': False, 'W/"tag"': False, "": False}
IF_UNMODIFIED = {ABSENT: None, SAME: True, NEWER: True, OLDER: False, "nonsense": None}
IF_NONE_MATCH = {ABSENT: None, '"tag"': False, 'W/"tag"': False, "*": False, '"x"': True, "": True}
IF_MODIFIED = {ABSENT: None, SAME: False, NEWER: False, OLDER: True, "nonsense": None}


def test_order() -> None:
    """13.2.2, step by step, for each of them present, absent, true, false and nonsense."""
    for match, unmodified, none_match, modified in product(
        IF_MATCH, IF_UNMODIFIED, IF_NONE_MATCH, IF_MODIFIED
    ):
        fields = {
            "If-Match": match,
            "If-Unmodified-Since": unmodified,
            "If-None-Match": none_match,
            "If-Modified-Since": modified,
        }
        first = IF_MATCH[match] if match is not ABSENT else IF_UNMODIFIED[unmodified]
        second = IF_NONE_MATCH[none_match] if none_match is not ABSENT else IF_MODIFIED[modified]
        if first is False:
            expected = Verdict.FAILED
        elif second is False:
            expected = Verdict.NOT_MODIFIED
        else:
            expected = Verdict.PERFORM
        assert judge(fields.get, FILE) is expected, fields


@pytest.mark.parametrize(
    ("field", "is_wanted"),
    [
        (None, True),
        ('"tag"', True),
        (' "tag" ', True),
        ('W/"tag"', False),
        ('"x"', False),
        ('"x", "tag"', False),
        ("*", False),
        ("", False),
        ("tag", False),
        (SAME, True),
        (OLDER, False),
        (NEWER, False),
        (f"{SAME}, {SAME}", False),
    ],
)
def test_if_range(field: str | None, is_wanted: bool) -> None:
    """One strong tag, or the very date."""
    assert range_is_wanted({"If-Range": field}.get, FILE) == is_wanted


def test_if_range_of_a_young_file() -> None:
    """Neither its tag nor its date says that the bytes are the same."""
    young = Validators(tag="tag", is_strong=False, modified=MODIFIED, is_date_strong=False)
    for field in ('"tag"', 'W/"tag"', SAME):
        assert not range_is_wanted({"If-Range": field}.get, young)
    assert judge({"If-Match": '"tag"'}.get, young) is Verdict.FAILED
    assert judge({"If-None-Match": 'W/"tag"'}.get, young) is Verdict.NOT_MODIFIED
