"""Tests of suggestions."""

from __future__ import annotations

import pytest

from tlsify.cli.parser import VERBS, top_parser, verb_parser
from tlsify.cli.suggestions import _ELSEWHERE, closest, hint


@pytest.mark.parametrize(
    ("word", "found"),
    [("conect", "connect"), ("chek", "check"), ("stat", "status"), ("xyzzy", None), ("", None)],
)
def test_verbs(word: str, found: str | None) -> None:
    """What is alike is meant."""
    assert closest(word, VERBS) == found


def test_habits() -> None:
    """What other programs call an option is meant where there is ours, and only there."""
    assert closest("--cacert", ["--ca", "--cert"]) == "--ca"
    assert closest("-k", ["--listen"]) is None
    parsers = [top_parser(), *map(verb_parser, VERBS)]
    known = {name for each in parsers for name in each._option_string_actions}
    assert {*_ELSEWHERE.values()} <= known


def test_hint() -> None:
    """Where nothing is alike, only the rest is said."""
    assert hint("a", ["b"], "see there") == "see there"
    assert hint("serv", ["serve"], "see there") == "did you mean serve? see there"
