"""Bytes on their way through a relay, in its two directions, in rooms that all relays share."""

from __future__ import annotations

import select
import socket
from contextlib import suppress
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

from tlsify.tls.room import RecordBuffer
from tlsify.tls.tunnel import ROOM_BEYOND

if TYPE_CHECKING:
    from collections.abc import Callable

# What one read takes: much, since it costs a turn, and no more than stays in a processor's cache.
READ_SIZE = 2**18
ROOM_SIZE = READ_SIZE + ROOM_BEYOND
# Rooms that are kept for the next turn, whoever's it is.
SPARE_ROOMS = 8


class Flow(Enum):
    """One direction: taken in, no longer taken in but not yet all passed on, over."""

    READING = "reading"
    DISCARDING = "discarding"  # taken in, for nobody: only how it ends is of interest
    DRAINING = "draining"
    DONE = "done"


def program_pair() -> tuple[socket.socket, socket.socket]:
    """Make the socketpair between a program and its relay; a small buffer will do.

    Raises:
        OSError: no descriptor is to be had.
    """
    pair = socket.socketpair()
    for end_ in pair:
        with suppress(OSError):
            end_.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, READ_SIZE)
    return pair


def mask(*, read: bool, write: bool) -> int:
    """Return the events for poll."""
    return (select.POLLIN if read else 0) | (select.POLLOUT if write else 0)


def end(sock: socket.socket, flow: Flow) -> Flow:
    """End a flow that has been drained, with a half-close.

    Raises:
        OSError: nobody is there any more.
    """
    if flow is not Flow.DRAINING:
        return flow
    sock.shutdown(socket.SHUT_WR)
    return Flow.DONE


rooms: list[RecordBuffer] = []


def enter() -> RecordBuffer:
    """Get a buffer, for as long as it holds data."""
    try:
        return rooms.pop()
    except IndexError:
        return RecordBuffer(ROOM_SIZE)


def leave(room: RecordBuffer) -> None:
    """Return a buffer to the pool."""
    if len(rooms) < SPARE_ROOMS:
        rooms.append(room)


class Load:
    """Bytes on their way to one side. There is a room for them as long as there are any.

    Attributes:
        received: how many bytes have come in for it, ever.
        taken: how many it has taken on, ever.
    """

    def __init__(self) -> None:
        self.received = self.taken = 0
        self._room: RecordBuffer | None = None
        self._start = self._end = 0

    def __len__(self) -> int:
        return self._end - self._start

    def receive(
        self, sock: socket.socket, translate: Callable[[memoryview, RecordBuffer], int]
    ) -> int:
        """Take on what has come, translated, once there is nothing; return how many bytes it was.

        Raises:
            BlockingIOError: nothing has come.
            OSError: the connection has died.
        """
        room = enter()
        try:
            size = sock.recv_into(room.view, READ_SIZE, socket.MSG_DONTWAIT)
            self.received += size
            if size:
                self.take_on(partial(translate, room.view[:size]))
        finally:
            leave(room)
        return size

    @property
    def sent(self) -> int:
        """How many bytes have left it, ever."""
        return self.taken - len(self)

    def take_on(self, fill: Callable[[RecordBuffer], int]) -> None:
        """Have some written, once there are none; the call is told where, and tells how many."""
        room = enter()
        self._start, self._end = 0, fill(room)
        self.taken += self._end
        if self._end:
            self._room = room
        else:
            leave(room)

    def send(self, sock: socket.socket) -> None:
        """Send all.

        Raises:
            BlockingIOError: the rest has to wait.
            OSError: nobody is there any more.
        """
        while self._room is not None:
            piece = self._room.view[self._start : self._end]
            self._start += sock.send(piece, socket.MSG_DONTWAIT)
            if self._start == self._end:
                self.drop()

    def drop(self) -> None:
        """Drop the contents."""
        if self._room is not None:
            leave(self._room)
        self._room = None
        self._start = self._end = 0
