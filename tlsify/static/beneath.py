"""Open a file beneath a folder, name by name: no link and no rename leads out of it."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LISTED = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# A FIFO that has taken the file's place meanwhile must not wait for its writer.
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_WALKS = 120  # the kernel follows 40 links; one may take a few walks here, for its ".."


class Opened(NamedTuple):
    """A regular file.

    Attributes:
        descriptor: open for reading; the caller closes it.
        status: what it was when it was opened.
    """

    descriptor: int
    status: os.stat_result


def pin(root: bytes) -> int:
    """Open a folder, to be looked into wherever it is moved to; the caller closes it.

    Raises:
        OSError: it cannot be opened, or is none.
    """
    return os.open(root, _FOLDER)


def open_beneath(
    root: bytes, names: Sequence[bytes], alias: bytes | None = None, pinned: int | None = None
) -> Opened:
    """Open the regular file that the names lead to.

    Each name is looked up in a folder that is open, and links are read rather than followed: a
    link's target is looked up in the same way, beneath the same folder. So nothing outside is ever
    opened or even looked at, whatever is renamed meanwhile; links that lead out are not found.

    Args:
        root: path of the folder, with neither links nor a slash at its end (but for "/").
        names: none of them is empty, "." or "..", or has a slash or NUL in it.
        alias: another path of the folder, which links in it may begin with.
        pinned: the folder itself (`pin`), so that what has taken its place since is not meant.

    Raises:
        IsADirectoryError: it is a folder.
        FileNotFoundError: it is nothing that can be sent, or a link leads out.
        OSError: any other reason why it cannot be opened.
    """
    roots = (root,) if alias is None else (root, alias)
    for _ in range(_MAX_WALKS):
        found = _walk(roots, list(names), pinned)
        if isinstance(found, Opened):
            return found
        names = found
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def open_folder_beneath(
    root: bytes, names: Sequence[bytes], alias: bytes | None = None, pinned: int | None = None
) -> int:
    """Open the folder that the names lead to, to read what is in it; the caller closes it.

    Arguments and errors are those of `open_beneath`, but for NotADirectoryError.
    """
    roots = (root,) if alias is None else (root, alias)
    for _ in range(_MAX_WALKS):
        found = _walk(roots, list(names), pinned, is_folder=True)
        if isinstance(found, Opened):
            return found.descriptor
        names = found
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _walk(
    roots: Sequence[bytes], names: list[bytes], pinned: int | None, *, is_folder: bool = False
) -> Opened | list[bytes]:
    """Go down from the folder; return the names to try instead where there is a link or ".."."""
    here = pin(roots[0]) if pinned is None else os.open(b".", _FOLDER, dir_fd=pinned)
    try:
        for index, name in enumerate(names):
            if name == b"..":  # a link's: all names in front of it are of real folders
                if not index:
                    raise _not_found()
                return [*names[: index - 1], *names[index + 1 :]]
            if index == len(names) - 1 and not is_folder:
                kind = stat.S_IFMT(os.stat(name, dir_fd=here, follow_symlinks=False).st_mode)
                if kind == stat.S_IFREG:
                    return _open(name, here)
                if kind == stat.S_IFLNK:
                    return _resolve(roots, names, index, here)
                _refuse(kind)
            try:
                there = os.open(name, _FOLDER, dir_fd=here)
            except NotADirectoryError:
                return _resolve(roots, names, index, here)
            os.close(here)
            here = there
        if is_folder:
            descriptor = os.open(b".", _LISTED, dir_fd=here)
            return Opened(descriptor, os.fstat(descriptor))
    finally:
        os.close(here)
    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))


def _open(name: bytes, folder: int) -> Opened:
    descriptor = os.open(name, _FILE, dir_fd=folder)
    try:
        status = os.fstat(descriptor)  # of what was opened, which need not be what was there before
        if not stat.S_ISREG(status.st_mode):
            _refuse(stat.S_IFMT(status.st_mode))
    except BaseException:
        os.close(descriptor)
        raise
    return Opened(descriptor, status)


def _refuse(kind: int) -> None:
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    raise _not_found()


def _resolve(roots: Sequence[bytes], names: list[bytes], index: int, folder: int) -> list[bytes]:
    """Replace a link by its target.

    Raises:
        OSError: it is none (EINVAL), or leads out.
    """
    before, target = names[:index], os.readlink(names[index], dir_fd=folder)
    if target.startswith(b"/"):
        before, target = [], _relative(roots, target + b"/")
    steps = [name for name in target.split(b"/") if name not in {b"", b"."}]
    return [*before, *steps, *names[index + 1 :]]


def _relative(roots: Sequence[bytes], target: bytes) -> bytes:
    for root in roots:
        prefix = root.rstrip(b"/") + b"/"
        if target.startswith(prefix):
            return target[len(prefix) :]
    raise _not_found()


def _not_found() -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
