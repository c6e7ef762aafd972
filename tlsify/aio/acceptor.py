"""Accept on the loop: concurrent handshakes, limits, and drain."""

from __future__ import annotations

import asyncio
import errno
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeAlias

from tlsify.aio import proxy_header
from tlsify.aio.handshake import hand_over
from tlsify.aio.limits import Limits, Origins
from tlsify.aio.outcomes import FAILURES, count_cut, name_of, outcome
from tlsify.aio.pending import PendingHandshake, PendingHandshakes, origin
from tlsify.connection.establish import drop_past_keys
from tlsify.errors import ConfigError, TlsifyError
from tlsify.logs import messages
from tlsify.metrics.counters import Event, Gauge, change, count, handshake_took
from tlsify.passing import proxies
from tlsify.status import roster

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Sequence

    from tlsify.config import KtlsPolicy, ServerConfig
    from tlsify.connection.handoff import Handoff
    from tlsify.passing.proxies import Proxies
    from tlsify.passing.proxy_protocol import Header

    Serve: TypeAlias = Callable[[Handoff], Awaitable[None]]
    Refused: TypeAlias = Callable[[object, str, object, float], None]

_log = logging.getLogger("tlsify")

_ACCEPT_PAUSE, _CHORE_PAUSE = 0.1, 600.0  # seconds
# With health checks, port scans, and browsers that begin without TLS.
_USUAL = {Event.HANDSHAKE_TRUNCATED, Event.HANDSHAKE_BROKEN, Event.HANDSHAKE_PLAIN_HTTP}
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
class _Visit:
    opening: PendingHandshake
    name: object
    is_proxied: bool
    is_handed: bool = False
    is_evicted: bool = False


