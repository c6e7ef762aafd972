"""Backends: routes by ALPN and server name, and backends that are tried in order."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from tlsify.addresses import Address
from tlsify.aio import dialing
from tlsify.errors import BackendError, ConfigError
from tlsify.names import to_ascii
from tlsify.system.os_errors import explain

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

T = TypeVar("T")
_log = logging.getLogger("tlsify")
# The message is not about the client whose connection shows it.
_OURS = {"peer": None}

_SNI = "sni:"
# Seconds to wait before all backends are tried again; doubled each time, up to the second value.
_PAUSE, _LONGEST_PAUSE = 0.02, 1.0
# What may pass by itself; any other error is an answer, and will be the same in a moment.
_PASSING = {
    errno.EAGAIN, errno.EINTR, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM,
    socket.EAI_AGAIN,
}  # fmt: skip


class Backend(Address):
    """An address; whether data or descriptors are sent there is the service's affair."""

    async def connect(self, seconds: float) -> socket.socket:
        """Connect a stream.

        Args:
            seconds: limit for it.

        Returns:
            A non-blocking socket.

        Raises:
            OSError: the backend is absent or overloaded, or it takes too long.
        """
        if self.path:
            return self.connect_here(socket.SOCK_STREAM)
        return await dialing.connect(self.host, self.port, seconds)

    def connect_here(self, kind: socket.SocketKind) -> socket.socket:
        """Connect to a path.

        Done without the loop: it takes a full queue (EAGAIN), where nothing can be waited for, for
        a connection that is on its way.

        Raises:
            OSError: the backend is absent, or overloaded.
        """
        sock = socket.socket(socket.AF_UNIX, kind)
        try:
            sock.settimeout(0)
            path = self.path
            sock.connect("\0" + path[1:] if path.startswith("@") else path)
        except BaseException:
            sock.close()
            raise
        return sock


def parse_several(text: str) -> tuple[Backend, ...]:
    """Read backends with commas between them, the most wanted first.

    Raises:
        ConfigError: one of them is none.
    """
    return tuple(Backend.to_connect(each) for each in text.split(","))


class Rule(NamedTuple):
    """Which connections go to other backends.

    Attributes:
        alpn: protocol; None for any.
        server_name: in lower case; ``*.`` stands for one label. None for any.
        backends: where they go.
    """

    alpn: bytes | None
    server_name: str | None
    backends: tuple[Backend, ...]

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Read ``PROTOCOL=BACKEND`` or ``sni:NAME=BACKEND``.

        Raises:
            ConfigError: it is neither.
        """
        what, equals, where = text.partition("=")
        is_name = what.startswith(_SNI)
        value = what.removeprefix(_SNI) if is_name else what
        if not equals or not value:
            raise ConfigError(
                f'"{text}" is not a route', hint="write PROTOCOL=BACKEND or sni:NAME=BACKEND"
            )
        if is_name:
            return cls(None, to_ascii(value).lower().removesuffix("."), parse_several(where))
        return cls(value.encode(errors="surrogateescape"), None, parse_several(where))

    def fits(self, alpn: bytes | None, server_name: str | None) -> bool:
        """Return whether it is about such a connection."""
        if self.alpn is not None:
            return alpn == self.alpn
        if self.server_name is None or server_name is None:
            return self.server_name is None
        name = server_name.lower().removesuffix(".")
        if self.server_name.startswith("*."):
            return name.partition(".")[2] == self.server_name[2:]
        return name == self.server_name


class Backends:
    """Finds a backend that takes a connection.

    Backends are tried in the order in which they are named; one that has failed is tried after the
    others until it has been reached again. If all fail, it begins anew after a pause for as long
    as that may help: until the time is over, or not at all where each of them has refused.
    """

    def __init__(self, rules: Sequence[Rule], timeout: float, retry: float = 0) -> None:
        """Store the backends.

        Args:
            rules: the first that fits decides; the last must fit all.
            timeout: seconds within which a connection has to be taken. In each round a backend
                has an equal part of it.
            retry: seconds for which backends are asked again although each of them has refused,
                since one may be on its way back.
        """
        self._rules = tuple(rules)
        self._timeout = timeout
        self._retry = retry
        self._down: set[Backend] = set()

    async def reach(
        self,
        alpn: bytes | None,
        server_name: str | None,
        attempt: Callable[[Backend, float], Awaitable[T]],
    ) -> T:
        """Deliver a connection to a backend.

        Args:
            alpn: of the connection.
            server_name: likewise.
            attempt: does it within some seconds; an OSError says that this backend cannot, and a
                BackendError that no other backend may be tried.

        Returns:
            Result of the attempt that succeeded.

        Raises:
            BackendError: no backend took it in time.
        """
        backends = next(rule.backends for rule in self._rules if rule.fits(alpn, server_name))
        loop = asyncio.get_running_loop()
        began, pause = loop.time(), _PAUSE
        failures: dict[Backend, OSError] = {}  # the last of each
        while True:
            for backend in sorted(backends, key=self._down.__contains__):
                left = began + max(self._timeout, self._retry) - loop.time()
                if left <= 0 and failures:
                    break  # a limit of ours is no fault of theirs
                try:
                    found = await attempt(backend, min(self._timeout / len(backends), left))
                except OSError as exc:
                    failures[backend] = exc
                    self._failed(backend, explain(exc))
                except BackendError as exc:
                    self._failed(backend, str(exc))
                    raise
                else:
                    self._succeeded(backend)
                    return found
            may_pass = any(map(_may_pass, failures.values()))
            patience = self._timeout if may_pass else self._retry
            if loop.time() + pause >= began + patience:
                told = (
                    f"{name} took no connection: {explain(failures[name])}"
                    for name in backends
                    if name in failures
                )
                raise BackendError("; ".join(dict.fromkeys(told)))
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _failed(self, backend: Backend, failure: str) -> None:
        if backend not in self._down:
            self._down.add(backend)
            _log.warning("backend %s takes no connections: %s", backend, failure, extra=_OURS)

    def _succeeded(self, backend: Backend) -> None:
        if backend in self._down:
            self._down.discard(backend)
            _log.warning("backend %s takes connections again", backend, extra=_OURS)


def _may_pass(exc: OSError) -> bool:
    return isinstance(exc, TimeoutError) or exc.errno in _PASSING
