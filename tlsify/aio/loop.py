"""EventLoop: asyncio's loop, whose ``ssl=`` takes tlsify's SSLContext and means kernel TLS."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from tlsify.aio.loop_socket import LoopSocket
from tlsify.aio.send_file import pour
from tlsify.aio.server import create_server
from tlsify.aio.streams import connect_on, create_connection, server_terms, start_tls
from tlsify.aio.transport import send_file
from tlsify.errors import DeadlineExceeded, TlsifyError, Truncated
from tlsify.sslcontext.context import SSLContext
from tlsify.sslcontext.errors import ssl_error

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

_log = logging.getLogger("tlsify")


@contextlib.contextmanager
def _ssl_errors() -> Iterator[None]:
    """Raise the errors that programs expect of ``ssl=``; tlsify's own error is the cause."""
    try:
        yield
    except DeadlineExceeded as exc:
        raise ConnectionAbortedError(errno.ECONNABORTED, str(exc)) from exc
    except Truncated as exc:
        raise ConnectionResetError(errno.ECONNRESET, str(exc)) from exc
    except TlsifyError as exc:
        raise ssl_error(exc) from exc


class ByTlsify:
    """Mixin for an event loop's class: tlsify makes TCP connections with its own SSLContext.

    With any other ``ssl`` the loop works as usual, and logs once that it does, as a warning for
    servers. On sockets of other kinds, and inside another TLS connection, the loop's own TLS uses
    tlsify's context in memory (`SSLContext.wrap_bio`).

    Arguments and errors are asyncio's: `ssl.SSLError` for a failed handshake, ConnectionResetError
    where the peer hangs up in it, ConnectionAbortedError for one that takes too long, with tlsify's
    own as ``__cause__``. There is no ``ssl_shutdown_timeout``, since closing does not wait for the
    peer.
    """

    def _tell(self, ssl: Any, whose: str, level: int) -> None:
        """Log, once, that a program which has chosen tlsify's loop uses Python's TLS on it."""
        told: set[str] = self.__dict__.setdefault("_told", set())
        if ssl and whose not in told:
            told.add(whose)
            _log.log(
                level,
                "this %s's TLS is Python's, without kernel TLS, though the event loop is tlsify's: "
                "pass a tlsify.sslcontext.context.SSLContext, or see tlsify help integrations",
                whose,
            )

    async def create_server(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: Any = None,
        port: Any = None,
        *,
        ssl: Any = None,
        **options: Any,
    ) -> Any:
        """Listen, as ``loop.create_server``."""
        if not isinstance(ssl, SSLContext):
            self._tell(ssl, "server", logging.WARNING)
            parent: Any = super()
            return await parent.create_server(protocol_factory, host, port, ssl=ssl, **options)
        return await create_server(protocol_factory, host, port, ssl=ssl, **_translated(options))

    async def create_connection(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: Any = None,
        port: Any = None,
        *,
        ssl: Any = None,
        **options: Any,
    ) -> Any:
        """Connect, as ``loop.create_connection``."""
        if not isinstance(ssl, SSLContext):
            self._tell(ssl, "client", logging.INFO)
            parent: Any = super()
            return await parent.create_connection(protocol_factory, host, port, ssl=ssl, **options)
        if options.get("server_hostname") is None and not host:
            raise ValueError("You must set server_hostname when using ssl without a host")
        with _ssl_errors():
            return await create_connection(
                protocol_factory, host, port, ssl=ssl, **_translated(options)
            )

    async def connect_accepted_socket(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        sock: socket.socket,
        *,
        ssl: Any = None,
        **options: Any,
    ) -> Any:
        """Connect a protocol to an accepted socket, as ``loop.connect_accepted_socket``."""
        if not isinstance(ssl, SSLContext):
            self._tell(ssl, "server", logging.WARNING)
            parent: Any = super()
            return await parent.connect_accepted_socket(protocol_factory, sock, ssl=ssl, **options)
        with _ssl_errors():
            terms = server_terms(None, ssl)
            terms = terms._replace(timeout=_timeout(options))
            return await connect_on(protocol_factory, sock, terms)

    async def start_tls(
        self,
        transport: Any,
        protocol: asyncio.BaseProtocol,
        sslcontext: Any,
        **options: Any,
    ) -> Any:
        """Start TLS, as ``loop.start_tls``; inside another TLS connection, that is in memory."""
        if not isinstance(sslcontext, SSLContext) or transport.get_extra_info("sslcontext"):
            parent: Any = super()
            return await parent.start_tls(transport, protocol, sslcontext, **options)
        with _ssl_errors():
            return await start_tls(transport, protocol, sslcontext, **_translated(options))

    async def sendfile(
        self,
        transport: Any,
        file: Any,
        offset: int = 0,
        count: int | None = None,
        **options: Any,
    ) -> int:
        """Send a file, as ``loop.sendfile``; one shorter than ``count`` ends the connection.

        That holds for tlsify's connections; `transport.keep_promise` has the reason.
        """
        native = partial(self.native_sendfile, **options)
        return await send_file(native, transport, file, offset, count)

    async def native_sendfile(self, *arguments: Any, **options: Any) -> int:
        """Send a file, as the loop beneath does."""
        parent: Any = super()
        sent: int = await parent.sendfile(*arguments, **options)
        return sent

    async def sock_sendfile(
        self,
        sock: Any,
        file: Any,
        offset: int = 0,
        count: int | None = None,
        *,
        fallback: bool | None = None,
    ) -> int:
        """Send a file to a socket, as ``loop.sock_sendfile``: what ``sendfile`` ends up with."""
        if isinstance(sock, LoopSocket):
            return await pour(sock, file, offset, count)
        parent: Any = super()
        options = {} if fallback is None else {"fallback": fallback}
        sent: int = await parent.sock_sendfile(sock, file, offset, count, **options)
        return sent


def _translated(options: dict[str, Any]) -> dict[str, Any]:
    """Name the options as tlsify does."""
    kept = {key: value for key, value in options.items() if not key.startswith("ssl_")}
    return kept | {"timeout": _timeout(options)}


def _timeout(options: dict[str, Any]) -> float | None:
    """Return the time limit of a handshake, as asyncio checks it."""
    seconds: float | None = options.get("ssl_handshake_timeout")
    if seconds is not None and seconds <= 0:
        raise ValueError(f"ssl_handshake_timeout should be a positive number, got {seconds}")
    return seconds


class EventLoop(ByTlsify, asyncio.SelectorEventLoop):
    """asyncio's selector loop, with ``ssl=`` as `ByTlsify` has it."""


def new_event_loop() -> EventLoop:
    """Make a loop, for ``asyncio.Runner(loop_factory=...)`` and the like."""
    return EventLoop()
