"""Accept on the loop: handshakes, and connections that are served after them."""

from __future__ import annotations

import asyncio
import functools
import logging
from typing import TYPE_CHECKING, TypeAlias

from tlsify.aio.admission import Admission, Arrival
from tlsify.aio.handshake import hand_over
from tlsify.aio.outcomes import FAILURES, USUAL, count_cut, name_of, outcome
from tlsify.config import KtlsPolicy
from tlsify.connection.establish import drop_past_keys
from tlsify.connection.relay import threads
from tlsify.connection.setup.eligibility import host_refusal
from tlsify.errors import ConfigError, TlsifyError
from tlsify.logs import messages
from tlsify.metrics.counters import Event, Gauge, change, count, handshake_took
from tlsify.status import roster

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Sequence

    from tlsify.aio.limits import Limits
    from tlsify.aio.pending import PendingHandshake
    from tlsify.config import ServerConfig
    from tlsify.connection.handoff import Handoff

    Serve: TypeAlias = Callable[[Handoff], Awaitable[None]]

_log = logging.getLogger("tlsify")

_CHORE_PAUSE = 600.0  # seconds


class Acceptor(Admission):
    """Accepts on listening sockets, does the handshakes, and has each connection served.

    Attributes:
        stranger: answers clients that speak no TLS (`tls.engine.Engine`); None: by an alert.
        is_inline: whether `pump.carry` or a transport carries the data, which needs no thread.
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
        super().__init__(listeners, limits)
        self.stranger: Callable[[bytes], bytes] | None = None
        self.is_inline = False
        self._serve = serve
        self._config = config
        self._policy = policy or KtlsPolicy()
        self._is_short = False
        self._chore: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Begin to accept."""
        super().begin()
        self._do_chores()

    def stop(self) -> None:
        """Accept no more, at once, also while the loop is not running; connections go on."""
        super().stop()
        if self._chore is not None:
            self._chore.cancel()

    def reload(self, config: ServerConfig) -> None:
        """Replace the configuration; handshakes under way keep theirs."""
        self._config = config

    def _do_chores(self) -> None:
        """Do periodic work: past ticket keys must be dropped even without new connections."""
        drop_past_keys()
        self._chore = asyncio.get_running_loop().call_later(_CHORE_PAUSE, self._do_chores)

    # A thread for relays is there before a handshake is, and as long as any is under way.

    @functools.cached_property
    def _takes_threads(self) -> bool:
        return not self.is_inline and host_refusal(self._policy) is not None

    def _accept(self, listener: socket.socket) -> bool:
        try:
            return super()._accept(listener)
        finally:
            self._spare_thread()

    def _provide(self, listener: socket.socket) -> None:
        super()._provide(listener)
        if self._takes_threads:
            threads.hold(self)

    def _leave_opening(self, opening: PendingHandshake) -> None:
        super()._leave_opening(opening)
        self._spare_thread()

    def _spare_thread(self) -> None:
        if not (self._opening or self.keeps_thread):
            threads.let_go(self)

    async def _attend(self, arrival: Arrival) -> None:
        messages.peer.set(arrival.name)
        handed = await self._open(arrival)
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

    async def _open(self, arrival: Arrival) -> Handoff | None:
        try:
            seconds = await self._learn_name(arrival, self._config.timeout)
            if seconds is None:
                return None
            sock, stranger, is_inline = arrival.opening.sock, self.stranger, self.is_inline
            handed = await hand_over(
                sock, self._config, self._policy, seconds, stranger, is_inline=is_inline
            )
        except FAILURES as exc:
            self._note_failure(arrival, exc)
            return None
        except asyncio.CancelledError:
            self._note_eviction(arrival)
            raise
        finally:
            self._leave_opening(arrival.opening)
        self._is_short = False
        took = self._admitted(arrival)
        handshake_took(took)
        return handed

    def _note_eviction(self, arrival: Arrival) -> None:
        kind, why = Event.HANDSHAKE_ABANDONED, "the server ends"
        if arrival.is_evicted:
            kind, why = Event.HANDSHAKE_EVICTED, "its handshake has stalled"
            _log.log(messages.NOTICE, "connection refused: %s", why)
        count(kind)
        self.refused(arrival.name, name_of(kind), why, arrival.age())

    def _note_failure(self, arrival: Arrival, exc: Exception) -> None:
        """Count why there is no connection; where it is for want of something, others wait."""
        kind = outcome(exc)
        count(kind)
        level = logging.INFO if kind in USUAL else messages.NOTICE
        if isinstance(exc, ConfigError):  # the client has no part in that
            level = logging.WARNING
        elif kind is Event.HANDSHAKE_RESOURCES:
            self._leave_opening(arrival.opening)  # others are to make room
            level = logging.INFO if self._is_short else logging.WARNING
            self._is_short = True
            self._pause_for_want()
        what = "%s" if kind is Event.HANDSHAKE_ACME_CHALLENGE else "connection refused: %s"
        _log.log(level, what, exc)
        self.refused(arrival.name, name_of(kind), exc, arrival.age())
