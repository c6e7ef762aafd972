"""Forward connections: their plaintext to a backend, or a descriptor to a backend's worker."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from typing import TYPE_CHECKING, TypeVar

from tlsify.aio.pump import buffer, carry
from tlsify.aio.watching import watched
from tlsify.connection.adoption import adopt
from tlsify.connection.ending.closing import Closing
from tlsify.connection.ending.linger import is_owed
from tlsify.connection.stillness import Bounds
from tlsify.errors import BackendError
from tlsify.keys import wipe
from tlsify.logs.access import PASSED, AccessLog, Visit, visiting
from tlsify.metrics.counters import Event, count
from tlsify.passing.metadata import ConnectionInfo
from tlsify.passing.proxy_protocol import MAX_SIZE
from tlsify.system import scm_rights

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tlsify.config import ClosePolicy
    from tlsify.connection.handoff import Handoff
    from tlsify.serving.backends import Backend, Backends

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

    async def start(self) -> None:
        """Do nothing: backends may start later than we."""

    async def drain(self) -> None:
        """Do nothing: only backends know which connections are idle."""

    async def stop(self) -> None:
        """Do nothing."""

    async def serve(self, handed: Handoff) -> None:
        """Carry one connection until its end, or pass it on.

        Raises:
            BackendError: no backend took it; the peer was cut off.
            HandshakeError: the peer cut it, or misbehaved; the backend was cut off, too.
            OSError: likewise, or the backend did.
        """
        with visiting(self._access_log, handed) as visit:
            await self._serve(handed, visit)

    async def _serve(self, handed: Handoff, visit: Visit) -> None:
        raise NotImplementedError

    async def _carry(self, handed: Handoff, plain: socket.socket, visit: Visit) -> None:
        closing = Closing(self._closing, handed.negotiated.alpn)
        work = carry(handed, plain, closing, self._scratch, visit.traffic)
        await watched(work, handed, self._bounds, lambda: _end(handed, plain))

    async def _reach(
        self, handed: Handoff, visit: Visit, attempt: Callable[[Backend, float], Awaitable[T]]
    ) -> T:
        agreed = handed.negotiated

        async def noted(backend: Backend, seconds: float) -> T:
            visit.more["backend"] = str(backend)
            return await attempt(backend, seconds)

        try:
            return await self._backends.reach(agreed.alpn, agreed.server_name, noted)
        except BackendError:
            count(Event.BACKEND_FAILED)
            raise


class Forwarding(_Service):
    """Carries plaintext between connections and backends."""

    def __init__(
        self,
        backends: Backends,
        closing: ClosePolicy | None,
        bounds: Bounds = _NO_BOUNDS,
        access_log: AccessLog | None = None,
        *,
        proxy_protocol: str | None = None,
    ) -> None:
        """Store what does not change.

        Args:
            backends: where connections go.
            closing: as `_Service` has it.
            bounds: likewise.
            access_log: likewise.
            proxy_protocol: begin each connection to a backend with a PROXY header of this
                version, 1 or 2.
        """
        super().__init__(backends, closing, bounds, access_log)
        self._proxy_protocol = proxy_protocol

    async def _serve(self, handed: Handoff, visit: Visit) -> None:
        header = b""
        if self._proxy_protocol is not None:
            told = ConnectionInfo.of(handed)
            header = told.encode_text() if self._proxy_protocol == "1" else told.encode()

        async def connect(backend: Backend, seconds: float) -> socket.socket:
            sock = await backend.connect(seconds)
            try:
                await asyncio.get_running_loop().sock_sendall(sock, header)
            except BaseException:
                sock.close()
                raise
            return sock

        try:
            plain = await self._reach(handed, visit, connect)
        except BaseException:  # the client must not think that it was served
            handed.abort()
            raise
        await self._carry(handed, plain, visit)


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

    async def _serve(self, handed: Handoff, visit: Visit) -> None:
        header = ConnectionInfo.of(handed).encode(MAX_SIZE)
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
                await self._pass(handed, visit, number, message)
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
                    await self._pass(handed, visit, theirs.fileno(), header)
            except BaseException:
                ours.close()
                raise
        except BaseException:
            handed.abort()
            raise
        await self._carry(handed, ours, visit)

    async def _pass(
        self, handed: Handoff, visit: Visit, number: int, message: bytes | bytearray
    ) -> None:
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

        await self._reach(handed, visit, attempt)
        count(Event.DESCRIPTOR_PASSED)


def _end(handed: Handoff, plain: socket.socket) -> bool:
    """End an idle connection cleanly on both sides.

    Returns:
        False if the backend has not taken all: for it that would be the end of something else.
    """
    if is_owed(plain):
        return False
    handed.shutdown()
    with contextlib.suppress(OSError):
        plain.shutdown(socket.SHUT_WR)
    return True


def _hang_up(sock: socket.socket) -> None:
    """End a connection that a worker may have, or find later, so that the worker sees the end.

    Without close_notify, since the worker may have sent only a part; and without reading, since
    unread data may be the worker's.
    """
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()
