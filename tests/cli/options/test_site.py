"""Tests of site: fields that cannot break an answer, and names that lead nowhere else."""

from __future__ import annotations

import argparse

import pytest

from tlsify.cli.options import site
from tlsify.errors import ConfigError


def parse(*words: str) -> argparse.Namespace:
    """Parse the options; mistakes are raised."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    site.add_arguments(parser)
    return parser.parse_args(words)


def test_defaults() -> None:
    """Without an option it is a folder with index.html, and nothing else."""
    given = site.rules(parse())
    assert given.index == (b"index.html",)
    assert (given.listing, given.not_found, given.cache_control) == (False, None, None)
    assert site.fields(parse()) == ""


def test_values() -> None:
    """What is given is what is served."""
    arguments = parse(
        *("--index", "a.html", "--index", "b", "--404", "./errors/404.html", "--listing"),
        *("--header", "X-A:b: c", "--hsts=1"),
        *("--cache-control", "max-age=60"),
    )
    site.check(arguments)
    given = site.rules(arguments)
    assert given.index == (b"a.html", b"b")
    assert given.not_found == (b"errors", b"404.html")
    assert site.fields(arguments) == "X-A: b: c\r\nStrict-Transport-Security: max-age=1\r\n"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(
            ("--header", each)
            for each in ("X", ":x", "X Y:z", "X:", "X:a\r\nb", "X:\x00", "X:\u20ac")
        ),
        *(("--header", f"{each}:x") for each in ("Content-Length", "transfer-encoding", "Date")),
        *(("--index", each) for each in ("", ".", "..", "a/b", "/a")),
        *(("--404", each) for each in ("", "/a", "../a", "a//b", "a/")),
        ("--cache-control", "a\nb"),
        *(("--hsts", each) for each in ("", "-1", "1.5", "9" * 20)),
    ],
)
def test_mistakes(option: str, value: str) -> None:
    """What would break an answer, or leave the folder, is refused."""
    with pytest.raises(argparse.ArgumentError):
        parse(f"{option}={value}")


@pytest.mark.parametrize("option", ["--cache-control=no-cache", "--hsts"])
def test_two_words_for_one_field(option: str) -> None:
    """Which of them counts is not left to luck."""
    fields = ("--header", "cache-control:max-age=1", "--header=strict-transport-security:max-age=1")
    with pytest.raises(ConfigError, match="exclude each other"):
        site.check(parse(option, *fields))
