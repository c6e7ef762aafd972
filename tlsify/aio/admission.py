"""Admit connections on the loop: limits, places for those that are opening, and drain."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import errno
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeAlias

from tlsify.aio import proxy_header
from tlsify.aio.descriptors import SpareDescriptors
from tlsify.aio.limits import Limits, Origins
from tlsify.aio.pending import PendingHandshake, PendingHandshakes, origin
from tlsify.connection.relay import threads
from tlsify.connection.setup.keepalive import keep_alive
from tlsify.errors import ResourceError
from tlsify.logs import messages
from tlsify.metrics.counters import Event, Gauge, change, count
from tlsify.passing import proxies

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from tlsify.passing.proxies import Proxies
    from tlsify.passing.proxy_protocol import Header

    Refused: TypeAlias = Callable[[object, str, object, float], None]

_log = logging.getLogger("tlsify")

_ACCEPT_PAUSE = 0.1  # seconds
# Seconds between two warnings that there is nothing to accept with.
_WARNING_INTERVAL = 60.0
# What accept(2) says of a connection that is gone, rather than of us: it may be called again.
_GONE = {
    errno.ECONNABORTED,
    errno.ENETDOWN,
    errno.EPROTO,
    errno.ENOPROTOOPT,
    errno.EHOSTDOWN,
    errno.ENONET,
    errno.EHOSTUNREACH,
    errno.EOPNOTSUPP,
    errno.ENETUNREACH,
}


@dataclass(eq=False, slots=True)
class Arrival:
    """A connection that was accepted.

    Attributes:
        opening: its place among those that are opening: in their handshakes.
        name: the peer's address, as ``accept`` gives it, or as its proxy tells it.
        is_proxied: whether it begins with a PROXY header.
        is_admitted: whether it has been opened, and is being served.
        is_evicted: whether it has lost its place to another.
    """

    opening: PendingHandshake
    name: object
    is_proxied: bool = False
    is_admitted: bool = False
    is_evicted: bool = False

    def age(self) -> float:
        """Return the seconds since it was accepted."""
        return asyncio.get_running_loop().time() - self.opening.since


class Admission:
    """Accepts on listening sockets, and attends to each connection; `_attend` says how.

    If descriptors, threads or memory run out it pauses, and new connections wait in the queue:
    other processes that listen on the same socket may accept them meanwhile.

    A flood of connections with stalled handshakes keeps no client out for long: once all places for
    handshakes are taken, or all descriptors, the oldest makes room for each newcomer, first of
    those from the address that has the most.

    Attributes:
        refused: told of clients that are refused, as `AccessLog.refused`.
        is_crowded: whether there is no room for more, here or in other acceptors of this process.
        proxies: whose connections begin with a PROXY header; None: nobody's.
        keeps_thread: whether there is a thread for relays as long as connections may be: records
            that a peer has yet to take when its connection is closed are left to it.
    """

    def __init__(self, listeners: Sequence[socket.socket], limits: Limits | None = None) -> None:
        """Prepare to accept; ``async with`` begins, and ends as ``drain(0)`` does.

        Args:
            listeners: bound and listening; they belong to this object from here on.
            limits: how many connections there may be; those of `Limits` if None.
        """
        self.refused: Refused = lambda *_: None
        self.is_crowded: Callable[[], bool] = lambda: False
        self.proxies: Proxies | None = None
        self.keeps_thread = False
        self._listeners = list(listeners)
        self._limits = limits or Limits()
        self._arrivals: dict[asyncio.Task[None], Arrival] = {}
        self._opening: dict[PendingHandshake, asyncio.Task[None]] = {}
        self._half_open = PendingHandshakes()
        self._origins = Origins(self._limits.per_address)
        self._loop: asyncio.AbstractEventLoop | None = None  # since `begin`
        self._is_listening = self._is_failing = False
        self._next_warning = 0.0
        self._spare = SpareDescriptors()
        self._wanted = 0
        self._resumption: asyncio.TimerHandle | None = None

    @property
    def connections(self) -> int:
        """Number of open connections, handshakes included."""
        return len(self._arrivals)

    async def __aenter__(self) -> Self:
        """Begin to accept."""
        self.begin()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop accepting, and end all connections at once."""
        await self.drain(0)

    def begin(self) -> None:
        """Begin to accept; raises OSError, and closes its sockets, if there is no memory for it."""
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        for listener in self._listeners:
            listener.settimeout(0)
            keep_alive(listener)  # its connections have it from there, without a call for each
        if self.keeps_thread:
            with contextlib.suppress(ResourceError):  # the first connection waits for one
                threads.hold(self)
        try:
            self._listen()
        except OSError:
            self.stop()
            raise

    def stop(self) -> None:
        """Accept no more, at once, also while the loop is not running; connections go on."""
        self._rest()
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        self._let_thread_go()

    async def drain(self, seconds: float | None, *, sweep: bool = False) -> None:
        """Stop accepting, and wait for all connections to end.

        Args:
            seconds: after which what there is still is cut off; None waits for ever.
            sweep: first accept the waiting connections, if no other process would.
        """
        if sweep and self._is_listening:
            for listener in self._listeners:
                while self._is_listening and self._accept(listener):
                    pass
        self.stop()
        if not self._arrivals:
            return
        evicting = asyncio.create_task(self._evict_stalled())
        _, late = await asyncio.wait(self._arrivals, timeout=seconds)
        evicting.cancel()
        for task in late:
            if self._arrivals[task].is_admitted:
                count(Event.DRAIN_CUT)
            task.cancel()
        await asyncio.gather(evicting, *late, return_exceptions=True)

    async def _evict_stalled(self) -> None:
        """Let go of stalled handshakes, one after the other: there is an end to wait for."""
        while (found := self._half_open.stalled(asyncio.get_running_loop().time())) is not None:
            if isinstance(found, PendingHandshake):
                self._evict(found)
            else:
                await asyncio.sleep(found)

    # -- when to accept

    def _listen(self) -> None:
        """Start accepting; a no-op if already accepting."""
        self._rest()
        loop = asyncio.get_running_loop()
        for listener in self._listeners:
            loop.add_reader(listener, self._accept, listener)
        self._is_listening = bool(self._listeners)

    def _rest(self, seconds: float | None = None) -> None:
        """Do not accept: for some time, or until something ends."""
        if self._resumption is not None:
            self._resumption.cancel()
            self._resumption = None
        if self._loop is None:
            return
        if self._is_listening:
            for listener in self._listeners:
                self._loop.remove_reader(listener)
            self._is_listening = False
        if seconds is not None:
            self._resumption = self._loop.call_later(seconds, self._listen)

    def _accept(self, listener: socket.socket) -> bool:
        """Accept one connection; return whether there was one, and a place for it.

        One only: the next may be another process's, which has nothing else to do.
        """
        if not self._has_room():
            return False
        try:
            self._provide(listener)
            sock, name = listener.accept()
        except BlockingIOError:  # another process was quicker
            return False
        except (OSError, ResourceError) as exc:
            if getattr(exc, "errno", None) not in _GONE:
                count(Event.ACCEPT_FAILED)
                self._warn(exc)
                self._pause_for_want()
            return False
        self._is_failing = False
        self.admit(sock, name)
        return True

    def _warn(self, exc: Exception) -> None:
        """Log why nothing is accepted, once in a while."""
        now = asyncio.get_running_loop().time()
        if not self._is_failing and now >= self._next_warning:
            self._next_warning = now + _WARNING_INTERVAL
            _log.warning("accept() failed, retrying in 0.1 s: %s", exc)

    def _provide(self, listener: socket.socket) -> None:
        """Make sure that there is what a connection takes, besides its own descriptor.

        Raises:
            OSError: all descriptors are taken, or nearly all.
            ResourceError: no thread is available.
        """
        self._wanted = self._spare.missing(listener)
        if self._wanted:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        if self.keeps_thread:
            threads.hold(self)

    def _let_thread_go(self) -> None:
        if not (self._listeners or self._arrivals):
            threads.let_go(self)

    def admit(self, sock: socket.socket, name: object) -> None:
        """Serve a connection that was accepted, here or on a socket that is not ours."""
        count(Event.ACCEPTED)
        is_proxied = self.proxies is not None and self.proxies.has(name)
        where = origin(name)
        if self._origins.enter(where, is_proxy=is_proxied):
            loop = asyncio.get_running_loop()
            arrival = Arrival(PendingHandshake(sock, where, loop.time()), name, is_proxied)
            # Not that of the connection whose end has had us accept again.
            task = loop.create_task(self._attend(arrival), context=self._context.copy())
            self._arrivals[task] = arrival
            self._enter_opening(arrival.opening, task)
            task.add_done_callback(self._ended)
        else:
            self._refuse(name)
            sock.close()

    def _refuse(self, name: object) -> None:
        count(Event.REFUSED_PER_ADDRESS)
        why = f"its address has reached its limit of connections ({self._limits.per_address})"
        _log.log(messages.NOTICE, "connection refused: %s", why, extra={"peer": name})
        self.refused(name, "per_address", why, 0.0)

    def is_full(self) -> bool:
        """Return whether newcomers have to wait for the end of a connection."""
        most = self._limits.connections
        return self.is_crowded() or (most is not None and len(self._arrivals) >= most)

    def _has_room(self) -> bool:
        """Return whether a place is free; take one from a stalled handshake if necessary."""
        if self.is_full():
            event = Event.FULL_OF_CONNECTIONS
        elif len(self._half_open) >= self._limits.handshakes:
            event = Event.FULL_OF_HANDSHAKES
        else:
            return True
        count(event)
        stalled = self._stalled()
        if not isinstance(stalled, PendingHandshake):
            self._rest(_ACCEPT_PAUSE if self.is_crowded() else stalled)
            return False
        self._evict(stalled)
        if event is Event.FULL_OF_CONNECTIONS:
            self._rest()  # which it is until that task has run
            return False
        return True

    def _stalled(self) -> PendingHandshake | float | None:
        """Find a handshake that makes room for a newcomer, as `PendingHandshakes.stalled`."""
        return self._half_open.stalled(asyncio.get_running_loop().time(), pressing=True)

    def _evict(self, opening: PendingHandshake) -> None:
        task = self._opening[opening]
        self._arrivals[task].is_evicted = True
        task.cancel()
        self._leave_opening(opening)

    # -- one connection

    async def _attend(self, arrival: Arrival) -> None:
        """Open a connection, and serve it until its end."""
        raise NotImplementedError

    async def _learn_name(self, arrival: Arrival, seconds: float) -> float | None:
        """Receive what a proxy tells of its client, if it is to tell; return the seconds left.

        Returns:
            None if the client is refused.

        Raises:
            As `proxy_header.receive`.
        """
        if not arrival.is_proxied:
            return seconds
        header = await proxy_header.receive(arrival.opening.sock, seconds)
        left = seconds - arrival.age()
        return left if header.peer is None or self._rename(arrival, header) else None

    def _rename(self, arrival: Arrival, header: Header) -> bool:
        """Know a client behind a proxy by its own address; return whether it is within limits."""
        arrival.name = header.peer
        messages.peer.set(header.peer)
        proxies.told.set(header)
        before, now = arrival.opening, asyncio.get_running_loop().time()
        task = self._opening[before]
        self._leave_opening(before)
        self._origins.leave(before.origin)
        where = origin(header.peer)
        is_within = self._origins.enter(where)
        arrival.opening = PendingHandshake(before.sock, where if is_within else None, now)
        self._enter_opening(arrival.opening, task)
        if not is_within:
            self._refuse(arrival.name)
        return is_within

    def _enter_opening(self, opening: PendingHandshake, task: asyncio.Task[None]) -> None:
        self._opening[opening] = task
        self._half_open.enter(opening)
        change(Gauge.HANDSHAKES, 1)

    def _leave_opening(self, opening: PendingHandshake) -> None:
        if self._half_open.leave(opening):
            del self._opening[opening]
            change(Gauge.HANDSHAKES, -1)

    def _admitted(self, arrival: Arrival) -> float:
        """Record that a connection is open: it is served from here on; return its age."""
        arrival.is_admitted = True
        took = arrival.age()
        self._half_open.took(took)
        self._look_again()
        return took

    def _ended(self, task: asyncio.Task[None]) -> None:
        arrival = self._arrivals.pop(task)
        sock, where, _ = arrival.opening
        self._leave_opening(arrival.opening)
        self._origins.leave(where)
        if not arrival.is_admitted:
            sock.close()  # one that was cancelled before it began has closed nothing
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("bug in a connection", exc_info=error)
        self._let_thread_go()
        self._look_again()

    def _look_again(self) -> None:
        """Something has ended: there may be room, unless it is descriptors that we wait for."""
        waits = self._is_failing and self._resumption is not None
        if not self._is_listening and self._listeners and not waits:
            self._listen()

    def _pause_for_want(self) -> None:
        """Pause, for want of descriptors, threads or memory: a moment later there may be some.

        Stalled handshakes that give up their own shorten that, once for each newcomer.
        """
        wanted = left = max(self._wanted, 1)
        while left and isinstance(stalled := self._stalled(), PendingHandshake):
            self._evict(stalled)
            left -= 1
        may_suffice = left < wanted and not self._is_failing
        self._is_failing = True
        self._rest(None if may_suffice else _ACCEPT_PAUSE)
