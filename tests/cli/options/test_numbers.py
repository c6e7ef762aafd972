"""Tests of numbers."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any

import pytest

from tlsify.cli.options import numbers
from tlsify.cli.parser import VERBS, verb_parser

if TYPE_CHECKING:
    from collections.abc import Callable

_SECONDS = "not a number of seconds above 0, up to 1000000"
_COUNT = "not a whole number from 1 to 1024"


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (numbers.seconds, "0.5", 0.5),
        (numbers.seconds, "1e6", 1e6),
        (numbers.seconds_or_0, "0", 0.0),
        (numbers.count, "1", 1),
        (numbers.count, "1024", 1024),
        (numbers.descriptor, "0", 0),
    ],
)
def test_readable(read: Callable[[str], Any], text: str, value: object) -> None:
    """Everything within bounds is read as what it says."""
    assert read(text) == value


@pytest.mark.parametrize(
    ("read", "texts", "said"),
    [
        (numbers.seconds, ("", "soon", "0", "-1", "nan", "inf", "1e7", "1e300"), _SECONDS),
        (numbers.seconds_or_0, ("-1", "nan", "1e7"), "not a number of seconds from 0 to 1000000"),
        (numbers.count, ("", "many", "0", "-1", "1025", "1.5", "9" * 5000), _COUNT),
        (numbers.descriptor, ("-1", "x"), "not a whole number from 0 to 1048576"),
    ],
)
def test_out_of_bounds(read: Callable[[str], Any], texts: tuple[str, ...], said: str) -> None:
    """Anything else is refused with the bounds."""
    for text in texts:
        with pytest.raises(argparse.ArgumentTypeError, match=said) as caught:
            read(text)
        assert str(caught.value).startswith(f'"{text}" is ')


def test_defaults_can_be_said() -> None:
    """Each default of a number is a value that the option takes, so that a file's can be undone."""
    found = set()
    for verb in VERBS:
        parser = verb_parser(verb)
        for action in parser._actions:
            named = re.search(r"default\s(\d[\d.]*)\b", action.help or "")
            if named and action.metavar in {"S", "N"}:
                assert parser._get_value(action, named[1]) == float(named[1])
                found.add(action.dest)
    assert {"retry", "drain_delay", "workers", "timeout"} <= found
