"""tlsify help: describe the command, a verb, or the exit codes; show a page of the manual."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlsify.cli import pages, suggestions
from tlsify.cli import parser as parsers
from tlsify.cli.report import exit_codes
from tlsify.errors import ExitCode, UsageError

if TYPE_CHECKING:
    import argparse

    from tlsify.cli.parser import GlobalOptions

DESCRIPTION = "Describe the command, a verb, or the exit codes; show a page of the manual."
_EXIT_CODES, _PAGES = "exit-codes", "pages"
TOPICS = (*parsers.VERBS, *parsers.ABOUT, _EXIT_CODES, _PAGES)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the topic."""
    parser.add_argument(
        "topic",
        nargs="?",
        metavar="VERB|exit-codes|pages|PAGE",
        help='subject; default: the command; "pages" lists the pages',
    )


def listed_pages() -> dict[str, str]:
    """Return the title of each page by a name that shows it: a verb's own name shows the verb."""
    return {
        f"docs/{name}" if name in TOPICS else name: title for name, title in pages.titles().items()
    }


def run(arguments: argparse.Namespace, options: GlobalOptions) -> int:
    """Print what --help prints, the table of exit codes, the list of pages, or a page."""
    del options
    topic = arguments.topic
    if topic is None:
        parsers.top_parser().print_help()
    elif topic == _EXIT_CODES:
        print(*exit_codes.lines(), sep="\n")
    elif topic == _PAGES:
        titles = listed_pages()
        width = max(map(len, titles))
        print(*(f"{name:{width}}  {title}" for name, title in titles.items()), sep="\n")
    elif topic in TOPICS:
        parsers.verb_parser(topic).print_help()
    elif (page := pages.text(topic)) is not None:
        print(page, end="")
    else:
        raise UsageError(
            f'there is no help on "{topic}"',
            hint=suggestions.hint(
                topic, (*TOPICS, *listed_pages()), f"topics: {', '.join(TOPICS)}"
            ),
        )
    return ExitCode.OK
