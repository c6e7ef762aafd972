"""Forward connections: their plaintext to a backend, or a descriptor to a backend's worker."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from typing import TYPE_CHECKING, TypeVar

from tlsify.aio.outcomes import count_cut
from tlsify.aio.pump import buffer, carry
from tlsify.aio.watching import watched
from tlsify.config import ClosePolicy, KtlsPolicy
from tlsify.connection.adoption import adopt
from tlsify.connection.ending.closing import Closing
from tlsify.connection.ending.linger import is_owed
from tlsify.connection.plain import Plain
from tlsify.connection.stillness import Bounds
from tlsify.errors import BackendError
from tlsify.keys import wipe
from tlsify.logs.access import PASSED, AccessLog, Visit, outward, visiting
from tlsify.metrics.counters import Event, count
from tlsify.passing import proxy_protocol, proxy_text
from tlsify.passing.metadata import ConnectionInfo, ends, plain_header, text_header
from tlsify.passing.proxy_protocol import MAX_SIZE
from tlsify.serving.backend.health import HealthChecks
from tlsify.serving.backend.routes import Traits
from tlsify.serving.backend.security import Security
from tlsify.status import roster
from tlsify.system import scm_rights

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from tlsify.connection.handoff import Handoff
    from tlsify.serving.backend.address import Backend
    from tlsify.serving.backend.choice import Backends
    from tlsify.serving.backend.health import Checks

T = TypeVar("T")
_NO_BOUNDS = Bounds()


class _Service:
    """Common parts of both: a `serving.Service`."""

    def __init__(
        self,
        backends: Backends,
        closing: ClosePolicy | None,
        bounds: Bounds,
        access_log: AccessLog | None,
    ) -> None:
        """Store what does not change.

        Args:
            backends: where connections go.
            closing: what an end of a TLS stream without close_notify is; None leaves it to the
                protocol.
            bounds: limits for a still connection.
            access_log: gets a line for each connection.
        """
        self._backends = backends
        self._closing = closing
        self._bounds = bounds
        self._access_log = access_log
        self._scratch = buffer()

    async def start(self, _is_full: Callable[[], bool] = lambda: False) -> None:
        """Do nothing: backends may start later than we."""

    def backends(self) -> Mapping[str, bool]:
        """Return which backends are up."""
        return self._backends.state()

    async def drain(self) -> None:
        """Do nothing: only backends know which connections are idle."""

    async def stop(self) -> None:
        """Do nothing."""

    async def _reach(
        self,
        client: Handoff | Plain,
        visit: Visit,
        attempt: Callable[[Backend, float], Awaitable[T]],
    ) -> tuple[Backend, T]:
        async def noted(backend: Backend, seconds: float) -> T:
            visit.more["backend"] = str(backend)
            return await attempt(backend, seconds)

        try:
            return await self._backends.reach(_traits(client), noted)
        except BackendError:
            count(Event.BACKEND_FAILED)
            raise

    async def _carry(
        self,
        client: Handoff | Plain,
        backend: Handoff | Plain,
        visit: Visit,
        greeting: bytes = b"",
    ) -> None:
        alpn = None if isinstance(client, Plain) else client.negotiated.alpn
        work: Awaitable[None] = carry(
            client,
            backend,
            Closing(self._closing, alpn),
            self._scratch,
            visit.traffic,
            is_relaxed=self._closing is ClosePolicy.RELAXED,
            greeting=greeting,
        )
        if isinstance(client, Plain):  # the other side is a server of others
            bounds = Bounds(send=self._bounds.send, may_think=True)
            work = watched(work, backend, bounds, lambda: False)
        await watched(work, client, self._bounds, lambda: _end(client, backend))


class Forwarding(_Service):
    """Carries data between clients and backends, each with TLS or without."""

    def __init__(
        self,
        backends: Backends,
        closing: ClosePolicy | None,
        bounds: Bounds = _NO_BOUNDS,
        access_log: AccessLog | None = None,
        *,
        proxy_version: str | None = None,
        security: Security | None = None,
        checks: Checks | None = None,
    ) -> None:
        """Store what does not change.

        Args:
            backends: where connections go.
            closing: as `_Service` has it.
            bounds: likewise.
            access_log: likewise.
            proxy_version: begin each connection to a backend with a PROXY header of this
                version, 1 or 2.
            security: does the handshakes with backends that speak TLS; None if there are none.
            checks: of the backends' health; None has clients find out.
        """
        super().__init__(backends, closing, bounds, access_log)
        self._proxy_version = proxy_version
        self._security = security or Security({}, KtlsPolicy())
        self._names: asyncio.Future[list[BaseException | None]] | None = None
        self._health: HealthChecks | None = None
        if checks is not None:
            self._health = HealthChecks(backends, self._check, checks)

    async def start(self, _is_full: Callable[[], bool] = lambda: False) -> None:
        """Look names up, and begin to check backends; they may start later than we."""
        names = (each.look_up() for each in self._backends.known())
        self._names = asyncio.gather(*names, return_exceptions=True)  # clients wait for none of it
        if self._health is not None:
            self._health.begin()

    async def stop(self) -> None:
        """Check no more."""
        if self._names is not None:
            self._names.cancel()
            await asyncio.gather(self._names, return_exceptions=True)
        if self._health is not None:
            await self._health.end()

    async def serve(self, client: Handoff | Plain) -> None:
        """Carry one connection until its end.

        Raises:
            BackendError: no backend took it; the client was cut off.
            HandshakeError: one side cut it, or misbehaved; the other was cut off, too.
            OSError: likewise.
        """
        with visiting(self._access_log, client) as visit:
            header = self._header(client)
            alpn = None if isinstance(client, Plain) else client.negotiated.alpn

            async def connect(backend: Backend, seconds: float) -> tuple[Handoff | Plain, bytes]:
                return await self._security.connect(backend, seconds, header, alpn, is_inline=True)

            try:
                chosen, (backend, greeting) = await self._reach(client, visit, connect)
            except BaseException:  # the client must not think that it was served
                client.abort()
                raise
            try:
                await self._carry_to(backend, client, visit, greeting)
            finally:
                self._backends.leave(chosen)

    async def _carry_to(
        self, backend: Handoff | Plain, client: Handoff | Plain, visit: Visit, greeting: bytes
    ) -> None:
        if isinstance(backend, Plain):
            await self._carry(client, backend, visit)
            return
        visit.more.update(outward(backend))
        try:
            with roster.listed(backend):
                await self._carry(client, backend, visit, greeting)
        finally:
            count_cut(backend)

    def _header(self, client: Handoff | Plain) -> bytes:
        if self._proxy_version is None:
            return b""
        if self._proxy_version == "1":
            return text_header(client)
        return (
            plain_header(client)
            if isinstance(client, Plain)
            else ConnectionInfo.of(client).encode()
        )

    async def _check(self, backend: Backend, seconds: float) -> Handoff | Plain:
        """Connect for a check of our own."""
        header = {None: b"", "1": proxy_text.UNKNOWN, "2": proxy_protocol.LOCAL}
        found, _ = await self._security.connect(
            backend, seconds, header[self._proxy_version], is_inline=False
        )
        return found


class _Unconfirmed(BackendError):
    """A worker may have the connection, or find it later: no other may get it."""


class Passing(_Service):
    """Passes descriptors to backends' workers (docs/passing.md)."""

    def __init__(
        self,
        backends: Backends,
        closing: ClosePolicy | None,
        bounds: Bounds = _NO_BOUNDS,
        access_log: AccessLog | None = None,
        *,
        aware: bool = False,
    ) -> None:
        """Store the settings.

        Args:
            backends: the receivers; paths only.
            closing: as `_Service` has it, for what this process carries.
            bounds: likewise.
            access_log: likewise.
            aware: whether backends keep to docs/handoff.md, and so get connections themselves,
                and not one end of a pair whose other end this process has.
        """
        super().__init__(backends, closing, bounds, access_log)
        self._aware = aware

    async def serve(self, handed: Handoff) -> None:
        """Pass one connection on, or one end of it, and carry it until its end.

        Raises:
            As `Forwarding.serve`.
        """
        header = ConnectionInfo.of(handed).encode(MAX_SIZE)
        with visiting(self._access_log, handed) as visit:
            if self._aware and handed.channel is not None:
                await self._give(handed, visit, header)
            else:
                await self._lend(handed, visit, header)

    async def _give(self, handed: Handoff, visit: Visit, header: bytes) -> None:
        """Pass the connection itself, with all that belongs to it."""
        visit.traffic, visit.end = None, PASSED
        number, state = handed.detach()
        message = bytearray().join((header, state))
        with socket.socket(fileno=number) as sock:
            try:
                self._backends.leave(await self._pass(handed, visit, number, message))
            except BackendError as exc:
                if isinstance(exc, _Unconfirmed):
                    _hang_up(sock)
                else:
                    adopt(sock, state).abort()
                raise
            except BaseException:
                _hang_up(sock)
                raise
            finally:
                wipe(message, state)

    async def _lend(self, handed: Handoff, visit: Visit, header: bytes) -> None:
        """Pass one end of a pair; a late worker finds both directions ended."""
        try:
            ours, theirs = socket.socketpair()
            try:
                with theirs:
                    chosen = await self._pass(handed, visit, theirs.fileno(), header)
            except BaseException:
                ours.close()
                raise
        except BaseException:
            handed.abort()
            raise
        try:
            await self._carry(handed, Plain(ours), visit)
        finally:
            self._backends.leave(chosen)

    async def _pass(
        self, handed: Handoff, visit: Visit, number: int, message: bytes | bytearray
    ) -> Backend:
        async def attempt(backend: Backend, seconds: float) -> None:
            with backend.connect_here(socket.SOCK_SEQPACKET) as channel:
                scm_rights.send(channel, message, number)
                try:
                    async with asyncio.timeout(seconds):
                        answer = await asyncio.get_running_loop().sock_recv(channel, 1)
                except TimeoutError:
                    raise _Unconfirmed(f"{backend} did not take a connection in time") from None
            # The end says that the message was received; before that it would be a reset.
            if answer:
                raise ConnectionRefusedError(errno.ECONNREFUSED, "it could not take it")

        chosen, _ = await self._reach(handed, visit, attempt)
        count(Event.DESCRIPTOR_PASSED)
        return chosen


def _traits(client: Handoff | Plain) -> Traits:
    local, _ = ends(client)
    if isinstance(client, Plain):
        return Traits(local=local)
    return Traits(client.negotiated.alpn, client.negotiated.server_name, local)


def _end(client: Handoff | Plain, backend: Handoff | Plain) -> bool:
    """End an idle connection cleanly on both sides.

    Returns:
        False if the backend has not taken all: for it that would be the end of something else.
    """
    if is_owed(backend.sock) or (backend.relay is not None and backend.relay.under_way()):
        return False
    client.shutdown()
    backend.shutdown()
    return True


def _hang_up(sock: socket.socket) -> None:
    """End a connection that a worker may have, or find later, so that the worker sees the end.

    Without close_notify, since the worker may have sent only a part; and without reading, since
    unread data may be the worker's.
    """
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()
