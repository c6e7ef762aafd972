"""Passages: data of relayed connections, between their clients and the pairs of a program."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from functools import partial
from typing import TYPE_CHECKING

from tlsify.aio.pump import Carriage, buffer
from tlsify.config import ClosePolicy
from tlsify.connection.ending.closing import Closing
from tlsify.connection.ending.forks import known
from tlsify.connection.ending.patience import Patience, has_died, unacknowledged, unread
from tlsify.connection.plain import Plain
from tlsify.errors import ResourceError, Truncated
from tlsify.logs.access import ending
from tlsify.metrics.counters import Event, count
from tlsify.wrap.relay.names import Names

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any, TypeAlias

    from tlsify.connection.handoff import Handoff
    from tlsify.logs.access import Visit
    from tlsify.wrap.notifications import Notifications
    from tlsify.wrap.relay.pair import OurEnd
    from tlsify.wrap.threads import Threads

    Make: TypeAlias = Callable[[], Coroutine[Any, Any, tuple[OurEnd, socket.socket]]]
    Serve: TypeAlias = Callable[["ProgramEnd"], Coroutine[Any, Any, None]]
    Task: TypeAlias = asyncio.Future[None]


_log = logging.getLogger("tlsify")

# Seconds between looks: whether a program has read, by calls that are not asked about, what came in
# front of a cut; and whether a client has gone whose data has ended.
_FIRST_LOOK, _LAST_LOOK = 0.02, 1.0


class ProgramEnd:
    """The program's end of a pair: what it has instead of the connection itself.

    The supervisor holds it, too, so the kernel does not end it where the program does: as for a
    connection of the kernel's, the supervisor decides how it has ended.

    Attributes:
        sock: a duplicate.
        channel: None: no record of TLS comes here.
        cut: why the client's data has ended, if in no good order, and reads are to fail there.
        is_whole: whether it has ended in good order, and reads are to end there, come what may.
        was_read: done once the program has read by a call that is asked about.
        delivered: done once the program has it, with what returns whether all reads are asked
            about.
    """

    channel = None
    cut: Exception | None = None
    is_whole = False

    def __init__(self, sock: socket.socket, ours: OurEnd) -> None:
        """Use both ends, which are another's to close."""
        self.sock = sock
        self.delivered: asyncio.Future[Callable[[], bool]] = asyncio.Future()
        self.was_read: asyncio.Future[None] = asyncio.Future()
        self._ours = ours
        self._is_over = False

    def serve_until_data(self, flags: int) -> bool:
        """Return whether data is next; False at its end (`Channel.serve_until_data`).

        Raises:
            BlockingIOError: nothing is there.
            TlsifyError, OSError: the client's stream was cut.
        """
        if not self.was_read.done():
            self.was_read.set_result(None)
        try:
            if self.sock.recv(1, flags | socket.MSG_PEEK):
                return True
        except ConnectionResetError:  # the client has gone behind its end
            if not self.is_whole:
                raise
        if self.cut is not None:
            raise self.cut.with_traceback(None)
        return False

    def shutdown(self) -> None:
        """End the program's data in good order."""
        self._is_over = True
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        """End it in no good order, behind what was sent, unless it has ended before."""
        if not self._is_over:
            self._ours.is_cut = True
            self.shutdown()


class Passages:
    """All relayed connections of a program.

    Attributes:
        names: for its processes.
    """

    def __init__(self, notifications: Notifications, threads: Threads) -> None:
        """Begin without any."""
        self.names = Names(notifications, threads)
        self._scratch = buffer()
        self._is_short = False

    async def serve(self, client: Handoff, make: Make, visit: Visit, serve: Serve) -> None:
        """Carry a connection's data until both sides have ended.

        Args:
            client: whose records are not the kernel's; it is closed here, or aborted.
            make: makes a pair (`pair.make`).
            visit: is told how much was carried, and how the client has ended.
            serve: gives the program its end, and lasts until the program has ended it.

        Raises:
            ResourceError: there can be no pair.
            OSError: the connection broke; or what ``serve`` raises.
        """
        ours, theirs = await self._make_pair(make)
        with contextlib.closing(theirs), contextlib.ExitStack() as stack:
            stack.callback(ours.close)
            if (carrier := client.relay) is not None:
                names = known(carrier.local_address), known(carrier.peer_address)
                stack.callback(self.names.forget, self.names.add(theirs, *names))
            closing = Closing(ClosePolicy.STRICT, None)
            carriage = Carriage(client, Plain(ours), closing, self._scratch, visit.traffic)
            end = ProgramEnd(theirs, ours)
            await _Passage(client, ours, end, carriage).carry(serve(end), visit)

    async def _make_pair(self, make: Make) -> tuple[OurEnd, socket.socket]:
        try:
            made = await make()
        except OSError as exc:
            failure = ResourceError(exc, "the connection cannot be relayed")
            count(Event.SHORTAGE)
            _log.log(logging.INFO if self._is_short else logging.WARNING, "%s", failure)
            self._is_short = True
            raise failure from exc
        self._is_short = False
        return made


