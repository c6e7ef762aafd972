"""Read what a configuration names: files, folders of them, and pipes that are being written."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NamedTuple

from tlsify.errors import unusable
from tlsify.system import whole_files

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from _typeshed import StrPath

    from tlsify.errors import TlsifyError


class Kind(NamedTuple):
    """What a file is expected to hold: its name in messages, and the bytes that are read at most.

    docs/limits.md lists them.
    """

    name: str
    most: int


CERTIFICATE = Kind("certificate", 2**20)
PRIVATE_KEY = Kind("private key", 2**20)  # the file may have the chain, too
# In all of a folder, too. The largest stores of distributions have 0.6 MB.
TRUST_ANCHORS = Kind("trust anchors", 2**24)
# Of a million certificates. A process takes some ten bytes for each of a file's.
REVOCATION_LIST = Kind("revocation list", 2**26)
OCSP_RESPONSE = Kind("OCSP response", 2**18)
TRAEFIKS = Kind("certificates", 2**24)
CONFIGURATION = Kind("configuration", 2**18)
# Where a folder may be named instead.
_FOLDERS = {CERTIFICATE.name: "; a folder of certificates is for --cert-dir of servers"}


def unreadable(
    path: StrPath, what: str, exc: OSError, hint: str = "check the path and its permissions"
) -> TlsifyError:
    """Return the error for a file or folder that cannot be read: its own, or a shortage of ours.

    ``hint`` is for all but excess and shortage.
    """
    if exc.errno == errno.EISDIR:
        hint = f"name a file in it{_FOLDERS.get(what, '')}"
    elif exc.errno == errno.EFBIG:
        hint = 'check that it is the right one, and see "tlsify help limits"'
    return unusable(f"cannot read {what} {path}", exc, hint)


def read_file(path: StrPath, kind: Kind, *, waits: bool = True) -> bytes:
    """Read a file that the configuration names, or a pipe that is being written.

    Args:
        path: of the file.
        kind: of the file.
        waits: whether a pipe may be in its place; of a folder's files none may be.

    Raises:
        ConfigError: it cannot be read, or only from a writer who does not write; or it is too
            large.
        ResourceError: no descriptor or memory is available.
    """
    try:
        return whole_files.read(path, kind.most, waits=waits)
    except OSError as exc:
        raise unreadable(path, kind.name, exc) from exc


def read_files(
    folder: StrPath, paths: Iterable[StrPath], kind: Kind
) -> Iterator[tuple[StrPath, bytes]]:
    """Read files of a folder, which together have no more bytes than one of their kind may have.

    Raises:
        ConfigError: one of them cannot be read, or they are too large.
        ResourceError: no descriptor or memory is available.
    """
    left = kind.most
    for path in paths:
        try:
            content = whole_files.read(path, left)
        except OSError as exc:
            if exc.errno == errno.EFBIG:
                raise unreadable(folder, kind.name, whole_files.too_large(kind.most)) from exc
            raise unreadable(path, kind.name, exc) from exc
        left -= len(content)
        yield path, content


def files_in(folder: StrPath, suffixes: Collection[str], what: str) -> list[str] | None:
    """Return the paths of a folder's files with such names, sorted; None if it is no folder.

    Raises:
        ConfigError: it cannot be read.
        ResourceError: no descriptor or memory is available.
    """
    if not os.path.isdir(folder):
        return None
    try:
        names = whole_files.names(folder)
    except OSError as exc:
        raise unreadable(folder, what, exc) from exc
    return [os.path.join(folder, name) for name in names if os.path.splitext(name)[1] in suffixes]
