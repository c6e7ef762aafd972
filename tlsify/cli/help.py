"""tlsify help: describe the command, a verb, or the exit codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlsify.cli import parser as parsers
from tlsify.cli import suggestions
from tlsify.cli.report import exit_codes
from tlsify.errors import ExitCode, UsageError

if TYPE_CHECKING:
    import argparse

    from tlsify.cli.parser import GlobalOptions

DESCRIPTION = "Describe the command, a verb, or the exit codes."
_EXIT_CODES = "exit-codes"
TOPICS = (*parsers.VERBS, *parsers.ABOUT, _EXIT_CODES)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the topic."""
    parser.add_argument(
        "topic", nargs="?", metavar="VERB|exit-codes", help="subject; default: the command"
    )


def run(arguments: argparse.Namespace, options: GlobalOptions) -> int:
    """Print what --help prints, or the table of exit codes."""
    del options
    topic = arguments.topic
    if topic is None:
        parsers.top_parser().print_help()
    elif topic == _EXIT_CODES:
        print(*exit_codes.lines(), sep="\n")
    elif topic in TOPICS:
        parsers.verb_parser(topic).print_help()
    else:
        raise UsageError(
            f'there is no help on "{topic}"',
            hint=suggestions.hint(topic, TOPICS, f"topics: {', '.join(TOPICS)}"),
        )
    return ExitCode.OK
