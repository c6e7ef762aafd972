"""Tests of parser: global options, verbs, misuse."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.cli.forked import refused
from tests.cli.harness import run
from tlsify import __version__
from tlsify.cli.parser import ABOUT, VERBS, divide, top_parser, verb_parser

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.cli.harness import Outcome

_PLACES = {
    "before-the-verb": ["--ktls", "connect", "h", "1"],
    "behind-the-verb": ["connect", "--ktls", "h", "1"],
    "between-operands": ["connect", "h", "--ktls", "1"],
    "at-the-end": ["connect", "h", "1", "--ktls"],
}


@pytest.mark.parametrize("words", _PLACES.values(), ids=_PLACES)
def test_bare_ktls_swallows_nothing(words: list[str]) -> None:
    """A bare --ktls means auto wherever it stands, and the next word stays what it was."""
    assert divide(words) == (["--ktls=auto", "connect"], ["h", "1"])


@pytest.mark.parametrize(
    ("words", "value", "operands"),
    [
        (["--hsts", "www"], 31536000, "www"),
        (["--hsts=7", "www"], 7, "www"),
        (["www", "--hsts"], 31536000, "www"),
        (["--", "--hsts"], None, "--hsts"),
    ],
)
def test_value_in_the_same_word(words: list[str], value: int | None, operands: str) -> None:
    """An option that may stand alone swallows no operand."""
    given = verb_parser("serve").read(words)
    assert (given.hsts, str(given.directory)) == (value, operands)


@pytest.mark.parametrize(
    ("words", "ours", "rest"),
    [
        ([], [], []),
        (["check"], ["check"], []),
        (["check", "--ktls=require"], ["--ktls=require", "check"], []),
        (["--ktls", "require", "check"], ["--ktls=require", "check"], []),
        (["serve", "--ktls", "off", "www"], ["--ktls=off", "serve"], ["www"]),
        (["serve", "--ktls"], ["--ktls=auto", "serve"], []),
        (["-v", "--ktls-rekey", "require", "check"], None, []),
        (["check", "-v", "--ktls-rekey", "require"], ["-v", "--ktls-rekey=require", "check"], []),
        (["serve", "--config", "x", "--verbose"], ["--config=x", "--verbose", "serve"], []),
        (["serve", "--config"], ["--config=", "serve"], []),
        (["check", "--config", "x"], ["check"], ["--config", "x"]),
        (["ssl_client", "-s", "3"], ["ssl_client"], ["-s", "3"]),
        (["check", "--ktls-rekey"], ["--ktls-rekey=", "check"], []),
        (["check", "--ktls-any-kernel", "x"], ["--ktls-any-kernel", "check"], ["x"]),
        (["serve", "--", "--ktls"], ["serve"], ["--", "--ktls"]),
        (["--ktls", "--", "serve", "--", "--ktls"], None, ["--", "--ktls"]),
        (["--"], ["--"], []),
    ],
)
def test_division_of_words(words: list[str], ours: list[str] | None, rest: list[str]) -> None:
    """The command's options are its own up to "--"; all else behind the verb is the verb's."""
    expected = {
        "-v": ["-v", "--ktls-rekey=require", "check"],
        "--ktls": ["--ktls=auto", "--", "serve"],
    }
    assert divide(words) == (expected[words[0]] if ours is None else ours, rest)


@pytest.mark.parametrize("words", _PLACES.values(), ids=_PLACES)
def test_bare_ktls_in_the_real_command(words: Sequence[str]) -> None:
    """Host and port survive a bare --ktls in each place."""
    real = [{"h": "nobody.invalid"}.get(word, word) for word in words]
    run(*real).failed(102, "cannot connect to nobody.invalid:1")


@pytest.mark.parametrize(
    "words",
    [
        ["connect", "--", "--ktls", "1"],
        ["--", "connect", "--", "--ktls", "1"],
        ["connect", "--timeout=5", "--", "--ktls", "1"],
    ],
)
def test_words_behind_two_dashes(words: list[str]) -> None:
    """Behind "--" nothing is an option, not even --ktls."""
    run(*words).failed(102, "cannot connect to --ktls:1")


def test_version() -> None:
    """--version prints one line."""
    assert run("--version").succeeded() == f"tlsify {__version__}\n".encode()


def test_overview() -> None:
    """The command alone prints its help, with every verb; as --help and help do."""
    text = run().succeeded()
    assert text == run("--help").succeeded()
    for name, summary in (VERBS | ABOUT).items():
        assert f"  {name}" in text.decode()
        assert summary in text.decode()
    assert b"--ktls [{auto,require,off}]" in text


@pytest.mark.parametrize("verb", [*VERBS, *ABOUT])
def test_help(verb: str) -> None:
    """--help describes each verb, with its options."""
    assert refused(verb, "--help").succeeded().startswith(f"usage: tlsify {verb}".encode())


def test_options_of_the_command() -> None:
    """All of them may stand behind the verb; they are known without the parser being made."""
    switches: set[str] = set()
    valued = {"--ktls"}
    for action in top_parser()._actions:
        if action.option_strings and action.dest not in {"help", "version", "ktls"}:
            (switches if action.nargs == 0 else valued).update(action.option_strings)
    words = ["check", *switches, *(f"{name}=x" for name in valued)]
    ours, rest = divide(words)
    assert {*ours} == {*words} - ({"--config=x"} & {*rest})
    assert rest == ["--config=x"], "check has one of its own"


def test_help_of_an_optional_value() -> None:
    """It shows where the value stands: in the option's word, or in one of its own."""
    text = refused("forward", "--help").out.decode()
    for told in ("--redirect-http[=HOST:PORT]", "--proxy-protocol[={1,2}]", "--access-log [FILE]"):
        assert f"\n  {told} " in text.replace("\n    ", "     "), told


