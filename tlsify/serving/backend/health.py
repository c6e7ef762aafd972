"""Health checks: whether backends take connections, or answer a request, asked again and again."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from tlsify.aio.outcomes import FAILURES
from tlsify.aio.transport import begin
from tlsify.connection.plain import Plain
from tlsify.errors import BackendError
from tlsify.metrics.counters import Event, count
from tlsify.system.os_errors import explain

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tlsify.connection.handoff import Handoff
    from tlsify.serving.backend.address import Backend
    from tlsify.serving.backend.choice import Backends

    # Connects to a backend within some seconds, as for a client.
    Connect: TypeAlias = Callable[[Backend, float], Awaitable[Handoff | Plain]]

_log = logging.getLogger("tlsify")

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([23])[0-9][0-9][ \r\n]")
_LONGEST = 2**10


class Checks(NamedTuple):
    """Settings of health checks.

    Attributes:
        path: to ask for by HTTP; None if a connection is enough.
        interval: seconds between two checks of a backend.
        rise: successes in a row after which a backend is up again.
        fall: failures in a row after which it is down.
        seconds: limit of a check.
    """

    path: str | None
    interval: float = 2.0
    rise: int = 2
    fall: int = 3
    seconds: float = 5.0


class HealthChecks:
    """Checks each backend of a worker, and tells `Backends` of changes."""

    def __init__(self, backends: Backends, connect: Connect, checks: Checks) -> None:
        """Store what does not change.

        Args:
            backends: told of what is found; nothing else has them up again from here on.
            connect: makes a connection.
            checks: what to ask for, and when.
        """
        self._backends = backends
        self._connect = connect
        self._checks = checks
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self) -> None:
        """Begin to check."""
        self._backends.is_checked = True
        backends = self._backends.known()
        self._tasks = [asyncio.create_task(self._watch(backend)) for backend in backends]

    async def end(self) -> None:
        """Check no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _watch(self, backend: Backend) -> None:
        successes = failures = 0
        while True:
            failure = await self._check(backend)
            if failure is None:
                count(Event.HEALTH_CHECK_OK)
                # A client may have found it down since the last one.
                successes = successes + 1 if self._backends.is_down(backend) else 0
                failures = 0
                if successes >= self._checks.rise:
                    self._backends.rise(backend)
            else:
                count(Event.HEALTH_CHECK_FAILED)
                successes, failures = 0, failures + 1
                if failures >= self._checks.fall:
                    self._backends.fall(backend, failure)
            await asyncio.sleep(self._checks.interval)

    async def _check(self, backend: Backend) -> str | None:
        """Return what is wrong with a backend; None if nothing is."""
        try:
            async with asyncio.timeout(self._checks.seconds):
                with await self._connect(backend, self._checks.seconds) as connection:
                    if self._checks.path is not None:
                        await _ask(connection, backend, self._checks.path)
        except TimeoutError:
            return f"no answer to a health check within {self._checks.seconds:g} s"
        except OSError as exc:
            return explain(exc)
        except (*FAILURES, BackendError) as exc:
            return str(exc)
        except Exception as exc:  # noqa: BLE001 - nothing else has a backend up again
            _log.exception("bug in a health check")
            return repr(exc)
        return None


async def _ask(connection: Handoff | Plain, backend: Backend, path: str) -> None:
    """Ask for a path by HTTP.

    Raises:
        BackendError: the answer is none, or not of the statuses 200 to 399.
        OSError: the connection broke.
    """
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=_LONGEST)
    protocol = asyncio.StreamReaderProtocol(reader)
    if isinstance(connection, Plain):
        transport, _ = await loop.create_connection(lambda: protocol, sock=connection.sock)
    else:
        transport, _ = begin(lambda: protocol, connection)
    host = backend.host or "localhost"
    host = f"[{host}]" if ":" in host else host
    try:
        transport.write(
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        )
        line = await reader.readuntil(b"\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as exc:
        raise BackendError("no answer by HTTP to a health check") from exc
    finally:
        transport.abort()
    if _STATUS_LINE.match(line) is None:
        told = line[:80].decode("ascii", "backslashreplace").strip()
        raise BackendError(f"it answers a health check with {told!r}")
