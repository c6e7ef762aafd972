"""Run the command: read its words, prepare the process, call the verb."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

from tlsify.cli import lazy_modules, streams
from tlsify.cli.messages import flush_stdout, guarded
from tlsify.cli.parser import GlobalOptions, divide, is_config, read_options, read_words
from tlsify.system import early_signals
from tlsify.system.process import protect_process

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Sequence


_JSON = "--log-format=json"
_PROGRAMS = ("ssl_client",)
# Verbs that act on the signals of `early_signals`.
_SERVERS = ("serve", "forward", "listen", "agent")
# Verbs whose process has one connection.
_SINGLE = ("connect", "accept", "ssl_client")
# How many new objects it takes to look for garbage. Importing makes tens of thousands, and none of
# it: with Python's 700 a fifth of the start goes into looking.
_OBJECTS = 50_000


def run(arguments: Sequence[str] | None, signals: Iterable[int]) -> int:
    """Run the command; return its exit status (`errors.ExitCode`).

    Args:
        arguments: its words; those of the process if None.
        signals: what `early_signals.hold` has found.
    """
    gc.set_threshold(_OBJECTS)
    # At its end Python looks for garbage in all that there is. What is frozen goes unlooked at, and
    # with the process; those who ask for warnings are told of what was not closed.
    if not sys.warnoptions:
        atexit.register(gc.freeze)

    def work() -> int:
        _protect_process()
        status = _dispatch(_words() if arguments is None else arguments, signals)
        flush_stdout()
        return status

    status = guarded(work)
    with contextlib.suppress(OSError):  # of what an error has left there
        flush_stdout()
    return status


def _words() -> list[str]:
    """Return the command line; under the name of a verb that others run as a program, with it."""
    name = os.path.basename(sys.argv[0])
    return [name, *sys.argv[1:]] if name in _PROGRAMS else sys.argv[1:]


def _dispatch(arguments: Sequence[str], signals: Iterable[int]) -> int:
    ours, rest = divide(arguments)
    if _JSON in ours:  # of errors in what follows, too
        from tlsify.logs import messages

        messages.install(messages.LEVELS["notice"], messages.JSON)
    if any(map(is_config, ours)):
        from tlsify.cli.options import config_file

        ours, rest = divide(config_file.expand(arguments))
    verb, options = read_options(ours)
    if verb not in _SERVERS:
        early_signals.release(signals)
    lazy_modules.prepare(is_single=verb in _SINGLE)
    import logging  # only now without what it does not need

    from tlsify.logs import messages

    messages.install(
        messages.LEVELS[options.log_level],
        options.log_format,
        syslog=options.syslog,
        is_server=verb in (*_SERVERS, "wrap"),
    )
    for library in ("asyncio", "pyroute2"):  # what they find odd is not the user's business
        logging.getLogger(library).setLevel(logging.ERROR)
    given = read_words(verb, rest)
    act: Callable[[argparse.Namespace, GlobalOptions], int]
    act = import_module(f"tlsify.cli.{verb}").run
    return act(given, options)


def _protect_process() -> None:
    """Keep secrets out of core dumps, and connections out of the places of closed streams."""
    protect_process()
    # A socket with number 1 would get in plain what is meant for stdout. Reading a closed stdin
    # gives its end; writing a closed stdout fails, as it should.
    for number, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)
    streams.prepare()
