"""tlsify status: list the connections that the kernel or tlsify protects, with their processes."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING

from tlsify.cli.messages import flush_stdout
from tlsify.cli.options.numbers import seconds
from tlsify.cli.report import machine, table, terminal
from tlsify.errors import ExitCode
from tlsify.ktls.diag import enter_network
from tlsify.status.sockets import rates, survey

if TYPE_CHECKING:
    import argparse

    from tlsify.cli.parser import GlobalOptions
    from tlsify.status.sockets import Rates, Survey

DESCRIPTION = (
    "List this network namespace's TLS connections that the kernel protects or tlsify relays: "
    "owners, keys, traffic, and why a connection is relayed. The exit status is 0 even if "
    "there are none."
)
_INTERVAL = 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own options."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object, on one line")
    form.add_argument("--prometheus", action="store_true", help="print metrics, for Prometheus")
    parser.add_argument(
        "--watch",
        type=seconds,
        nargs="?",
        const=_INTERVAL,
        metavar="S",
        help=f"repeat every S seconds (default {_INTERVAL:g}), and show rates",
    )
    parser.add_argument(
        "--wide", action="store_true", help="show all columns, however long the lines"
    )
    parser.add_argument(
        "--devices",
        action="store_true",
        help="also show which network interfaces can protect records",
    )
    parser.add_argument(
        "--netns",
        metavar="NAME",
        help="network namespace to look at: its name, or the PID of a process in it",
    )


def misuse(given: argparse.Namespace) -> str | None:
    """Return the error of conflicting options."""
    if given.prometheus and given.watch is not None:
        return "--watch and --prometheus exclude each other: Prometheus repeats the request itself"
    return None


def run(arguments: argparse.Namespace, options: GlobalOptions) -> int:
    """Print what there is; again and again, if so asked."""
    del options  # what others do is not changed by what is asked of us
    if arguments.netns is not None:
        enter_network(arguments.netns)
    if arguments.prometheus:
        seen = survey(find_processes=False, find_devices=arguments.devices)
        print(*machine.metrics(seen), sep="", end="")
    elif arguments.watch is not None:
        redraws = terminal.width() is not None and not arguments.json
        try:
            _watch(arguments, redraws=redraws)
        finally:
            if redraws:
                print()  # the shell goes on below the table
    else:
        seen = survey(find_devices=arguments.devices)
        if arguments.json:
            print(machine.as_json(seen))
        else:
            print("\n".join(_lines(arguments, seen, width=terminal.width())))
    return ExitCode.OK


def _lines(
    arguments: argparse.Namespace, seen: Survey, found: Rates | None = None, *, width: int | None
) -> list[str]:
    """Return the table, as wide as it is or, on a terminal, as fits there."""
    return table.lines(seen, found, wide=arguments.wide, width=None if arguments.wide else width)


def _watch(arguments: argparse.Namespace, *, redraws: bool) -> None:
    """Print until a signal ends us; if we redraw, over what was there before."""
    before: Survey | None = None
    asked = 0.0
    while True:
        seen = survey(find_devices=arguments.devices)
        now = time.monotonic()
        found = rates(before, seen, now - asked)
        if arguments.json:
            print(machine.as_json(seen, found))
        elif redraws:
            size = shutil.get_terminal_size()
            shown = _lines(arguments, seen, found, width=size.columns)
            print(table.frame(shown, size), end="")
        else:
            print("\n".join(_lines(arguments, seen, found, width=None)), end="\n\n")
        flush_stdout()
        before, asked = seen, now
        time.sleep(arguments.watch)
