"""Knocks: connections of our own that wake a program up, once for each client that is ready."""

from __future__ import annotations

import asyncio
import logging
import select
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tlsify.wrap.steering import Group

_log = logging.getLogger("tlsify")

_AT_ONCE = struct.pack("=ii", 1, 0)  # struct linger: a reset, which leaves no TIME_WAIT
_PAUSE = 0.1  # seconds before the next attempt, where there is no descriptor or port
_BYTE = b"!"  # sockets with TCP_DEFER_ACCEPT wait for one


class Knock:
    """One connection to a socket of the program, which the program does not get.

    Attributes:
        member: the program's socket.
        port: ours; 0 as long as there is none.
        has_arrived: whether it waits in the program's queue.
    """

    def __init__(self, group: Group, member: socket.socket, known: dict[int, Knock]) -> None:
        """Knock.

        Args:
            group: the sockets at the address.
            member: the program's, to knock at.
            known: all knocks by their ports.
        """
        self._loop = asyncio.get_running_loop()
        self._group = group
        self._known = known
        self._sock: socket.socket | None = None
        self._watched: int | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.member = member
        self.port = 0
        self.has_arrived = self._has_failed = False
        self._begin()

    def _begin(self) -> None:
        self._timer = None
        try:
            self._sock, address = self._group.source(self.member)
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            self.port = self._sock.getsockname()[1]
            self._known[self.port] = self
            self._sock.connect_ex(address)
        except OSError as exc:
            self._try_again(exc)
            return
        self.look()
        if self._sock is not None and not self.has_arrived:
            self._watched = self._sock.fileno()
            self._loop.add_writer(self._watched, self.look)

    def _try_again(self, why: OSError) -> None:
        if not self._has_failed:
            _log.warning("the program could not be told of a connection, retrying: %s", why)
        self._has_failed = True
        self._known.pop(self.port, None)
        self._close()
        self._timer = self._loop.call_later(_PAUSE, self._begin)

    def look(self) -> None:
        """Note that the connection has been made, if it has: on loopback that is at once."""
        if self._sock is None or self.has_arrived:
            return
        try:
            self._sock.send(_BYTE)
            self.has_arrived = True
        except BlockingIOError:
            return
        except OSError as exc:  # the program has closed its socket, for instance
            self._try_again(exc)
            return
        self._watch_no_more()

    def withdraw(self) -> None:
        """End the connection; what waits in the program's queue stays there."""
        self.look()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._close()
        if not self.has_arrived:
            self._known.pop(self.port, None)

    def end(self) -> None:
        """Note that it was taken out of the queue."""
        self.has_arrived = False
        self._known.pop(self.port, None)
        self._close()

    def _close(self) -> None:
        self._watch_no_more()
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()

    def _watch_no_more(self) -> None:
        if self._watched is not None:
            self._loop.remove_writer(self._watched)
            self._watched = None


def take(
    member: socket.socket, known: dict[int, Knock], admit: Callable[[socket.socket, object], object]
) -> Iterator[Knock]:
    """Take what waits in the queue of a program's socket, one by one.

    Args:
        member: the program's socket, whose flags are the program's, too.
        known: knocks, by their ports.
        admit: called with a client that has come to the program's socket, and its address.

    Returns:
        The knocks.
    """
    poller = select.poll()
    poller.register(member, select.POLLIN)
    while poller.poll(0):  # whether it blocks is the program's to decide
        try:
            found, name = member.accept()
        except OSError:
            return
        if (knock := known.get(name[1])) is None:
            admit(found, name)
        else:
            found.close()
            knock.end()
            yield knock
