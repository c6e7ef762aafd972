"""Tests of logs: where the access log goes, and words that cannot be meant."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import pytest

from tlsify.cli.options import logs
from tlsify.cli.parser import GlobalOptions
from tlsify.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def parse(*words: str) -> argparse.Namespace:
    """Parse the option, with an operand behind it."""
    parser = argparse.ArgumentParser()
    logs.add_access_log(parser.add_argument_group("logs"))
    parser.add_argument("operand", nargs="?")
    return parser.parse_args(words)


def test_places(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """None, stdout, or a file in the format that was asked for."""
    assert logs.access_log(parse(), GlobalOptions()) is None
    path = tmp_path / "a.log"
    for words, form in ((("--access-log",), "text"), ((f"--access-log={path}", "x"), "json")):
        log = logs.access_log(parse(*words), GlobalOptions(log_format=form))
        assert log is not None
        log.refused(("192.0.2.7", 1), "identity", "no", 0.1)
    assert (
        " refused client=192.0.2.7 port=1 server_name=- seconds=0.100 end=identity error=no\n"
        in (capfd.readouterr().out)
    )
    assert path.read_text().endswith('"end": "identity", "error": "no"}\n')


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("127.0.0.1:8443", "looks like an address"),
        (":443", "looks like an address"),
        ("[::1]:443", "looks like an address"),
        (".", "it is a folder"),
        ("/none/such/log", "its folder does not exist"),
    ],
)
def test_taken_for_the_file(word: str, words: str) -> None:
    """A word that was meant for something else is refused, and makes no file."""
    with pytest.raises(ConfigError, match=words) as caught:
        logs.access_log(parse("--access-log", word), GlobalOptions())
    assert "--access-log=-" in caught.value.hint
