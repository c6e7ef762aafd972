"""Accept connections without TLS on the loop, with the limits and the drain of others."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from tlsify.aio.admission import Admission, Arrival
from tlsify.aio.outcomes import FAILURES, name_of, outcome
from tlsify.connection.plain import Plain
from tlsify.connection.setup.keepalive import keep_alive
from tlsify.errors import TlsifyError
from tlsify.logs import messages
from tlsify.metrics.counters import Gauge, change, count

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Sequence

    from tlsify.aio.limits import Limits

_log = logging.getLogger("tlsify")

_PATIENCE = 5.0  # seconds for the header of a proxy


class PlainAcceptor(Admission):
    """Accepts on listening sockets, and has each connection served at once."""

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        serve: Callable[[Plain], Awaitable[None]],
        limits: Limits | None = None,
    ) -> None:
        """Prepare to accept; arguments are those of `Acceptor`."""
        super().__init__(listeners, limits)
        self._serve = serve

    async def _attend(self, arrival: Arrival) -> None:
        messages.peer.set(arrival.name)
        if not await self._open(arrival):
            return
        self._admitted(arrival)
        sock = arrival.opening.sock
        change(Gauge.CONNECTIONS, 1)
        try:
            with Plain(sock) as plain:
                keep_alive(sock)
                sock.settimeout(0)
                await self._serve(plain)
        except (TlsifyError, OSError) as exc:
            _log.info("connection ended: %s", exc)
        finally:
            change(Gauge.CONNECTIONS, -1)

    async def _open(self, arrival: Arrival) -> bool:
        """Have a proxy tell of its client; return whether that may be served."""
        try:
            return await self._learn_name(arrival, _PATIENCE) is not None
        except FAILURES as exc:
            kind = outcome(exc)
            count(kind)
            _log.log(messages.NOTICE, "connection refused: %s", exc)
            self.refused(arrival.name, name_of(kind), exc, arrival.age())
            return False
        finally:
            self._leave_opening(arrival.opening)
