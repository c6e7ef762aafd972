"""Make completion for bash, zsh and fish of the command's parsers; scripts/cli_docs calls it."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

import shtab

from tlsify.cli.help import TOPICS, listed_pages
from tlsify.cli.parser import Attached
from tlsify.starttls.upgrade import PROTOCOLS

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROGRAM = {"bash": "_tlsify_programs", "zsh": "_command_names -e"}
_HOST = {"bash": "_tlsify_hosts", "zsh": "_hosts"}
# What the parsers' own words for values stand for.
_KINDS = {
    "FILE": shtab.FILE,
    "PATH": shtab.FILE,
    "PATH|FD": shtab.FILE,
    "FILE|DIR|system": shtab.FILE,
    "DIR": shtab.DIRECTORY,
    "HOST": _HOST,
    "HOST:PORT": _HOST,
    "PORT": {"bash": "", "zsh": "_ports"},
}
# Values that are too many for --help, or more than argparse is to decide on.
_CHOICES = {"starttls": tuple(PROTOCOLS), "topic": (*TOPICS, *listed_pages())}
_MODES = ("auto", "require", "off")
_FISH_VALUES = re.compile(r'( -(?:xka|ka|fa) ")([^"(]+)"')

_BASH_PREAMBLE = """
_tlsify_programs() {
  compgen -c -- "$1"
}

_tlsify_hosts() {
  compgen -A hostname -- "$1"
}
"""
# bash takes "=" for a word of its own, and shtab for an operand.
_BASH_WORDS = """

_tlsify() {
  local at cword=0 words=()
  for at in "${!COMP_WORDS[@]}"; do
    if [[ ${COMP_WORDS[at]} == "=" && ${#words[@]} -gt 0 ]]; then
      [[ ${words[-1]} == --ktls ]] && words[-1]="--ktls="
      ((at == COMP_CWORD)) && words+=("")
    else
      words+=("${COMP_WORDS[at]}")
    fi
    ((at == COMP_CWORD)) && cword=$((${#words[@]} - 1))
  done
  local COMP_WORDS=("${words[@]}") COMP_CWORD=$cword
  _shtab_tlsify
}

complete -o bashdefault -F _tlsify tlsify
"""


def bash(top: argparse.ArgumentParser) -> str:
    """Make bash's."""
    _name_the_kinds(top)
    _split_ktls(top, "--ktls=")
    return shtab.complete(top, "bash", preamble=_BASH_PREAMBLE) + _BASH_WORDS


def zsh(top: argparse.ArgumentParser) -> str:
    """Make zsh's."""
    _name_the_kinds(top)
    _split_ktls(top, "--ktls=-")  # how _arguments spells that the value is in the same word
    return shtab.complete(top, "zsh")


def fish(top: argparse.ArgumentParser) -> str:
    """Make fish's."""
    _name_the_kinds(top)
    text = shtab.complete(top, "fish")
    # A value stands in the word of --ktls, or nowhere.
    text = text.replace(" -l ktls -xka ", " -l ktls -fa ").replace(" --ktls ", " ", 1)
    return _FISH_VALUES.sub(_without_description, text)


def _without_description(values: re.Match[str]) -> str:
    """Write values so that fish does not repeat the option's description beside each of them."""
    return values[1] + " ".join(rf"{value}\t''" for value in values[2].split()) + '"'


# Names of files as shells want them, and what writes them.
SHELLS = {"tlsify.bash": bash, "_tlsify": zsh, "tlsify.fish": fish}


def _name_the_kinds(parser: argparse.ArgumentParser) -> None:
    """Mark for shtab which values are files, folders, hosts and programs."""
    for each in _family(parser):
        for action in each._actions:
            if action.dest in _CHOICES:
                action.choices = _CHOICES[action.dest]
            if isinstance(action, Attached):
                action.nargs = 0  # the next word is not its value
            elif action.metavar in _KINDS:
                action.complete = _KINDS[action.metavar]  # type: ignore[attr-defined]
        if each.get_default("program") == []:
            words = each.add_argument("PROG", nargs=argparse.REMAINDER, help="program to run")
            words.complete = _PROGRAM  # type: ignore[attr-defined]


def _family(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.values()


def _split_ktls(top: argparse.ArgumentParser, spelling: str) -> None:
    """Make two options of --ktls: a value stands in the same word, or nowhere."""
    (option,) = (action for action in top._actions if action.dest == "ktls")
    option.nargs, option.choices = 0, None
    top.add_argument(spelling, choices=_MODES, metavar="MODE", help=option.help)
