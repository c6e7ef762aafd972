"""Tests of balancing: what is checked, and options that do not go together."""

from __future__ import annotations

import argparse

import pytest

from tlsify.cli.options import balancing
from tlsify.errors import ConfigError
from tlsify.serving.backend.health import Checks


def _parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False)
    balancing.add_arguments(parser.add_argument_group())
    parser.set_defaults(pass_fd=None, connect_timeout=3.0)
    return parser.parse_args(words)


def test_checks() -> None:
    """A path is asked for; a connection needs none; without the option nothing is checked."""
    assert balancing.checks(_parse()) is None
    assert balancing.checks(_parse("--health-check=connect")) == Checks(None, seconds=3.0)
    words = ("--health-interval=0.5", "--health-rise=1", "--health-fall=9")
    given = _parse("--health-check", "/a?b", *words)
    assert balancing.checks(given) == Checks("/a?b", 0.5, 1, 9, 3.0)
    assert balancing.misuse(given) is None


@pytest.mark.parametrize("value", ["", "a", "/a b", "/\r\nX: y", "/\u20ac"])
def test_mistakes(value: str) -> None:
    """Nothing gets into a request that is not a path."""
    with pytest.raises(ConfigError, match="no health check"):
        _parse(f"--health-check={value}")


def test_misuse() -> None:
    """Settings of checks without checks, and checks of sockets that take descriptors."""
    assert "need --health-check" in str(balancing.misuse(_parse("--health-rise=7")))
    given = _parse("--health-check=connect")
    given.pass_fd = ()
    assert "--pass-fd" in str(balancing.misuse(given))
