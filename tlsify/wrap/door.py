"""A door: an address where a wrapped program listens, and its clients on their way in."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import socket
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from tlsify.connection.ending.forks import inode
from tlsify.connection.polling import receive_limit
from tlsify.logs import messages
from tlsify.logs.access import CLEAN, ending, visiting
from tlsify.wrap.descriptor import Descriptor
from tlsify.wrap.holders import Hold
from tlsify.wrap.knock import Knock, take
from tlsify.wrap.process_memory import encode_address, write_address
from tlsify.wrap.relay import pair
from tlsify.wrap.relay.passage import Passages, ProgramEnd
from tlsify.wrap.waiting import WaitingCalls

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlsify.aio.acceptor import Acceptor
    from tlsify.connection.handoff import Handoff
    from tlsify.logs.access import AccessLog
    from tlsify.wrap.descriptor import Given
    from tlsify.wrap.notifications import Call, Notifications
    from tlsify.wrap.numbers import Numbers
    from tlsify.wrap.steering import Group
    from tlsify.wrap.threads import Thread, Threads

_log = logging.getLogger("tlsify")

_KNOWN_FLAGS = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.EBADF}


class Lobby(NamedTuple):
    """What all doors have in common.

    Attributes:
        notifications: to answer calls.
        threads: that call.
        numbers: for connections' descriptors.
        delivered: called with each connection that the program gets.
        passages: of relayed connections.
        access_log: gets a line for each.
        delivering: connections that the program has or has just ended; of shut doors, too.
    """

    notifications: Notifications
    threads: Threads
    numbers: Numbers
    delivered: Callable[[Descriptor], None]
    passages: Passages
    access_log: AccessLog | None
    delivering: set[asyncio.Task[Any]]


class _Arrival(NamedTuple):
    """A client after its handshake."""

    handed: Given
    name: tuple[Any, ...]
    delivered: asyncio.Future[Descriptor]


class _NoListener(ConnectionRefusedError):
    """The program listens no more where a client is ready."""

    def __init__(self) -> None:
        super().__init__(errno.ECONNREFUSED, "the program stopped listening")


class Door:
    """One address: its sockets, clients that are ready, and calls that wait for some.

    Attributes:
        members: the program's sockets, by inode.
        acceptor: does the handshakes.
    """

    def __init__(
        self, lobby: Lobby, group: Group, theirs: socket.socket, acceptor: Callable[..., Acceptor]
    ) -> None:
        """Open it.

        Args:
            lobby: shared.
            group: the sockets at the address.
            theirs: a duplicate of the program's socket, in the group.
            acceptor: makes what accepts, of listening sockets and what serves a connection.
        """
        self._lobby = lobby
        self.group = group
        self.members = {inode(theirs): theirs}
        self._ready: deque[_Arrival] = deque()
        self._knocks: dict[_Arrival, Knock] = {}
        self._known: dict[int, Knock] = {}
        self._waiting = WaitingCalls(lobby.notifications)
        self._waits_at: dict[int, int] = {}  # members, by the threads that wait
        self._turn = 0
        self.acceptor = acceptor([group.ours], self.serve)
        self.acceptor.begin()

    def join(self, theirs: socket.socket, backlog: int) -> None:
        """Have another socket of the program listen here.

        Raises:
            OSError: as ``listen``.
        """
        self.group.join(theirs, backlog)
        self.members[inode(theirs)] = theirs

    def leave(self, member: int) -> bool:
        """Forget a socket that the program has closed; return whether it was the last.

        Then the door is shut: clients that are ready have nobody to serve them.
        """
        sock = self.members.pop(member)
        asyncio.get_running_loop().remove_reader(sock)
        for tid in [tid for tid, at in self._waits_at.items() if at == member]:
            del self._waits_at[tid]
            if (call := self._waiting.take(tid)) is not None:
                self._lobby.notifications.fail(call, errno.EINVAL)
        orphans = [arrival for arrival, knock in self._knocks.items() if knock.member is sock]
        for arrival in orphans:
            self._knocks.pop(arrival).withdraw()
        self.group.leave(sock)
        if self.members:
            for arrival in orphans:
                self._knock(arrival)
            return False
        self.acceptor.stop()
        for arrival in list(self._ready):
            self._ready.remove(arrival)
            arrival.delivered.cancel()
        for call in self._waiting.take_all():
            self._lobby.notifications.fail(call, errno.EINVAL)
        return True

    def look(self, member: int) -> None:
        """See whether the program has set other options on a socket: no call tells of that."""
        self.group.inheritance.look(self.members[member])

    # -- clients

    async def serve(self, handed: Handoff) -> None:
        """Have the program take a connection, and wait until it has ended (`Acceptor`)."""
        task = asyncio.current_task()

        async def attend(given: Given) -> None:
            try:
                descriptor = await self._deliver(given)
                if isinstance(given, ProgramEnd):
                    given.delivered.set_result(descriptor.are_reads_asked)
                if task is not None:
                    self._lobby.delivering.add(task)
                    task.add_done_callback(self._lobby.delivering.discard)
                try:
                    if (error := await descriptor.ended) is not None and visit.end == CLEAN:
                        visit.end = ending(error)
                finally:
                    descriptor.let_go()
                # Also where the program has the descriptor still: a signal has interrupted `close`.
                await descriptor.say_goodbye()
            except BaseException:  # what was cut must not look complete
                given.abort()
                raise

        with visiting(self._lobby.access_log, handed) as visit:
            if handed.channel is None:
                make = partial(pair.make, self.group.place.family, self.group.inheritance.prepare)
                await self._lobby.passages.serve(handed, make, visit, attend)
            else:
                visit.traffic = None  # the program's affair
                await attend(handed)

    async def _deliver(self, handed: Given) -> Descriptor:
        if not self.members:
            raise _NoListener
        name: Any = messages.peer.get()
        arrival = _Arrival(handed, name, asyncio.get_running_loop().create_future())
        self._ready.append(arrival)
        while (call := self._waiting.first()) is not None:
            self._waiting.forget(call.tid)
            if self._give(call, arrival, self._waits_at[call.tid]):
                break
        else:
            self._knock(arrival)
        try:
            return await arrival.delivered
        except asyncio.CancelledError:
            if arrival.delivered.cancelled():
                raise _NoListener from None
            raise
        finally:
            if arrival in self._ready:  # cancelled: the server ends
                self._ready.remove(arrival)
            if (knock := self._knocks.pop(arrival, None)) is not None:
                knock.withdraw()

    def _knock(self, arrival: _Arrival) -> None:
        """Wake up the program: one socket after the other, where it has several."""
        self._turn += 1
        members = list(self.members.values())
        member = members[self._turn % len(members)]
        self._knocks[arrival] = Knock(self.group, member, self._known)

    # -- calls

    def accept(self, call: Call, member: int) -> None:
        """Answer a call that accepts.

        Args:
            call: ``accept`` or ``accept4``.
            member: the inode of the socket that it is about.
        """
        sock = self.members[member]
        if _flags(call) & ~_KNOWN_FLAGS:
            self._lobby.notifications.fail(call, errno.EINVAL)
        elif self._ready:
            self._give(call, self._ready[0], member)
        else:
            for _ in take(sock, self._known, self.acceptor.admit):
                pass  # of clients that others have taken, or that have gone
            if fcntl.fcntl(sock, fcntl.F_GETFL) & os.O_NONBLOCK:
                self._lobby.notifications.fail(call, errno.EAGAIN)
            else:
                self._waiting.add(call, receive_limit(sock))
                self._waits_at[call.tid] = member
                # The program does not look: a client that comes to its own socket is let in here.
                asyncio.get_running_loop().add_reader(sock, self._look, sock)

    def _look(self, sock: socket.socket) -> None:
        if not self._waiting:
            self._waits_at.clear()
            asyncio.get_running_loop().remove_reader(sock)
            return
        for found in take(sock, self._known, self.acceptor.admit):
            self._repeat(found)

    def _give(self, call: Call, arrival: _Arrival, member: int) -> bool:
        """Give a call a client that is ready; return whether the program has it now."""
        notifications = self._lobby.notifications
        try:
            thread = self._lobby.threads.of(call.tid)
            address = encode_address(self.group.place.family, arrival.name)
            write_address(notifications, call, thread, address)
            self.group.inheritance.pass_on(self.members[member], arrival.handed.sock)
            number = self._hand_over(call, thread, arrival)
        except ProcessLookupError:
            return False
        except OSError as exc:
            full = exc.errno in _NO_ROOM
            notifications.fail(call, errno.EMFILE if full else exc.errno or errno.EACCES)
            return False
        if number is None:
            return False
        # The program has it: first see to its end, whatever goes wrong with the rest.
        self._ready.remove(arrival)
        descriptor = Descriptor(arrival.handed, notifications, Hold(thread.pid, number))
        arrival.delivered.set_result(descriptor)
        self._lobby.delivered(descriptor)
        return True

    def _hand_over(self, call: Call, thread: Thread, arrival: _Arrival) -> int | None:
        flags, ours = _flags(call), arrival.handed.sock.fileno()
        os.set_blocking(ours, not flags & socket.SOCK_NONBLOCK)
        free = self._lobby.numbers.free(thread)
        if free is None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        close_on_exec = bool(flags & socket.SOCK_CLOEXEC)
        # The knock goes first: a program that finds it afterwards comes to accept once more.
        was_told, number = self._take_back(arrival), None
        try:
            number = self._lobby.notifications.give(call, ours, free, close_on_exec=close_on_exec)
        finally:
            if number is None and was_told:
                self._knock(arrival)
        return number

    def _take_back(self, arrival: _Arrival) -> bool:
        """Take the knock of a client out of the program's queue; return whether there was one.

        Others that are met on the way there are repeated.
        """
        knock = self._knocks.pop(arrival, None)
        if knock is None:
            return False
        knock.look()
        if knock.has_arrived:
            for found in take(knock.member, self._known, self.acceptor.admit):
                if found is knock:
                    break
                self._repeat(found)
        knock.withdraw()
        return True

    def _repeat(self, knock: Knock) -> None:
        for arrival, each in list(self._knocks.items()):
            if each is knock:
                each.withdraw()
                self._knock(arrival)


def _flags(call: Call) -> int:
    return call.arguments[3] if call.name == "accept4" else 0
