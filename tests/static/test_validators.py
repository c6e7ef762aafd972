"""Tests of validators."""

from __future__ import annotations

import os
from email.utils import formatdate
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.doubles import until
from tlsify.static.validators import Validators, parse_date

if TYPE_CHECKING:
    from pathlib import Path

SECOND = 10**9
NOW = 1_700_000_000 * SECOND


def status(modified: int, changed: int, size: int = 5) -> os.stat_result:
    """Make the status of a file, with times in nanoseconds."""
    fields = {
        "st_mtime": modified / SECOND,
        "st_ctime": changed / SECOND,
        "st_mtime_ns": modified,
        "st_ctime_ns": changed,
    }
    return os.stat_result([0o100644, 1, 1, 1, 0, 0, size, 0, 0, 0], fields)


def test_tags_differ() -> None:
    """Each change has its tag: of the date, the size, the inode, or the coding."""
    states = [(NOW, NOW, 5), (NOW + 1, NOW, 5), (NOW, NOW + 1, 5), (NOW, NOW, 6)]
    tags = {Validators.of(status(*each), "").tag for each in states}
    tags |= {Validators.of(status(*states[0]), coding).tag for coding in ("br", "gzip")}
    assert len(tags) == 6


@pytest.mark.parametrize(
    ("changed", "is_strong"),
    [
        (NOW - 1, True),
        (NOW + 1, False),
        (NOW - SECOND - 1, True),
        (NOW, False),
        (NOW - SECOND, False),  # it may be that there are whole seconds only
        (NOW - 2 * SECOND, True),
    ],
)
def test_strength(changed: int, is_strong: bool) -> None:
    """A tag is strong once another change could not have the same dates."""
    found = Validators.of(status(NOW, changed), now=NOW)
    assert found.is_strong == is_strong
    assert found.etag == f'{"" if is_strong else "W/"}"{found.tag}"'
    assert found.matches(found.etag, strongly=True) == is_strong
    assert found.matches(f'"{found.tag}"', strongly=True) == is_strong
    assert found.matches(found.etag, strongly=False)


def test_line_feed_at_the_end() -> None:
    """It is no part of a list, and nothing to look at for ever (found by fuzzing)."""
    validators = Validators("a", is_strong=True, modified=0, is_date_strong=True)
    assert not validators.matches("\n", strongly=False)
    assert validators.matches('"a"\t', strongly=False)


def test_no_two_states_have_one_strong_tag(tmp_path: Path) -> None:
    """However fast a file changes, what is called strong tells its contents apart."""
    path = tmp_path / "file"
    contents: dict[str, bytes] = {}
    for number in range(2000):
        content = b"%06d" % number
        path.write_bytes(content)
        os.utime(path, (1, 1))
        found = Validators.of(path.stat())
        if found.is_strong:
            assert contents.setdefault(found.tag, content) == content
    until(lambda: Validators.of(path.stat()).is_strong)


def test_dates() -> None:
    """They are in whole seconds, and never in the future; the second must be over to be told."""
    past = Validators.of(status(NOW - SECOND // 2, NOW), now=NOW)
    assert (past.modified, past.is_date_strong) == (NOW // SECOND - 1, True)
    future = Validators.of(status(NOW * 100, NOW), now=NOW)
    assert (future.modified, future.is_date_strong) == (NOW // SECOND, False)
    assert Validators.of(status(-NOW, NOW), now=NOW).modified == 0
    assert past.last_modified == formatdate(NOW // SECOND - 1, usegmt=True)


@pytest.mark.parametrize(
    ("field", "weakly", "strongly"),
    [
        ('"{tag}"', True, True),
        ('W/"{tag}"', True, False),
        ('w/"{tag}"', False, False),
        ('"x","{tag}"', True, True),
        ('"x" ,\t"{tag}" , ', True, True),
        (',, "{tag}"', True, True),
        ('W/"{tag}", "{tag}"', True, True),
        ("*", True, True),
        (" * ", True, True),
        ('*, "x"', False, False),
        ('"*"', False, False),
        ("{tag}", False, False),
        ('x "{tag}"', False, False),
        ('"{tag}', False, False),
        ('"{tag}" x', False, False),
        ('"a b", "{tag}"', False, False),
        ('"a,b", "{tag}"', True, True),
        ("", False, False),
        ('"é", "{tag}"', True, True),
    ],
)
def test_lists(field: str, weakly: bool, strongly: bool) -> None:
    """A tag is found in a list, as far as it is one."""
    ours = Validators.of(status(NOW - SECOND - 1, NOW - SECOND - 1), now=NOW)
    field = field.format(tag=ours.tag)
    assert ours.matches(field, strongly=False) == weakly
    assert ours.matches(field, strongly=True) == strongly


@given(st.text(st.sampled_from('W/"*, \tx')))
def test_any_list(field: str) -> None:
    """Every field ends the search."""
    ours = Validators.of(status(NOW, NOW - 1), now=NOW)
    assert ours.matches(field, strongly=False) == (field.strip() == "*")


@pytest.mark.parametrize(
    "text",
    [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
    ],
)
def test_three_forms(text: str) -> None:
    """The RFC's own examples are one date."""
    assert parse_date(text) == 784_111_777


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "1994",
        "Sun, 99 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 25:49:37 GMT",
        "Sun, 06 Nov 99999 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT",
    ],
)
def test_no_dates(text: str) -> None:
    """They are none."""
    assert parse_date(text) is None


@given(st.one_of(st.text(), st.text(st.sampled_from("SunNov 0123456789,:-+GMT"))))
def test_any_date(text: str) -> None:
    """Nothing is raised."""
    parse_date(text)


@given(st.integers(0, 2**34))
def test_dates_of_ours(seconds: int) -> None:
    """What is sent is read."""
    sent = Validators.of(status(seconds * SECOND, 1), now=2**35 * SECOND)
    assert parse_date(sent.last_modified) == sent.modified == seconds


def test_many_blanks() -> None:
    """A header of nothing but blanks is read in a time that its length is worth."""
    validators = Validators("tag", is_strong=True, modified=0, is_date_strong=True)
    assert not validators.matches("," + " " * 2_000_000 + "x", strongly=False)
    assert validators.matches(" " * 2_000_000 + '"tag"' + "\t" * 2_000_000 + ",", strongly=True)
