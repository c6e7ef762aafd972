"""A connection that a wrapped program has: what its calls return, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
import struct
import time
from typing import TYPE_CHECKING, cast

from tlsify.connection.ending.forks import inode
from tlsify.connection.ending.linger import never_wait
from tlsify.connection.polling import LowWater, receive_limit
from tlsify.connection.upkeep import Upkeep
from tlsify.errors import TlsifyError
from tlsify.wrap.holders import Hold, has_descriptors, holders, socket_at, waiting
from tlsify.wrap.waiting import WaitingCalls

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import TypeAlias

    from tlsify.connection.control import Channel
    from tlsify.connection.handoff import Handoff
    from tlsify.wrap.notifications import Call, Notifications
    from tlsify.wrap.relay.passage import ProgramEnd

    # What a program is given: a connection itself, or its end of a relayed one.
    Given: TypeAlias = Handoff | ProgramEnd

_LINGER = struct.Struct("=ii")
_RESET = _LINGER.pack(1, 0)
# Seconds between a read of data and the looks at what is behind it, as long as that is more data.
_LOOKS = (0.01, 0.05, 0.25, 1.0)


class Unclosed(ConnectionAbortedError):
    """The program has ended with the connection open, and not in good order."""

    def __init__(self) -> None:
        """Say so."""
        super().__init__(errno.ECONNABORTED, "the program ended without closing it")


class Descriptor:
    """A connection from its delivery to its end; the supervisor holds it, too.

    Reading: the program never meets a control record, which a plain ``read`` cannot return. When it
    reads, those in front of the data are served first; with data next the kernel does the rest.

    Attributes:
        inode: of the socket.
        number: what it was given to the program as.
        hold: where it was seen last.
        held_in: processes that may have a descriptor of it.
        delivered_at: when, as ``time.monotonic`` has it.
        is_copied: whether a call has made another descriptor of it.
        has_no_copy: returns whether it is nowhere but where it was delivered, as far as is known
            without a look at all descriptors.
        ended: done at the end, with what has broken the stream, if anything: the program has closed
            it. `Unclosed` is raised if it has not.
    """

    def __init__(self, handed: Given, notifications: Notifications, hold: Hold) -> None:
        """Begin when it has been delivered."""
        self._loop = asyncio.get_running_loop()
        self._handed = handed
        self._source = cast("Channel | ProgramEnd", handed.channel or handed)
        self._notifications = notifications
        self.number, self.hold = hold.number, hold
        self._ours = handed.sock.fileno()
        self._readers = WaitingCalls(notifications)
        self._low_water = LowWater(handed.sock)
        self._upkeep = None if handed.channel is None else Upkeep(handed.channel, is_new=True)
        self._next_upkeep: asyncio.TimerHandle | None = None
        self._farewell: asyncio.Task[None] | None = None
        self._looks = 0
        self._next_look: asyncio.TimerHandle | None = None
        self._failure: int | None = None
        self._error: Exception | None = None
        self._is_broken = False
        self.inode = inode(handed.sock)
        self.held_in = {hold.pid}
        self.delivered_at = time.monotonic()
        self.is_copied = False
        self.has_no_copy: Callable[[], bool] = lambda: False
        self.ended: asyncio.Future[Exception | None] = self._loop.create_future()
        self._tend()

    # -- reading

    def are_reads_asked(self) -> bool:
        """Return whether all reads are asked about: no process has it by another number."""
        if not self._notifications.reads:
            return False
        try:
            if self.has_no_copy():
                return True
            return {each.number for each in holders(self.inode)} <= {self.number} and not any(
                waiting()
            )
        except OSError:
            return False

    def read(self, call: Call) -> None:
        """Answer a call that reads."""
        try:
            failure = self._prepare()
        except BlockingIOError:
            if self._is_non_blocking(call):
                self._notifications.fail(call, errno.EAGAIN)
            else:
                self._wait(call)
            return
        if failure is None:
            self._notifications.go_on(call)
            if self._handed.channel is not None:
                self._looks = 0
                self._look_later()
        elif failure:
            self._notifications.fail(call, failure)
        else:
            self._notifications.succeed(call, 0)
        if self._upkeep is not None and self._upkeep.is_due and self._next_upkeep is not None:
            self._next_upkeep.cancel()
            self._tend()

    def _prepare(self) -> int | None:
        """Serve control records until data is next.

        Returns:
            None if data is next; else the errno to report, or 0 for the end of the stream.

        Raises:
            BlockingIOError: nothing is there.
        """
        while self._failure is None:
            try:
                if self._source.serve_until_data(socket.MSG_DONTWAIT):
                    self._low_water.fall()
                    return None
                self._failure = 0
            except BlockingIOError:
                if not self._low_water.rise():
                    raise
            except (TlsifyError, OSError) as exc:
                self._error = exc
                number = getattr(exc, "errno", None) or errno.EPIPE
                # TCP calls a reset behind the client's FIN so, which POSIX knows of writes alone.
                self._failure = errno.ECONNRESET if number == errno.EPIPE else number
        return self._failure

    def _is_non_blocking(self, call: Call) -> bool:
        if fcntl.fcntl(self._ours, fcntl.F_GETFL) & os.O_NONBLOCK:
            return True
        if call.name == "preadv2":
            return bool(call.arguments[5] & os.RWF_NOWAIT)
        at = {"recvfrom": 3, "recvmsg": 2, "recvmmsg": 3}.get(call.name)
        return at is not None and bool(call.arguments[at] & socket.MSG_DONTWAIT)

    def _wait(self, call: Call) -> None:
        if not self._readers:
            self._loop.add_reader(self._ours, self._look_again)
        self._readers.add(call, receive_limit(self._handed.sock))

    def _look_again(self) -> None:
        """Something has come: let those who wait look, each anew."""
        calls = self._readers.take_all()
        self._loop.remove_reader(self._ours)
        for call in calls:
            self.read(call)

    # What comes along with data was announced with it. A program that takes a short read for the
    # last, and waits for news then (nginx), would never read on to a control record behind it.

    def _look_later(self) -> None:
        if self._next_look is None and self._looks < len(_LOOKS):
            pause = _LOOKS[self._looks]
            self._next_look = self._loop.call_later(pause, self._look_behind)

    def _look_behind(self) -> None:
        """Serve what the program may not come to read; where that was the end, have it read."""
        self._next_look = None
        self._looks += 1
        try:
            if self._prepare() is None:
                self._look_later()  # a new key has woken it up
                return
        except BlockingIOError:
            return
        with contextlib.suppress(OSError):
            self._handed.sock.shutdown(socket.SHUT_RD)

    # -- ending

    def shut_down(self, call: Call) -> None:
        """Answer ``shutdown``: an end of what the program sends has a close_notify."""
        how = call.arguments[1]
        if how not in {socket.SHUT_WR, socket.SHUT_RDWR}:
            self._notifications.go_on(call)
            return
        self._stop_tending()
        if self._try_to_shut_down() is not None:
            self._farewell = self._loop.create_task(self.say_goodbye())
        if how == socket.SHUT_RDWR:
            try:
                self._handed.sock.shutdown(socket.SHUT_RD)
            except OSError as exc:
                self._notifications.fail(call, exc.errno or errno.ENOTCONN)
                return
        self._notifications.succeed(call)

    def closed_everywhere(self) -> None:
        """End the connection: its only descriptor is about to be closed."""
        self._end(in_order=True)

    def closed(self, hold: Hold, passed_over: Collection[Hold]) -> None:
        """One descriptor is about to be closed: the last one ends the connection.

        How a process ends that has no descriptors any more is not known before `left`.

        Args:
            hold: which.
            passed_over: as `holders` has it.
        """

        def look() -> list[Hold]:
            return [each for each in holders(self.inode, passed_over) if each != hold]

        if not (rest := look()) and (sent := waiting(passed_over)):
            if any(sent):  # to another process, perhaps: `check` looks again
                return
            rest = look()  # it may have been received meanwhile
        others = self.held_in - {hold.pid}
        if rest:
            self._go_on_with(rest)
        elif all(map(has_descriptors, others)):
            self.closed_everywhere()

    def check(self) -> None:
        """See whether the program has closed it by a call that is not asked about, such as exec.

        A process without any descriptors is ending, and `left` will be called.
        """
        if not self._is_held() and all(map(has_descriptors, self.held_in)):
            self._end(in_order=True)

    def left(self, pid: int, *, in_order: bool) -> None:
        """A process that had it has ended: the last one ends the connection.

        If one has been killed, whoever closes the connection later may not know what is missing.

        Args:
            pid: the process.
            in_order: whether that is an end in good order.
        """
        self.held_in.discard(pid)
        self._is_broken |= not in_order
        if self.has_no_copy() or not self._is_held():
            self._end(in_order=True)

    def left_by_all(self, *, in_order: bool) -> None:
        """End the connection: no process is left that could have it."""
        self._end(in_order=in_order)

    def _is_held(self) -> bool:
        """Return whether a process still has it."""
        try:
            if self.ended.done() or socket_at(*self.hold) == self.inode:
                return True
        except PermissionError:
            return True
        rest = list(holders(self.inode))
        if rest:
            self._go_on_with(rest)
        return bool(rest) or any(waiting())

    # -- the sending key

    def _tend(self) -> None:
        """Change the key if that is due, or end the connection where none can follow it."""
        if self._upkeep is None:
            return
        try:
            pause = self._upkeep.look()
        except OSError:  # sending is over, which the program finds out by itself
            return
        except TlsifyError as exc:
            self._finish(exc)
            return
        self._next_upkeep = self._loop.call_later(pause, self._tend)

    def _stop_tending(self) -> None:
        if self._next_upkeep is not None:
            self._next_upkeep.cancel()
            self._next_upkeep = None

    async def say_goodbye(self) -> None:
        """Send close_notify and FIN, behind a change of the key that is under way."""
        pause = self._try_to_shut_down()
        while pause is not None:
            await asyncio.sleep(pause)
            pause = self._try_to_shut_down()

    def _try_to_shut_down(self) -> float | None:
        """Do it, or return after how many seconds to try again."""
        pause = None if self._upkeep is None else self._upkeep.end()
        if pause is None:
            self._handed.shutdown()
        return pause

    def _go_on_with(self, rest: list[Hold]) -> None:
        self.hold = rest[0]
        self.held_in = {each.pid for each in rest}

    def _is_to_be_reset(self) -> bool:
        sock = self._handed.sock
        option = sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER.size)
        return option == _RESET

    def _end(self, *, in_order: bool) -> None:
        is_cut = self._is_broken or self._is_to_be_reset() or not in_order
        self._finish(Unclosed() if is_cut else None)

    def _finish(self, error: Exception | None) -> None:
        if self.ended.done():
            return
        self.let_go()
        never_wait(self._handed.sock)
        if error is None:
            self.ended.set_result(self._error)
        else:
            self.ended.set_exception(error)

    def let_go(self) -> None:
        """Watch the connection no more; calls that still wait get its end."""
        self._looks = len(_LOOKS)
        if self._next_look is not None:
            self._next_look.cancel()
        self._stop_tending()
        if self._readers:
            self._loop.remove_reader(self._ours)
            for call in self._readers.take_all():
                self._notifications.fail(call, errno.ECONNRESET)
