"""Tests of addresses among the words of a verb."""

from __future__ import annotations

import pytest

from tlsify.addresses import Address
from tlsify.cli.options.addresses import address, local_path
from tlsify.errors import UsageError


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("h:1", None), Address("h", 1)),
        (("h", "1"), Address("h", 1)),
        (("h", "https"), Address("h", 443)),
        (("::1", "1"), Address("::1", 1)),
        (("[::1]", "1"), Address("::1", 1)),
    ],
)
def test_one_word_or_two(words: tuple[str, str | None], expected: Address) -> None:
    """Both mean the same."""
    assert address(*words, Address.to_connect) == expected


@pytest.mark.parametrize(
    ("words", "said", "hint"),
    [
        (("h", None), "has no port", "write h:PORT"),
        (("h:1", "cat"), '"cat" is one word too many', 'put "--"'),
        (("maybe", "h:1"), '"maybe" in front of h:1', "--OPTION=VALUE"),
        (("https://h/", "443"), "is a URL", "write h:443"),
    ],
)
def test_words_that_are_wrong(words: tuple[str, str | None], said: str, hint: str) -> None:
    """They are usage, and the hint says what to write."""
    with pytest.raises(UsageError, match=said) as caught:
        address(*words, Address.to_connect)
    assert hint in caught.value.hint


def test_paths() -> None:
    """Where only a path can stand, its prefix may be there."""
    assert local_path("unix:/run/x") == local_path("/run/x") == "/run/x"
