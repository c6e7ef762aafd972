"""Options of servers for the access log."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from tlsify.errors import ConfigError
from tlsify.logs.access import AccessLog
from tlsify.logs.file import STDOUT, LogFile

if TYPE_CHECKING:
    import argparse

    from tlsify.cli.parser import GlobalOptions


def add_access_log(group: argparse._ArgumentGroup) -> None:
    """Declare --access-log."""
    group.add_argument(
        "--access-log",
        nargs="?",
        const=STDOUT,
        metavar="FILE",
        help="file to append a line to for each connection or request (tlsify help logs); "
        f'"{STDOUT}", or no FILE, for stdout',
    )


def access_log(arguments: argparse.Namespace, options: GlobalOptions) -> AccessLog | None:
    """Open the access log; None if none is wanted.

    Raises:
        ConfigError: it cannot be opened.
    """
    if arguments.access_log is None:
        return None
    examine(arguments)
    return AccessLog(LogFile(arguments.access_log), options.log_format)


def examine(arguments: argparse.Namespace) -> None:
    """Find what is wrong with the file's name, without making it.

    Raises:
        ConfigError: it is a folder, an address, or lies nowhere.
    """
    path = arguments.access_log
    if path is None or path == STDOUT:
        return
    try:
        is_folder = stat.S_ISDIR(os.stat(path).st_mode)
    except OSError:
        is_folder = False
        if ":" in path and "/" not in path:
            raise ConfigError(
                f'"{path}" would be the file of --access-log, and looks like an address',
                hint=f"write --access-log={STDOUT} for stdout, or ./ in front of the file",
            ) from None
    if is_folder or not os.path.isdir(os.path.dirname(path) or "."):
        raise ConfigError(
            f"--access-log cannot write to {path}: "
            + ("it is a folder" if is_folder else "its folder does not exist"),
            hint=f"name a file, or write --access-log={STDOUT} for stdout",
        )