class Acceptor:
    """Accepts on listening sockets, does the handshakes, and has each connection served.

    If descriptors or memory run out it pauses, and new connections wait in the queue: other
    processes that listen on the same socket may accept them meanwhile.

    A flood of connections with stalled handshakes keeps no client out for long: once
    all places for handshakes are taken, one that has been silent for two seconds makes room for
    each newcomer, first of those from the address that has the most.

    Attributes:
        refused: told of clients that are refused, as `AccessLog.refused`.
        is_crowded: whether there is no room for more, here or in other acceptors of this process.
        proxies: whose connections begin with a PROXY header; None: nobody's.
        stranger: answers clients that speak no TLS (`tls.engine.Engine`); None: by an alert.
    """

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        serve: Serve,
        config: ServerConfig,
        policy: KtlsPolicy | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Prepare to accept; ``async with`` begins, and ends as ``drain(0)`` does.

        Args:
            listeners: bound and listening; they belong to the acceptor from here on.
            serve: lasts for as long as the connection that it is given; if it is cancelled, the
                connection has to go. What it leaves open is closed.
            config: for handshakes that begin from now on (`reload`).
            policy: when to offload; AUTO if None.
            limits: how many there may be; those of `Limits` if None.
        """
        self.refused: Refused = lambda *_: None
        self.is_crowded: Callable[[], bool] = lambda: False
        self.proxies: Proxies | None = None
        self.stranger: Callable[[bytes], bytes] | None = None
        self._listeners = list(listeners)
        self._serve = serve
        self._config = config
        self._policy = policy
        self._limits = limits or Limits()
        self._visits: dict[asyncio.Task[None], _Visit] = {}
        self._opening: dict[PendingHandshake, asyncio.Task[None]] = {}
        self._half_open = PendingHandshakes()
        self._origins = Origins(self._limits.per_address)
        self._loop: asyncio.AbstractEventLoop | None = None  # since `begin`
        self._is_listening = self._is_failing = self._is_short = False
        self._resumption: asyncio.TimerHandle | None = None
        self._chore: asyncio.TimerHandle | None = None

    @property
    def connections(self) -> int:
        """Number of open connections, handshakes included."""
        return len(self._visits)

    async def __aenter__(self) -> Self:
        """Begin to accept."""
        self.begin()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop accepting, and end all connections at once."""
        await self.drain(0)

    def begin(self) -> None:
        """Begin to accept."""
        self._loop = asyncio.get_running_loop()
        for listener in self._listeners:
            listener.settimeout(0)
        self._listen()
        self._do_chores()

    def stop(self) -> None:
        """Accept no more, at once, also while the loop is not running; connections go on."""
        self._rest()
        if self._chore is not None:
            self._chore.cancel()
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    def reload(self, config: ServerConfig) -> None:
        """Replace the configuration; handshakes under way keep theirs."""
        self._config = config

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
        if not self._visits:
            return
        evicting = asyncio.create_task(self._evict_stalled())
        _, late = await asyncio.wait(self._visits, timeout=seconds)
        evicting.cancel()
        for task in late:
            if self._visits[task].is_handed:
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

    def _do_chores(self) -> None:
        """Do periodic work: past ticket keys must be dropped even without new connections."""
        drop_past_keys()
        self._chore = asyncio.get_running_loop().call_later(_CHORE_PAUSE, self._do_chores)

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
            sock, name = listener.accept()
        except BlockingIOError:  # another process was quicker
            return False
        except OSError as exc:
            if exc.errno not in _GONE:
                count(Event.ACCEPT_FAILED)
                if not self._is_failing:
                    _log.warning("accept() failed, retrying in 0.1 s: %s", exc)
                self._is_failing = True
                self._rest(_ACCEPT_PAUSE)
            return False
        self._is_failing = False
        self.admit(sock, name)
        return True

    def admit(self, sock: socket.socket, name: object) -> None:
        """Serve a connection that was accepted, here or on a socket that is not ours."""
        count(Event.ACCEPTED)
        is_proxied = self.proxies is not None and self.proxies.has(name)
        where = origin(name)
        if self._origins.enter(where, is_proxy=is_proxied):
            loop = asyncio.get_running_loop()
            visit = _Visit(PendingHandshake(sock, where, loop.time()), name, is_proxied)
            task = loop.create_task(self._visit(visit))
            self._visits[task] = visit
            self._enter_handshake(visit.opening, task)
            task.add_done_callback(self._ended)
        else:
            self._refuse(name)
            sock.close()

    def _refuse(self, name: object) -> None:
        count(Event.REFUSED_PER_ADDRESS)
        why = f"its address has reached its limit of connections ({self._limits.per_address})"
        _log.log(messages.NOTICE, "connection refused: %s", why, extra={"peer": name})
        self.refused(name, "per_address", why, 0.0)

    def _has_room(self) -> bool:
        """Return whether a place is free; take one from a stalled handshake if necessary."""
        limits, is_crowded = self._limits, self.is_crowded()
        if is_crowded or (
            limits.connections is not None and len(self._visits) >= limits.connections
        ):
            event = Event.FULL_OF_CONNECTIONS
        elif len(self._half_open) >= limits.handshakes:
            event = Event.FULL_OF_HANDSHAKES
        else:
            return True
        count(event)
        stalled = self._half_open.stalled(asyncio.get_running_loop().time(), pressing=True)
        if not isinstance(stalled, PendingHandshake):
            self._rest(_ACCEPT_PAUSE if is_crowded else stalled)
            return False
        self._evict(stalled)
        if event is Event.FULL_OF_CONNECTIONS:
            self._rest()  # which it is until that task has run
            return False
        return True

    def _evict(self, opening: PendingHandshake) -> None:
        task = self._opening[opening]
        self._visits[task].is_evicted = True
        task.cancel()
        self._leave_handshake(opening)

    # -- one connection

    def _enter_handshake(self, opening: PendingHandshake, task: asyncio.Task[None]) -> None:
        self._opening[opening] = task
        self._half_open.enter(opening)
        change(Gauge.HANDSHAKES, 1)

    def _leave_handshake(self, opening: PendingHandshake) -> None:
        if self._half_open.leave(opening):
            del self._opening[opening]
            change(Gauge.HANDSHAKES, -1)

    def _ended(self, task: asyncio.Task[None]) -> None:
        visit = self._visits.pop(task)
        sock, where, _ = visit.opening
        self._leave_handshake(visit.opening)
        self._origins.leave(where)
        if not visit.is_handed:
            sock.close()  # one that was cancelled before it began has closed nothing
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("bug in a connection", exc_info=error)
        self._look_again()

    def _look_again(self) -> None:
        """Something has ended: there may be room, unless it is descriptors that we wait for."""
        waits = self._is_failing and self._resumption is not None
        if not self._is_listening and self._listeners and not waits:
            self._listen()

    async def _visit(self, visit: _Visit) -> None:
        messages.peer.set(visit.name)
        handed = await self._open(visit)
        if handed is None:
            return
        change(Gauge.CONNECTIONS, 1)
        try:
            with handed, roster.listed(handed):
                await self._serve(handed)
        except (TlsifyError, OSError) as exc:
            _log.info("connection ended: %s", exc)
        finally:
            count_cut(handed)
            change(Gauge.CONNECTIONS, -1)

    async def _open(self, visit: _Visit) -> Handoff | None:
        try:
            sock, stranger, seconds = visit.opening.sock, self.stranger, self._config.timeout
            if visit.is_proxied:
                header = await proxy_header.receive(sock, seconds)
                seconds -= self._age(visit)
                if not self._learn(visit, header):
                    return None
            handed = await hand_over(sock, self._config, self._policy, seconds, stranger)
        except FAILURES as exc:
            self._note_failure(visit, exc)
            return None
        except asyncio.CancelledError:
            self._note_eviction(visit)
            raise
        finally:
            self._leave_handshake(visit.opening)
        visit.is_handed, self._is_short = True, False
        took = self._age(visit)
        self._half_open.took(took)
        handshake_took(took)
        self._look_again()
        return handed

    def _learn(self, visit: _Visit, header: Header) -> bool:
        """Know a client behind a proxy by its own address; return whether it is within limits."""
        if header.peer is None:  # the connection is the proxy's own
            return True
        visit.name = header.peer
        messages.peer.set(header.peer)
        proxies.told.set(header)
        before, now = visit.opening, asyncio.get_running_loop().time()
        task = self._opening[before]
        self._leave_handshake(before)
        self._origins.leave(before.origin)
        where = origin(header.peer)
        is_within = self._origins.enter(where)
        visit.opening = PendingHandshake(before.sock, where if is_within else None, now)
        self._enter_handshake(visit.opening, task)
        if not is_within:
            self._refuse(visit.name)
        return is_within

    def _note_eviction(self, visit: _Visit) -> None:
        kind, why = Event.HANDSHAKE_ABANDONED, "the server ends"
        if visit.is_evicted:
            kind, why = Event.HANDSHAKE_EVICTED, "its handshake has stalled"
            _log.log(messages.NOTICE, "connection refused: %s", why)
        count(kind)
        self.refused(visit.name, name_of(kind), why, self._age(visit))

    def _age(self, visit: _Visit) -> float:
        return asyncio.get_running_loop().time() - visit.opening.since

    def _note_failure(self, visit: _Visit, exc: Exception) -> None:
        """Count why there is no connection; where it is for want of something, others wait."""
        kind = outcome(exc)
        count(kind)
        level = logging.INFO if kind in _USUAL else messages.NOTICE
        if isinstance(exc, ConfigError):  # the client has no part in that
            level = logging.WARNING
        elif kind is Event.HANDSHAKE_RESOURCES:
            level = logging.INFO if self._is_short else logging.WARNING
            self._is_short = self._is_failing = True
            self._rest(_ACCEPT_PAUSE)
        _log.log(level, "connection refused: %s", exc)
        self.refused(visit.name, name_of(kind), exc, self._age(visit))
