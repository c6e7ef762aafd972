"""Challenges for other servers with the same folder: an authority may meet any of them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import TYPE_CHECKING

from tlsify.acme import board as boards
from tlsify.renewal.web import Deadline
from tlsify.system.modes import own_alone

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tlsify.acme.board import Board
    from tlsify.renewal.folder import Folder

_PENDING, _SERVERS = ".pending.json", ".servers"
# Seconds for other servers to notice, which look every three; between two looks of one that has;
# and for which it follows, in case that the first hangs.
_NOTICE, _PACE, _LONGEST = 5.0, 0.25, 600.0


class Sharing:
    """What is pending, on this server's board and in the folder.

    Attributes:
        board: this server's.
    """

    def __init__(self, folder: Folder, board: Board) -> None:
        """Store what does not change."""
        self.board = board
        self._folder = folder
        self._presence = -1

    def join(self) -> None:
        """Show other servers, for as long as this process or a fork of it lives, that there is one.

        Raises:
            OSError: there can be no lock in the folder, and so no renewal.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        with contextlib.ExitStack() as undone:
            presence = os.open(self._folder.path / _SERVERS, flags, 0o600)
            undone.callback(os.close, presence)
            own_alone(presence)
            fcntl.flock(presence, fcntl.LOCK_SH)
            undone.pop_all()
        self._presence = presence

    def _is_alone(self) -> bool:
        """Return whether no other server has the folder: then our lock can be an exclusive one.

        On a network's disk a fork has none of its parent's locks, and so is never alone.
        """
        if self._presence == -1:
            return True
        try:
            fcntl.flock(self._presence, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        finally:
            fcntl.flock(self._presence, fcntl.LOCK_SH)
        return True

    def publish(self, tls: Mapping[str, bytes], http: Mapping[str, str]) -> None:
        """Publish what is pending, as `Board` has it, and give other servers time to notice.

        Raises:
            TlsifyError: there is no room for so many.
            OSError: the folder takes none.
        """
        text = boards.encode(tls, http)
        self._folder.write(_PENDING, text)
        self.board.show(text)
        if not self._is_alone():
            time.sleep(_NOTICE)

    def clear(self) -> None:
        """Have nothing pending."""
        self.board.clear()
        with contextlib.suppress(OSError):
            self._folder.remove(_PENDING)

    def watch(self) -> object:
        """Return a value that changes when another server publishes something."""
        try:
            state = (self._folder.path / _PENDING).stat()
        except OSError:
            return None
        return state.st_ino, state.st_mtime_ns

    def follow(self) -> None:
        """Show what another server has pending, which has locked the folder, until it has not.

        Raises:
            OSError: the folder cannot be read.
        """
        deadline, shown = Deadline(_LONGEST), b""
        with contextlib.suppress(TimeoutError):
            while deadline.left():
                with self._folder.locked() as is_free:
                    if is_free:
                        break
                text = self._folder.read(_PENDING) or b""
                if text != shown:
                    shown = text
                    self.board.show(text)
                time.sleep(_PACE)
        self.board.clear()
