"""Listeners of an agent: a socket in a private folder, or one end of an inherited pair."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
from typing import TYPE_CHECKING

from tlsify.errors import ConfigError, said, unusable
from tlsify.system.listening import is_left_over
from tlsify.system.modes import bind, make_private, open_private

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BACKLOG = 4096


class Listener:
    """A listening socket in a folder of the caller's own.

    Attributes:
        sock: AF_UNIX, SOCK_SEQPACKET.
    """

    def __init__(self, path: Path) -> None:
        """Listen, in the place of an agent that has died, but not of one that lives.

        Args:
            path: of the socket. Its folder is made if there is none, and none above it.

        Raises:
            ConfigError: the folder is not private, an agent lives there, or nothing can be made.
        """
        self._path = path
        self._withdrawn = False
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            make_private(path.parent)
            with _alone_in(path.parent):
                _clear(path)
                bind(self.sock, os.fspath(path))
                self._identity = _identity(path)
                self.sock.listen(_BACKLOG)
        except (OSError, ValueError) as exc:
            self.sock.close()
            hint = "name a socket, by a path of at most 107 bytes, in a folder of your own"
            raise unusable(f"cannot listen at {path}", exc, hint) from exc
        except ConfigError:
            self.sock.close()
            raise

    def withdraw(self) -> None:
        """Stop taking sessions: another agent may replace this one. Waiting sessions are served.

        A signal's handler may call it, in the middle of itself.
        """
        if self._withdrawn:
            return
        self._withdrawn = True
        with contextlib.suppress(OSError, ConfigError), _alone_in(self._path.parent):
            if _identity(self._path) == self._identity:
                self._path.unlink()
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RD)


@contextlib.contextmanager
def _alone_in(path: Path) -> Iterator[None]:
    """Lock out other agents that start or end in the same folder, and check that it is private.

    Raises:
        ConfigError: other users may change its contents.
        OSError: it cannot be opened.
    """
    folder = open_private(path, "the folder", is_link_followed=True)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _identity(path: Path) -> tuple[int, int]:
    state = path.lstat()
    return state.st_dev, state.st_ino


def _clear(path: Path) -> None:
    """Remove the socket of an agent that has died.

    Raises:
        ConfigError: it lives, or this is something else.
        OSError: it cannot be removed.
    """
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ConfigError(
                f"{path} exists and is no socket", hint="name another place for the agent's socket"
            )
    except FileNotFoundError:
        return
    if not is_left_over(path, socket.SOCK_SEQPACKET):
        raise ConfigError(f"an agent is already running at {path}", hint="use it, or stop it first")
    path.unlink()


class Inherited:
    """Our end of a socketpair that the caller made.

    Attributes:
        sock: AF_UNIX, SOCK_SEQPACKET.
    """

    def __init__(self, number: int) -> None:
        """Take over a descriptor.

        Raises:
            ConfigError: it is no such thing.
        """
        try:
            self.sock = socket.socket(fileno=number)
        except OSError as exc:
            raise ConfigError(
                f"descriptor {number} is no socket: {said(exc)}",
                hint="pass one end of a socketpair",
            ) from exc
        if not _is_channel(self.sock):
            self.sock.detach()  # the caller's, and nothing of ours
            raise ConfigError(
                f"descriptor {number} is no connected AF_UNIX socket of type SOCK_SEQPACKET",
                hint="pass one end of a socketpair",
            )
        self.sock.set_inheritable(False)
        self.sock.settimeout(None)

    def withdraw(self) -> None:
        """Stop taking sessions. Waiting sessions are still served."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RD)


def _is_channel(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return sock.family == socket.AF_UNIX and sock.type == socket.SOCK_SEQPACKET
