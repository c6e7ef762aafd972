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

# Bytes of one read: many, since each read costs a turn of Python, whose code is no longer in the
# processor's nearest cache when the data of the turn before has gone through it.
READ_SIZE = 2**19
ROOM_SIZE = READ_SIZE + ROOM_BEYOND
# Rooms that are kept for later turns, of any connection.
SPARE_ROOMS = 8
# The send buffer of a socketpair, which a connection has for itself.
_PAIR_BUFFER = 2**18


class Flow(Enum):
    """State of one direction."""

    READING = "reading"
    DISCARDING = "discarding"  # received and dropped: only the end is of interest
    DRAINING = "draining"  # no longer received, but not yet all passed on
    DONE = "done"


def program_pair() -> tuple[socket.socket, socket.socket]:
    """Make the socketpair between a program and its relay; a small buffer will do.

    Raises:
        OSError: no descriptor is to be had.
    """
    pair = socket.socketpair()
    for end_ in pair:
        with suppress(OSError):
            end_.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PAIR_BUFFER)
    return pair


def mask(*, read: bool, write: bool) -> int:
    """Return the events for poll."""
    return (select.POLLIN if read else 0) | (select.POLLOUT if write else 0)


def end(sock: socket.socket, flow: Flow) -> Flow:
    """End a flow that has been drained, with a half-close.

    Raises:
        OSError: the other end is closed.
    """
    if flow is not Flow.DRAINING:
        return flow
    sock.shutdown(socket.SHUT_WR)
    return Flow.DONE


rooms: list[RecordBuffer] = []


def enter() -> RecordBuffer:
    """Borrow a buffer, for as long as it holds data."""
    try:
        return rooms.pop()
    except IndexError:
        return RecordBuffer(ROOM_SIZE)


def leave(room: RecordBuffer) -> None:
    """Return a buffer to the pool, if it is one of its size."""
    if len(rooms) < SPARE_ROOMS and len(room.view) == ROOM_SIZE:
        rooms.append(room)


class Load:
    """Bytes on their way to one side, in a room that is held only while there are any.

    Attributes:
        received: bytes received for this side, in total.
        taken: bytes taken on, in total.
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
        """Receive and translate data into an empty load; return the number of bytes received.

        Raises:
            BlockingIOError: no data is there.
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
        """Bytes sent on, in total."""
        return self.taken - len(self)

    def take_on(self, fill: Callable[[RecordBuffer], int]) -> None:
        """Fill an empty load: the call writes into a room, and returns the number of bytes."""
        room = enter()
        self._start, self._end = 0, fill(room)
        self.taken += self._end
        if self._end:
            self._room = room
        else:
            leave(room)

    def hold(self, records: bytes) -> None:
        """Take on what is there already, in an empty load: it may be more than a room has."""
        if records:
            self._room = RecordBuffer(len(records))
            self._room.view[:] = records
            self._start, self._end = 0, len(records)
            self.taken += len(records)

    def send(self, sock: socket.socket) -> None:
        """Send all.

        Raises:
            BlockingIOError: the rest has to wait.
            OSError: the other end is closed.
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