class _Passage:
    """One connection, and what is done as one of its sides ends."""

    def __init__(
        self, client: Handoff, ours: OurEnd, theirs: ProgramEnd, carriage: Carriage
    ) -> None:
        self._client, self._ours, self._theirs = client, ours, theirs
        self._carriage = carriage
        self._is_untold = False  # the client has gone, and the program finds out when it writes
        self._inbound = asyncio.ensure_future(carriage.inbound())
        self._outbound = asyncio.ensure_future(carriage.outbound())

    async def carry(self, program: Coroutine[Any, Any, None], visit: Visit) -> None:
        """Carry both directions.

        Args:
            program: lasts until the program has ended its side.
            visit: is told if the client's has been cut.

        Raises:
            As ``program``.
        """
        serving = asyncio.ensure_future(program)
        try:
            lost = await self._loss(serving, self._inbound, self._outbound)
            if lost is not None:
                visit.end = ending(lost)
            if isinstance(lost, Truncated) and await self._can_tell(serving):
                self._theirs.cut = lost
                Plain(self._ours).shutdown()
                lost = await self._loss(serving, self._outbound)
            if lost is None:
                await self._finish()
            else:
                await self._break_off(serving, lost)
            await serving
        except BaseException:
            self._client.abort()
            raise
        finally:
            await _stop(serving, self._inbound, self._outbound)

    async def _loss(self, serving: Task, *flows: Task) -> BaseException | None:
        """Wait for an end; return what the client was lost by, or None: the program has ended."""
        left, pause = set(flows), _FIRST_LOOK
        while not serving.done():
            # Nothing else tells of a client that has gone behind the end of its data.
            is_quiet = left == {self._outbound} and not self._is_untold
            waiting, timeout = {serving, *left}, pause if is_quiet else None
            await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            for each in [each for each in left if each.done()]:
                left.remove(each)
                if (error := each.exception()) is not None and not serving.done():
                    return error
            self._theirs.is_whole |= self._inbound.done() and not self._inbound.exception()
            is_gone, pause = is_quiet and self._has_gone(), min(2 * pause, _LAST_LOOK)
            is_broken = self._outbound.done() and not self._ours.has_ended
            if (is_gone or is_broken) and not serving.done():
                return ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        return None

    def _has_gone(self) -> bool:
        """Return whether the client has, and the program still finds an end as it was."""
        if not has_died(self._client.sock) or not self._theirs.delivered.done():
            return False
        self._is_untold = not self._are_reads_asked()
        return not self._is_untold

    def _are_reads_asked(self) -> bool:
        """Return whether the program has the connection, and reads it by calls that are."""
        return self._theirs.delivered.done() and self._theirs.delivered.result()()

    async def _can_tell(self, serving: Task) -> bool:
        """Return whether the program's reads can be failed, so that it may go on writing.

        Otherwise its side has to be reset: such an end must never look like a good one, and does to
        a program whose reads are not asked about. It shows when it reads, and may move the
        connection to another number before.
        """
        delivered, was_read, pause = self._theirs.delivered, self._theirs.was_read, _FIRST_LOOK
        waited: set[asyncio.Future[Any]] = {serving, delivered}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        waited = {serving, was_read, self._outbound}  # the last ends where the client leaves, too
        while not any(each.done() for each in waited) and unread(self._theirs.sock):
            if has_died(self._client.sock):  # nobody is left to be answered
                return False
            await asyncio.wait(waited, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            pause = min(2 * pause, _LAST_LOOK)
        return self._are_reads_asked()

    async def _finish(self) -> None:
        """Deliver what the program has left, if its client takes that; then end the connection."""
        await _stop(self._inbound)
        discarding = asyncio.ensure_future(self._carriage.discard())
        await _wait(self._outbound, self._client.sock)
        await _stop(discarding, self._outbound)
        if (
            not self._outbound.cancelled()
            and not self._outbound.exception()
            and self._ours.has_ended
        ):
            self._client.close()
        else:
            self._client.abort()

    async def _break_off(self, serving: Task, lost: BaseException) -> None:
        """End a lost client's connection, and reset the program's side.

        What either has sent before is delivered: the client may have ended its own direction alone.
        """
        if isinstance(lost, Truncated):
            await _wait(self._outbound, self._client.sock, partial(self._is_drained, serving))
        await _stop(self._inbound, self._outbound)
        self._client.abort()
        await _wait(serving, self._ours, lambda: not unacknowledged(self._ours))
        self._ours.close()

    def _is_drained(self, serving: Task) -> bool:
        """Return whether all that a running program has sent is on its way to the client."""
        is_sent = not unacknowledged(self._theirs.sock) and not unread(self._ours)
        return is_sent and not serving.done()


async def _wait(
    task: Task, sock: socket.socket, is_done: Callable[[], bool] = lambda: False
) -> None:
    """Wait for a task, or for something else, as long as a peer takes data."""
    patience = Patience(sock)
    while not (task.done() or is_done() or patience.is_over()):
        await asyncio.wait({task}, timeout=patience.pause())


async def _stop(*tasks: Task) -> None:
    for each in tasks:
        each.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
