"""Folders, files and sockets that are made: with the mode that is meant, whatever the umask."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from _typeshed import StrPath

_PRIVATE, _PRIVATE_FOLDER, _PUBLIC = 0o600, 0o700, 0o644
_GROUPS = 0o640  # such as Debian's "adm", which reads logs


def make_private(folder: StrPath) -> None:
    """Make a private folder, but not its parents; an existing one stays unchanged.

    Raises:
        OSError: it cannot be made.
    """
    try:
        os.mkdir(folder, _PRIVATE_FOLDER)
    except FileExistsError:
        return
    _correct(folder, _PRIVATE_FOLDER)


def bind(sock: socket.socket, path: str, mode: int = _PRIVATE) -> None:
    """Bind a socket to a path, where its owner alone can connect to it.

    Args:
        sock: of AF_UNIX.
        path: where there is nothing yet.
        mode: its write permissions decide who may connect.

    Raises:
        OSError: it cannot be bound.
        ValueError: there can be no such path.
    """
    # The kernel takes this mode, less the umask, for the path's: it never has another one.
    os.fchmod(sock.fileno(), mode)
    sock.bind(path)
    _correct(path, mode)


def own_alone(file: int) -> None:
    """Make a new file private to its owner.

    Args:
        file: descriptor.
    """
    os.fchmod(file, _PRIVATE)


def write_public(path: Path, content: bytes) -> None:
    """Write a file that all users may read, and its owner alone may write, if it is a new one.

    Raises:
        OSError: it cannot be written.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
    try:
        number = os.open(path, flags | os.O_EXCL, _PUBLIC)
        is_new = True
    except FileExistsError:  # or a link that leads nowhere yet, or a terminal, or a pipe
        number = os.open(path, flags | os.O_TRUNC, _PUBLIC)
        is_new = False
    with os.fdopen(number, "wb") as file:
        if is_new:
            os.fchmod(number, _PUBLIC)
        file.write(content)


def open_to_append(path: str) -> int:
    """Open a file for lines at its end; a new one can be read by its owner and group alone.

    Returns:
        A descriptor that never waits where it is a pipe's.

    Raises:
        OSError: it cannot be opened; ENXIO if it is a pipe that has no reader.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        number = os.open(path, flags | os.O_EXCL, _GROUPS)
    except FileExistsError:
        return os.open(path, flags, _GROUPS)
    os.fchmod(number, _GROUPS)
    return number


def _correct(path: StrPath, mode: int) -> None:
    """Restore the owner's rights that the umask has removed from a new file or folder.

    Another user who may rename entries of its folder cannot redirect this by a link.
    """
    number = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if stat.S_IMODE(os.fstat(number).st_mode) & mode != mode:
            os.chmod(f"/proc/self/fd/{number}", mode)
    finally:
        os.close(number)
