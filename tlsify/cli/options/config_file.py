"""A file in the place of words on the command line: TOML, with the options' own names."""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tlsify.cli import parser
from tlsify.credentials.reading import CONFIGURATION, read_file
from tlsify.errors import ConfigError, UsageError
from tlsify.logs import messages

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

_VERB, _OPERANDS, _PROGRAM = "verb", "operands", "program"
# Of `forward`: its values, settings of backends, may be a table for each backend.
_SETTINGS = "backend_for"
_FORMAT = ("log-format", "log_format")
_MOST_DOTS = 1000  # in a line


class Words(NamedTuple):
    """Words of a command line, from a file.

    Attributes:
        ours: options that stand for every verb.
        verb: what to do.
        options: the verb's options.
        operands: what stands behind them.
        program: what stands behind "--".
    """

    ours: list[str]
    verb: str
    options: list[str]
    operands: list[str]
    program: list[str]

    def spell(self, ours: list[str], more: list[str]) -> list[str]:
        """Return the command line; options besides the file's come behind them, and so prevail."""
        program = ["--", *self.program] if self.program else []
        return [*self.ours, *ours, self.verb, *self.options, *more, *self.operands, *program]


def expand(arguments: Sequence[str]) -> list[str]:
    """Replace --config, in front of any verb, by the words of its file.

    Raises:
        ConfigError: the file is unusable.
    """
    ours, rest = parser.divide(arguments)
    named = [word.partition("=")[2] for word in ours if parser.is_config(word)]
    top = parser.top_parser()
    if len(named) > 1:
        top.error(f"{parser.CONFIG} stands twice")
    if not named[0]:
        raise UsageError(f"{parser.CONFIG} without a file", hint=f"write {parser.CONFIG} FILE")
    path = Path(named[0])
    given = _load(read_file(path, CONFIGURATION), str(path))
    if messages.JSON in {str(given.get(name)) for name in _FORMAT}:  # of errors in the rest, too
        messages.install(messages.LEVELS["notice"], messages.JSON)
    words = _words(given, str(path))
    others = [word for word in ours if word != "--" and not parser.is_config(word)]
    if others and not others[-1].startswith("-"):
        verb = others.pop()
        if verb != words.verb:
            top.error(f"{named[0]} is for {words.verb}, not for {verb}")
    elif rest:
        top.error("no verb in front of its options")
    return words.spell(others, list(parser.verb_parser(words.verb).attached(rest)))


def read(path: Path) -> Words:
    """Read a file.

    Raises:
        ConfigError: unreadable, no TOML, or not what the command line could say, too.
    """
    return parse(read_file(path, CONFIGURATION), str(path))


def parse(content: bytes, path: str) -> Words:
    """Read the content of a file.

    Raises:
        ConfigError: no TOML, or not what the command line could say, too.
    """
    return _words(_load(content, path), path)


def _load(content: bytes, path: str) -> dict[str, Any]:
    """Return the values of a file.

    Raises:
        ConfigError: no TOML.
    """
    try:
        # A key of many parts would take time and memory by the square of their number.
        if any(line.count(b".") > _MOST_DOTS for line in content.split(b"\n")):
            raise ValueError(f"a line has more than {_MOST_DOTS} dots")
        return tomllib.loads(content.decode())
    except (ValueError, RecursionError) as exc:
        said = exc if isinstance(exc, ValueError) else "it is nested too deeply"
        raise ConfigError(f"{path}: {said}", hint="see toml.io for the format") from exc


