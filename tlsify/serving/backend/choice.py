"""Backends: the choice of one that takes a connection, and what to do while none does."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from typing import TYPE_CHECKING, TypeVar

from tlsify.aio.outcomes import FAILURES
from tlsify.errors import BackendError, DeadlineExceeded, ResourceError
from tlsify.metrics.counters import Event, count
from tlsify.serving.backend.order import Balance, Order
from tlsify.system.os_errors import explain

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tlsify.serving.backend.address import Backend
    from tlsify.serving.backend.routes import Rule, Traits

T = TypeVar("T")
_log = logging.getLogger("tlsify")
# The message is not about the client whose connection shows it.
_OURS = {"peer": None}

# Seconds to wait before all backends are tried again; doubled each time, up to the second value.
_PAUSE, _LONGEST_PAUSE = 0.02, 1.0
# Seconds for which a backend that has failed is asked after the others.
_REST = 10.0
# What may pass by itself; any other error is an answer, and will be the same in a moment.
_PASSING = {
    errno.EAGAIN, errno.EINTR, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM,
    socket.EAI_AGAIN,
}  # fmt: skip


class Backends:
    """Finds a backend that takes a connection.

    One that has failed is tried after the others, apart from one connection every some seconds,
    until it has been reached again, or, with health checks, until these have it up again. If all
    fail, it begins anew after a pause for as long as that may help: until the time is over, or not
    at all where each of them has refused.

    Attributes:
        is_checked: whether there are health checks.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        timeout: float,
        retry: float = 0,
        balance: Balance = Balance.FIRST,
    ) -> None:
        """Store the backends.

        Args:
            rules: the first that fits decides; the last must fit all.
            timeout: seconds within which a connection has to be taken. In each round a backend
                has an equal part of it.
            retry: seconds for which backends are asked again although each of them has refused,
                since one may be on its way back.
            balance: which is tried first.
        """
        self.is_checked = False
        self._rules = tuple(rules)
        self._timeout = timeout
        self._retry = retry
        self._down: dict[Backend, float] = {}  # until when each is tried after the others
        self._order = Order(balance)

    async def reach(
        self,
        traits: Traits,
        attempt: Callable[[Backend, float], Awaitable[T]],
    ) -> tuple[Backend, T]:
        """Deliver a connection to a backend, which has it until `leave`.

        Args:
            traits: of the connection.
            attempt: does it within some seconds; one of `outcomes.FAILURES` says that this backend
                cannot, and a BackendError that no other backend may be tried.

        Returns:
            The backend, and the result of the attempt that succeeded.

        Raises:
            BackendError: no backend took it in time.
        """
        backends = next(rule.backends for rule in self._rules if rule.fits(traits))
        loop = asyncio.get_running_loop()
        began, pause = loop.time(), _PAUSE
        failures: dict[Backend, Exception] = {}  # the last of each
        while True:
            for backend in self._order.of(backends, self._resting()):
                left = began + max(self._timeout, self._retry) - loop.time()
                if left <= 0 and failures:
                    break  # a limit of ours is no fault of theirs
                if backend in self._down:  # the next connection need not wait for this one
                    self._rest(backend)
                try:
                    with self._order.trying(backend):
                        found = await attempt(backend, min(self._timeout / len(backends), left))
                except FAILURES as exc:
                    failures[backend] = exc
                    self.fall(backend, _told(exc))
                except BackendError as exc:
                    self.fall(backend, str(exc))
                    raise
                else:
                    if not self.is_checked:
                        self.rise(backend)
                    return backend, found
            may_pass = any(map(_may_pass, failures.values()))
            patience = self._timeout if may_pass else self._retry
            if loop.time() + pause >= began + patience:
                told = (
                    f"{name} took no connection: {_told(failures[name])}"
                    for name in backends
                    if name in failures
                )
                raise BackendError("; ".join(dict.fromkeys(told)))
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def leave(self, backend: Backend) -> None:
        """Count the end of a connection that was delivered."""
        self._order.leave(backend)

    def state(self) -> dict[str, bool]:
        """Return the backends by name, and whether each is up, as far as this process knows."""
        return {str(backend): backend not in self._down for backend in self.known()}

    def known(self) -> list[Backend]:
        """Return all backends, each once."""
        return list(dict.fromkeys(each for rule in self._rules for each in rule.backends))

    def is_down(self, backend: Backend) -> bool:
        """Return whether a backend is tried after the others."""
        return backend in self._down

    def _resting(self) -> list[Backend]:
        """Return the backends that are asked after the others."""
        now = time.monotonic()
        return [each for each, until in self._down.items() if self.is_checked or now < until]

    def _rest(self, backend: Backend) -> None:
        self._down[backend] = time.monotonic() + _REST

    def fall(self, backend: Backend, failure: str) -> None:
        """Note that a backend takes no connections."""
        if backend not in self._down:
            self._rest(backend)
            count(Event.BACKEND_DOWN)
            _log.warning("backend %s takes no connections: %s", backend, failure, extra=_OURS)

    def rise(self, backend: Backend) -> None:
        """Note that a backend takes connections."""
        if backend in self._down:
            del self._down[backend]
            _log.warning("backend %s takes connections again", backend, extra=_OURS)


def _may_pass(exc: Exception) -> bool:
    if isinstance(exc, OSError):
        return isinstance(exc, TimeoutError) or exc.errno in _PASSING
    return isinstance(exc, DeadlineExceeded | ResourceError)


def _told(exc: Exception) -> str:
    return explain(exc) if isinstance(exc, OSError) else str(exc)
