"""Folders, files and sockets: made with the mode that is meant, checked for their owner."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from tlsify.errors import ConfigError

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


def is_own(state: os.stat_result, forbidden: int = stat.S_IRWXG | stat.S_IRWXO) -> bool:
    """Return whether a file or folder is this user's, and other users have no forbidden access."""
    return state.st_uid == os.geteuid() and not state.st_mode & forbidden


def open_private(folder: StrPath, what: str, *, is_link_followed: bool = False) -> int:
    """Open a folder that no other user can read or change.

    Args:
        folder: its path.
        what: its name in the message.
        is_link_followed: whether a link may stand for the folder.

    Returns:
        A descriptor: what is done in that folder is done there even if its name changes.

    Raises:
        ConfigError: it is another user's, or open to other users.
        OSError: it cannot be opened.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    number = os.open(folder, flags if is_link_followed else flags | os.O_NOFOLLOW)
    if is_own(os.fstat(number)):
        return number
    os.close(number)
    raise ConfigError(
        f"{what} {folder} is not private",
        hint=f"it must be yours and of mode 0700: chmod 700 {folder}",
    )


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
