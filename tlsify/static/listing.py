"""Listing: an HTML page of the files and folders in a folder."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from html import escape
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# Limit on the names read: a longer page is of no use, and other clients wait meanwhile.
MOST = 1000
_PAGE = """<!DOCTYPE html>
<html>
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font-family: monospace }}
td {{ padding-right: 2em }}
td + td {{ text-align: right }}
</style>
</head>
<body>
<h1>{title}</h1>
<table>
{rows}
</table>
{rest}</body>
</html>
"""


class Named(NamedTuple):
    """A file or folder.

    Attributes:
        name: as the file system has it.
        is_folder: whether it is one.
        size: in bytes.
        modified: in seconds since 1970.
    """

    name: bytes
    is_folder: bool
    size: int
    modified: float


def read(folder: int, is_shown: Callable[[bytes], bool]) -> tuple[list[Named], bool]:
    """Return what is in an open folder, folders first, and whether that is all.

    Args:
        folder: descriptor.
        is_shown: whether to show a name.

    Raises:
        OSError: it cannot be read.
    """
    found = []
    with os.scandir(folder) as entries:
        for entry in islice(entries, MOST):
            name = os.fsencode(entry.name)
            if not is_shown(name):
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # gone meanwhile
                continue
            kind = stat.S_IFMT(status.st_mode)
            if kind in {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK}:
                is_folder = kind == stat.S_IFDIR
                found.append(Named(name, is_folder, status.st_size, status.st_mtime))
        is_all = next(entries, None) is None
    return sorted(found, key=lambda each: (not each.is_folder, each.name)), is_all


def page(path: str, entries: Iterable[Named], *, is_top: bool, is_all: bool) -> bytes:
    """Make the page. Names are shown escaped, and linked to encoded.

    Args:
        path: the folder's, as it is shown.
        entries: what is in it.
        is_top: whether there is no folder above it to go to.
        is_all: whether nothing was left out.
    """
    rows = [] if is_top else ['<tr><td><a href="../">../</a></td></tr>']
    rows += map(_row, entries)
    rest = "" if is_all else f"<p>There are more than {MOST} names.</p>\n"
    text = _PAGE.format(title=escape(_shown(path)), rows="\n".join(rows), rest=rest)
    return text.encode()


def _row(entry: Named) -> str:
    slash = "/" if entry.is_folder else ""
    shown = escape(_shown(os.fsdecode(entry.name))) + slash
    link = f"./{quote(entry.name, safe='')}{slash}"  # "./": no name is a scheme
    size = "" if entry.is_folder else f"{entry.size:,}"
    moment = ""
    with contextlib.suppress(OverflowError, OSError, ValueError):  # a time that no calendar has
        moment = time.strftime("%Y-%m-%d %H:%M", time.gmtime(entry.modified))
    return f'<tr><td><a href="{link}">{shown}</a></td><td>{size}</td><td>{moment}</td></tr>'


def _shown(text: str) -> str:
    """Escape what is no character to see, as of a name in no encoding."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