_MISUSE = {
    "no-verb-but-options": (["--ktls", "-v"], "a verb is required", "tlsify help"),
    "unknown-verb": (["conect"], '"conect"', "did you mean connect?"),
    "ktls-mode-in-a-word-of-its-own": (["--ktls", "on", "check"], '"on"', "tlsify help"),
    "unknown-option": (["--nonsense", "check"], "no option --nonsense", "tlsify --help"),
    "option-without-its-verb": (["--access-log", "serve"], "--access-log", "stand behind it"),
    "unknown-option-of-a-verb": (["check", "--nonsense"], "--nonsense", "tlsify check --help"),
    "misspelled-option": (["connect", "h:1", "--no-verfy"], "--no-verfy", "mean --no-verify?"),
    "misspelled-global": (["check", "--verbos"], "no option --verbos", "mean --verbose?"),
    "another-program's": (["serve", "-p", "7002", "www"], "no option -p", "mean --listen?"),
    "no-dashes": (["connect", "h", "1", "cat", "x"], '"cat"', "-- cat x"),
    "no-dashes-nor-a-port": (["connect", "h:1", "cat", "x"], '"cat" is one', "-- cat x"),
    "unknown-option-in-front": (["connect", "--nonsense", "h:1", "x"], "no option --nonsense", "-"),
    "no-dashes-behind-an-address": (["listen", "127.0.0.1:1", "cat"], '"cat"', "-- cat"),
    "no-dashes-and-an-option": (["wrap", "python3", "-m", "x"], '"python3"', "-- python3 -m x"),
    "abbreviated-option": (["check", "--js"], "--js", "tlsify check --help"),
    "abbreviated-global": (["--verb", "check"], "--verb", "tlsify --help"),
    "ktls-mode": (["--ktls=sometimes", "check"], "'sometimes'", "tlsify --help"),
    "ktls-mode-empty": (["check", "--ktls="], "--ktls", "tlsify --help"),
    "ktls-rekey-alone": (["check", "--ktls-rekey"], "--ktls-rekey", "tlsify --help"),
    "missing-port": (["connect", "h"], "has no port", "write h:PORT"),
    "port-is-a-word": (["connect", "h", "nought"], "'nought'", "/etc/services"),
    "port-too-large": (["connect", "h", "65536"], "65536", "65535"),
    "timeout-zero": (["connect", "--timeout", "0", "h", "1"], '"0" is', "tlsify connect --help"),
    "timeout-vast": (["connect", "--timeout", "1e300", "h", "1"], "1e300", "connect --help"),
    "timeout-nan": (
        ["serve", "--timeout", "nan", "/"],
        '"nan" is not a number of seconds above 0',
        "tlsify serve --help",
    ),
    "no-workers": (["serve", "--workers", "0", "/"], '"0" is not a whole', "from 1 to 1024"),
    "no-port": (["wrap", "--port", "0", "--", "x"], "from 1 to 65535", "wrap --help"),
    "missing-folder": (["serve"], "DIR is missing", "tlsify serve --help"),
    "swallowed-folder": (["serve", "--access-log", "www"], "DIR is missing", "--access-log=FILE"),
    "value-behind-a-blank": (
        ["forward", "--redirect-http", ":80", ":443", "h:1"],
        '":80" behind --redirect-http',
        "write --redirect-http=:80, or",
    ),
    "seconds-behind-a-blank": (["serve", "--hsts", "300", "/"], '"300" behind', "--hsts=300"),
    "choice-behind-a-blank": (["forward", "--proxy-protocol", "1"], '"1"', "--proxy-protocol=1"),
    "one-word-too-many": (["serve", "/", "/"], "one word too many", "tlsify"),
}


@pytest.mark.parametrize("words", [["serv"], ["serve", "--nonsense"], ["--config", "/nowhere"]])
def test_misuse_in_json(words: list[str]) -> None:
    """It is one object, too, whether the verb is known by then or not."""
    _is_object(refused("--log-format=json", *words))


def test_mistake_in_a_file_in_json(tmp_path: Path) -> None:
    """Likewise where it is the file that asks for it."""
    path = tmp_path / "tlsify.toml"
    path.write_text('verb = "serve"\nlistn = 1\nlog-format = "json"')
    _is_object(refused("--config", path))


def _is_object(outcome: Outcome) -> None:
    told = json.loads(outcome.err)
    assert told["level"] == "error"
    assert told["message"]
    assert told["hint"]


@pytest.mark.parametrize(("words", "word", "page"), _MISUSE.values(), ids=_MISUSE)
def test_misuse(words: list[str], word: str, page: str) -> None:
    """Misuse gives 100, names the word, and points to the help that applies."""
    refused(*words).failed(100, word, page)