def _words(given: dict[str, Any], path: str) -> Words:
    """Return the words for a file's values, which are used up.

    Raises:
        UsageError: they are not what the command line could say, too.
    """
    verb = given.pop(_VERB, None)
    if not isinstance(verb, str) or verb not in parser.VERBS:
        raise UsageError(
            f'{path}: "verb" is missing, or not a verb',
            hint=f'write verb = "...": {", ".join(parser.VERBS)}',
        )
    top = parser.top_parser()
    own = parser.verb_parser(verb)
    if own.get_default(_PROGRAM) is None and _PROGRAM in given:
        raise UsageError(
            f'{path}: "{_PROGRAM}" is not for {verb}, which runs none',
            hint="leave it out: listen, wrap, connect and accept run a program",
        )
    try:
        operands, program = (_texts(name, given.pop(name, [])) for name in (_OPERANDS, _PROGRAM))
        general = {name: given.pop(name) for name in list(given) if _option(top, name) is not None}
        return Words(list(_spell(top, general)), verb, list(_spell(own, given)), operands, program)
    except _Misfit as exc:
        raise UsageError(f"{path}: {exc}", hint=exc.hint or f'see "tlsify {verb} --help"') from exc


class _Misfit(Exception):
    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def _option(parser: argparse.ArgumentParser, name: str) -> argparse.Action | None:
    """Find an option by its long name; those that only print something are none."""
    action = parser._option_string_actions.get("--" + name.replace("_", "-"))
    if isinstance(action, argparse._HelpAction | argparse._VersionAction):
        return None
    return action


def _spell(parser: argparse.ArgumentParser, given: Mapping[str, object]) -> Iterator[str]:
    for name, value in given.items():
        action = _option(parser, name)
        if action is None:
            raise _Misfit(f'"{name}" is no option of {parser.prog}')
        word = "--" + name.replace("_", "-")
        if action.nargs == 0:
            if not isinstance(value, bool):
                raise _Misfit(f'"{name}" must be true or false', f"write {name} = true")
            if value:
                yield word
        elif action.nargs == "?" and isinstance(value, bool) and isinstance(action.const, str):
            if value:
                yield f"{word}={action.const}"
        else:
            for text in _values(action, name, value):
                _check(parser, action, name, text)
                yield f"{word}={text}"


def _check(parser: argparse.ArgumentParser, action: argparse.Action, name: str, text: str) -> None:
    """Check that an option takes a value, while it is known where that stands.

    Raises:
        _Misfit: it does not.
    """
    try:
        # Not our parser's own, whose errors name the option as it stands on a command line.
        value = argparse.ArgumentParser._get_value(parser, action, text)
        parser._check_value(action, value)
    except argparse.ArgumentError as exc:
        raise _Misfit(f'"{name}": {exc.message}') from exc
    except ConfigError as exc:
        raise _Misfit(f'"{name}": {exc}', exc.hint) from exc


def _values(action: argparse.Action, name: str, value: object) -> Iterable[str]:
    """Spell the values of an option."""
    if isinstance(value, dict) and action.dest == _SETTINGS:
        return _settings(name, value)
    if not isinstance(value, list):
        return [_text(name, value)]
    if not isinstance(action, argparse._AppendAction):
        raise _Misfit(f'"{name}" takes one value', "write it without brackets")
    return _texts(name, value)


def _settings(name: str, tables: dict[str, object]) -> Iterator[str]:
    """Spell tables of settings: whose they are, the setting, and its value."""
    for owner, table in tables.items():
        if not isinstance(table, dict):
            raise _Misfit(f'"{name}" needs a table for "{owner}"', f'write [{name}."{owner}"]')
        for setting, value in table.items():
            what = f"{owner}={setting}"
            if isinstance(value, list):
                yield from (f"{what}={text}" for text in _texts(what, value))
            elif isinstance(value, bool):
                yield from [what] if value else []
            else:
                yield f"{what}={_text(what, value)}"


def _texts(name: str, value: object) -> list[str]:
    if not isinstance(value, list):
        example = '["/srv/www"]' if name == _OPERANDS else '["...", "..."]'
        raise _Misfit(f'"{name}" must be a list', f"write {name} = {example}")
    return [_text(name, each) for each in value]


def _text(name: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _Misfit(f'"{name}" must be a text or a number', f'write {name} = "..."')
    text = str(value)
    if "\0" in text:
        raise _Misfit(f'"{name}" has a NUL byte')
    return text
