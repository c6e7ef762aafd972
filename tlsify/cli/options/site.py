"""Options of `serve` for its site: indexes, fields, hidden and compressed files."""

from __future__ import annotations

import argparse
import os
import re
from typing import TYPE_CHECKING

from tlsify.cli.options import numbers
from tlsify.cli.parser import Attached
from tlsify.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tlsify.integrations.static_answers import Rules

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 5.6.2
_VALUE = re.compile(r"[!-~\xa0-\xff](?:[\t -~\xa0-\xff]*[!-~\xa0-\xff])?")  # 5.5
# What each answer needs to be read, or what is about its own content: not the same for all of them.
_OURS = frozenset(
    {
        *("connection", "date", "content-length", "transfer-encoding", "trailer", "upgrade"),
        *("keep-alive", "te", "content-encoding", "content-range", "content-type", "location"),
        *("accept-ranges", "allow", "etag", "last-modified"),
    }
)
_CACHE_CONTROL, _HSTS = "cache-control", "Strict-Transport-Security"
_YEAR = 365 * 24 * 60 * 60  # in seconds
_MAX_AGE = 100 * _YEAR


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    group = parser.add_argument_group("site")
    group.add_argument(
        "--index",
        action="append",
        type=_name,
        default=[],
        metavar="NAME",
        help="file to serve for its folder; may be repeated, and the first that exists is served; "
        "default index.html",
    )
    group.add_argument(
        "--listing", action="store_true", help="list the content of folders without an index"
    )
    group.add_argument(
        "--404",
        dest="not_found",
        type=_path,
        metavar="FILE",
        help="file in DIR whose content answers requests for missing files",
    )
    group.add_argument(
        "--header",
        action="append",
        type=_header,
        default=[],
        metavar="NAME:VALUE",
        help="field of every answer, such as X-Frame-Options:DENY; may be repeated",
    )
    group.add_argument(
        "--hsts",
        action=Attached,
        const=str(_YEAR),
        type=numbers.whole(0, _MAX_AGE),
        metavar="SECONDS",
        help="have browsers use HTTPS alone for that long (Strict-Transport-Security); "
        f"{_YEAR}, a year, if there is no SECONDS; 0 revokes it",
    )
    group.add_argument(
        "--cache-control",
        type=_value,
        metavar="VALUE",
        help="Cache-Control field of files, such as max-age=3600; default: none",
    )
    group.add_argument(
        "--dotfiles",
        action="store_true",
        help="also serve names that begin with a dot; without it only .well-known",
    )
    group.add_argument(
        "--precompressed",
        action="store_true",
        help="send NAME.br, NAME.zst or NAME.gz instead of NAME to clients that accept it, unless "
        "it is older",
    )


def check(arguments: argparse.Namespace) -> None:
    """Check that the fields go together.

    Raises:
        ConfigError: they do not.
    """
    names = {line.partition(":")[0].lower() for line in arguments.header}
    if arguments.cache_control is not None and _CACHE_CONTROL in names:
        raise ConfigError(
            "--cache-control and --header Cache-Control exclude each other",
            hint="leave one of them out: the first is for files only",
        )
    if arguments.hsts is not None and _HSTS.lower() in names:
        raise ConfigError(
            f"--hsts and --header {_HSTS} exclude each other",
            hint="leave one of them out: the second may have includeSubDomains, too",
        )


def rules(arguments: argparse.Namespace) -> Rules:
    """Return what is served of the folder."""
    from tlsify.integrations.static_answers import Rules  # an extra

    return Rules(
        dotfiles=arguments.dotfiles,
        precompressed=arguments.precompressed,
        index=tuple(arguments.index) or Rules().index,
        listing=arguments.listing,
        not_found=arguments.not_found,
        cache_control=arguments.cache_control,
    )


def fields(arguments: argparse.Namespace) -> str:
    """Return the lines that each answer has besides its own."""
    lines = list(arguments.header)
    if arguments.hsts is not None:
        lines.append(f"{_HSTS}: max-age={arguments.hsts}")
    return "".join(f"{line}\r\n" for line in lines)


def _header(text: str) -> str:
    name, colon, value = text.partition(":")
    if not colon or not _TOKEN.fullmatch(name):
        raise argparse.ArgumentTypeError(f"{text!a} is not NAME:VALUE")
    if name.lower() in _OURS:
        raise argparse.ArgumentTypeError(f"{name} is different in each answer")
    return f"{name}: {_value(value.strip())}"


def _value(text: str) -> str:
    if not _VALUE.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!a} is no value of a field")
    return text


def _name(text: str) -> bytes:
    name = os.fsencode(text)
    if name in {b"", b".", b".."} or b"/" in name or b"\0" in name:
        raise argparse.ArgumentTypeError(f"{text!a} is no name of a file")
    return name


def _path(text: str) -> Sequence[bytes]:
    return tuple(_name(part) for part in text.removeprefix("./").split("/"))
