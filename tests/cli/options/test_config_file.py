"""Tests of config_file: what a file says is what the same words would say."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.forked import refused
from tlsify.addresses import Address
from tlsify.cli.options.config_file import expand, read
from tlsify.cli.parser import VERBS, read_words, verb_parser
from tlsify.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

SERVE = """
verb = "serve"
ktls = "require"
ktls_rekey = "require"
verbose = true
listen = "127.0.0.1:0"
workers = 3
timeout = 2.5
resumption = true
operands = ["/srv/www"]
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Return what writes a file."""

    def written(text: str) -> Path:
        path = tmp_path / "tlsify.toml"
        path.write_text(text)
        return path

    return written


def test_a_file_is_a_command_line(write: Callable[[str], Path]) -> None:
    """Options by their names, with "-" or "_"; flags are true; lists are repetitions."""
    words = read(write(SERVE))
    assert words.ours == ["--ktls=require", "--ktls-rekey=require", "--verbose"]
    assert words.verb == "serve"
    assert words.options == ["--listen=127.0.0.1:0", "--workers=3", "--timeout=2.5", "--resumption"]
    assert words.spell([], ["--workers=1"])[-2:] == ["--workers=1", "/srv/www"]


def test_lists_and_programs(write: Callable[[str], Path]) -> None:
    """What may be repeated is a list; what stands behind "--" is one, too."""
    path = write(
        'verb = "listen"\noperands = ["localhost", 0]\nalpn = ["imap", "x"]\nresumption = false\n'
        "access-log = true\n"
        'program = ["cat", "--", "-n"]\n'
    )
    expanded = expand(["--config", str(path), "--ktls"])
    assert expanded == [
        *("--ktls=auto", "listen", "--alpn=imap", "--alpn=x", "--access-log=-", "localhost", "0"),
        *("--", "cat", "--", "-n"),
    ]
    understood = read_words("listen", list(expanded[2:]))
    assert understood.listen == [Address("localhost", 0)]
    assert understood.program == ["cat", "--", "-n"]


def test_the_command_line_prevails(write: Callable[[str], Path]) -> None:
    """Options behind the verb come behind the file's, and their last value counts."""
    path = write(SERVE)
    expanded = list(expand([f"--config={path}", "serve", "--workers", "7", "--ktls=off"]))
    assert read_words("serve", expanded[expanded.index("serve") + 1 :]).workers == 7
    assert expanded.index("--ktls=require") < expanded.index("--ktls=off")


def test_option_without_its_value_in_front_of_operands(write: Callable[[str], Path]) -> None:
    """A bare option of the command line does not meet the file's operands."""
    path = write('verb = "forward"\noperands = [":443", "h:1"]')
    words = expand([f"--config={path}", "forward", "--redirect-http"])
    assert words == ["forward", "--redirect-http=", ":443", "h:1"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("verb = ", "Invalid value"),
        pytest.param("a = " + "[" * 10_000, "nested too deeply", id="depth"),
        pytest.param("a = " + "1" * 5000, "Exceeds the limit", id="digits"),
        pytest.param(".".join("a" * 100_000) + " = 1", "more than 1000 dots", id="parts"),
        ("listen = 1", "is missing, or not a verb"),
        ('verb = "dance"', "is missing, or not a verb"),
        ("verb = []", "is missing, or not a verb"),
        ('verb = "serve"\nfoo = 1', '"foo" is no option of tlsify serve'),
        ('verb = "serve"\nhelp = true', '"help" is no option of tlsify serve'),
        ('verb = "serve"\nversion = true', '"version" is no option of tlsify serve'),
        ('verb = "serve"\nresumption = 1', '"resumption" must be true or false'),
        ('verb = "serve"\nverbose = "yes"', '"verbose" must be true or false'),
        ('verb = "serve"\ntimeout = true', '"timeout" must be a text or a number'),
        ('verb = "serve"\ntimeout = [1]', '"timeout" takes one value'),
        ('verb = "serve"\n[timeout]\na = 1', '"timeout" must be a text or a number'),
        ('verb = "serve"\ntimeout = "\\u0000"', '"timeout" has a NUL byte'),
        ('verb = "serve"\n[cert]\na = "b"', '"cert" must be a text or a number'),
        ('verb = "forward"\n[backend-for]\na = "b"', '"backend-for" needs a table for "a"'),
        ('verb = "forward"\n[backend-for.a]\nca = []\ncrl = {}', '"a=crl" must be a text or'),
        ('verb = "serve"\noperands = "x"', '"operands" must be a list'),
        ('verb = "serve"\noperands = [[]]', '"operands" must be a text or a number'),
        ('verb = "serve"\nworkers = 0', '"workers": "0" is not a whole number from 1 to 1024'),
        ('verb = "serve"\nlisten = [":1", "x"]', '"listen": "x" has no port'),
        ('verb = "serve"\nktls = "on"', "\"ktls\": invalid choice: 'on'"),
        ('verb = "serve"\nhsts = "soon"', '"hsts": "soon" is not a whole number'),
        ('verb = "forward"\nprogram = ["x"]', '"program" is not for forward'),
        ('verb = "listen"\nprogram = "cat"', '"program" must be a list'),
    ],
)
def test_mistakes(write: Callable[[str], Path], text: str, complaint: str) -> None:
    """Each is named with the file, and ends the command before anything is done."""
    path = write(text)
    with pytest.raises(ConfigError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert complaint in str(caught.value)
    refused("--config", str(path)).failed(caught.value.exit_code, complaint)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """No file, or no text."""
    refused("--config", str(tmp_path / "none")).failed(96, "cannot read configuration")
    (tmp_path / "bytes").write_bytes(b"\xff")
    refused("--config", str(tmp_path / "bytes")).failed(96, "can't decode byte")


def test_another_verb(write: Callable[[str], Path]) -> None:
    """A file for one verb is not for another, and options need their verb."""
    path = str(write(SERVE))
    refused("--config", path, "connect").failed(100, "is for serve, not for connect")
    refused("--config", path, "--config", path).failed(100, "stands twice")
    refused("--config").failed(100, "--config", "FILE")


@given(st.text(), st.sampled_from(sorted(VERBS)))
def test_no_text_is_more_than_a_mistake(text: str, verb: str) -> None:
    """Whatever a file says, it is understood or refused with the one error."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "f")
        path.write_text(f'verb = "{verb}"\n{text}')
        try:
            words = read(path)
        except ConfigError:
            return
        assert words.verb == verb


def test_every_option_of_every_verb_can_be_said() -> None:
    """A file knows each long option, so that no flag is missing in files."""
    for verb in set(VERBS) - {"ssl_client"}:  # whose options are busybox's
        parser = verb_parser(verb)
        for action in parser._actions:
            if action.option_strings and not isinstance(action, argparse._HelpAction):
                assert any(name.startswith("--") for name in action.option_strings), (verb, action)
