"""An established connection as an asyncio transport, with its extra information."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from asyncio import selector_events
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

from tlsify.aio.foreign_transport import ForeignTransport
from tlsify.aio.inline_socket import InlineSocket
from tlsify.aio.introduction import introduce
from tlsify.aio.loop_socket import LoopSocket
from tlsify.aio.send_file import sendable
from tlsify.config import ClosePolicy
from tlsify.connection.relay.inline import InlineRelay
from tlsify.sslcontext.facts import TLSInfo
from tlsify.sslcontext.transport_object import TransportSSLObject

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from typing import BinaryIO

    from tlsify.connection.handoff import Handoff

_log = logging.getLogger("tlsify")

# Most bytes of a file to send in one turn.
_AT_ONCE = 2**22

_current: ContextVar[Handoff | None] = ContextVar("tlsify_connection", default=None)


def current() -> Handoff | None:
    """Return the connection that the calling code serves; None outside of one.

    It works in callbacks of a protocol, and in the tasks that they start: an application gets its
    client's data even behind a server that does not pass it on.
    """
    return _current.get()


class _LoopTransport(selector_events._SelectorSocketTransport):  # type: ignore[name-defined,misc]
    """asyncio's own, which does not distinguish closing from aborting a socket.

    Nor does it copy what it queues: from Python 3.12 on a buffer that is used again would change
    what the peer gets, and a view of anything but bytes be miscounted.
    """

    _loop: asyncio.AbstractEventLoop
    _sock: LoopSocket
    _empty_waiter: asyncio.Future[None] | None

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: LoopSocket,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None,
        extra: dict[str, Any],
    ) -> None:
        """Begin as `ForeignTransport` does: asyncio goes on with a protocol that has failed."""
        super().__init__(loop, sock, asyncio.Protocol(), None, extra)
        self.set_protocol(protocol)
        loop.call_soon(introduce, self, protocol, waiter)

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Send data, at once if it fits, and never waiting for it."""
        super().write(bytes(data) if isinstance(data, bytearray | memoryview) else data)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview[Any]]) -> None:
        """Send several pieces as one."""
        self.write(b"".join(list_of_data))

    def _force_close(self, exc: BaseException | None) -> None:
        if not self._conn_lost:  # that is, unless it is being closed in order already
            self._sock.cut()
        super()._force_close(exc)

    def _call_connection_lost(self, exc: BaseException | None) -> None:
        self._sock.leave(self._loop, partial(self._tell_lost, exc))

    def _tell_lost(self, exc: BaseException | None) -> None:
        # A waiter for the empty buffer is called only once; asyncio would call it again.
        if self._empty_waiter is not None and self._empty_waiter.done():
            self._empty_waiter = None
        super()._call_connection_lost(exc)

    def __del__(self, *arguments: Any) -> None:
        if self._sock is not None:
            self._sock.cut()
        super().__del__(*arguments)


async def attach(
    factory: Callable[[], asyncio.BaseProtocol],
    handed: Handoff,
    context: object = None,
    closing: ClosePolicy = ClosePolicy.RELAXED,
) -> None:
    """Connect a protocol to a handed-over connection; lasts until the connection is closed.

    Cancelling it aborts the connection.

    Args:
        factory: makes the protocol.
        handed: belongs to the transport from here on, and is closed if the factory fails.
        context: value of ``get_extra_info("sslcontext")``; the facts of the connection if None,
            since programs take its absence for plain text.
        closing: meaning of an end of stream without close_notify.
    """
    transport, closed = begin(factory, handed, context, closing)
    try:
        await closed
    except asyncio.CancelledError:
        transport.abort()
        raise


def begin(
    factory: Callable[[], asyncio.BaseProtocol],
    handed: Handoff,
    context: object = None,
    closing: ClosePolicy = ClosePolicy.RELAXED,
) -> tuple[asyncio.Transport, asyncio.Future[None]]:
    """Attach without waiting; return a future that is settled when the connection is closed."""
    closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    network, on_close = handed.sock, partial(_settle, closed)
    sock: LoopSocket | InlineSocket
    if isinstance(network, InlineRelay):
        sock = InlineSocket(handed, network, closing, on_close)
    else:
        sock = LoopSocket(handed, closing, on_close)
    try:
        return make_transport(factory(), sock, context), closed
    except BaseException:
        sock.abort()
        raise


def make_transport(
    protocol: asyncio.BaseProtocol,
    sock: LoopSocket | InlineSocket,
    context: object = None,
    waiter: asyncio.Future[None] | None = None,
    *,
    verified: bool = True,
    server_side: bool = True,
) -> asyncio.Transport:
    """Make the transport of a connection on the running loop, which tells the protocol soon.

    Args:
        protocol: its ``connection_made`` comes in the loop's next round.
        sock: non-blocking.
        context: as `attach` has it.
        waiter: gets its result once the protocol knows.
        verified: whether the peer's certificate was judged.
        server_side: the role.
    """
    loop = asyncio.get_running_loop()
    handed = sock.handoff
    facts = TLSInfo(handed, verified=verified)
    described = TransportSSLObject(facts, context, server_side=server_side)
    extra = {
        "sslcontext": described if context is None else context,
        "ssl_object": described,
        "peercert": facts.getpeercert(),
        "cipher": facts.cipher(),
        "compression": None,
        "ktls": facts.ktls,
        "handoff": handed,
        "tls_socket": sock,
    }
    sock.settimeout(0)
    token = _current.set(handed)
    try:
        if isinstance(loop, asyncio.SelectorEventLoop) and isinstance(sock, LoopSocket):
            return _LoopTransport(loop, sock, protocol, waiter, extra)
        return ForeignTransport(loop, sock, protocol, waiter, extra)
    finally:
        _current.reset(token)


def _settle(closed: asyncio.Future[None]) -> None:
    # A transport that is collected after its loop has no waiter any more.
    if not closed.done():
        with contextlib.suppress(RuntimeError):
            closed.set_result(None)


async def sendfile(
    transport: asyncio.WriteTransport, file: BinaryIO, offset: int = 0, count: int | None = None
) -> int:
    """Send a file's bytes from the kernel's own cache, on any loop.

    On the relay path they go to the relay so, which encrypts them. A count is a promise: where the
    file turns out to be shorter, the connection is aborted (`keep_promise`). It is aborted, too,
    after any failure in the midst of a file, cancellation included.

    Args:
        transport: one that tlsify made.
        file: open for reading in binary.
        offset: where to begin.
        count: how many bytes; to the end of the file if None.

    Returns:
        The number of bytes sent.

    Raises:
        OSError: the connection broke, or is closing, or the file cannot be read.
        RuntimeError: the transport is sending a file already.
        ValueError, TypeError: an argument is impossible; nothing was sent.
    """
    loop = asyncio.get_running_loop()
    native = getattr(loop, "native_sendfile", loop.sendfile)  # tlsify's own loops come back here
    return await send_file(native, transport, file, offset, count)


async def send_file(
    native: Callable[..., Awaitable[int]],
    transport: asyncio.WriteTransport,
    file: BinaryIO,
    offset: int,
    count: int | None,
) -> int:
    """Send a file as `sendfile`, with the loop's method for its own transports.

    A transport that is closing is a lost connection here. asyncio raises RuntimeError, which
    servers take for a fault of the program: a peer that goes away early would fill their logs.
    """
    if transport.is_closing() and transport.get_extra_info("handoff") is not None:
        raise ConnectionResetError(errno.ECONNRESET, "the transport is closing")
    _check(file, offset, count)
    if transport.get_extra_info("handoff") is not None:
        file = sendable(file)
    if isinstance(transport, ForeignTransport):
        return await keep_promise(transport, transport.sendfile(file, offset, count), count)
    sock = transport.get_extra_info("tls_socket")
    if sock is None:
        return await native(transport, file, offset, count)
    return await keep_promise(transport, _send(native, transport, sock, file, offset, count), count)


def _check(file: BinaryIO, offset: int, count: int | None) -> None:
    """Refuse what asyncio refuses, before a byte is sent.

    Raises:
        ValueError, TypeError: an argument is impossible.
    """
    if "b" not in getattr(file, "mode", "b"):
        raise ValueError("file should be opened in binary mode")
    for name, value, least in (("offset", offset, 0), ("count", count, 1)):
        if value is not None and not isinstance(value, int):
            raise TypeError(f"{name} must be an integer, not {value!r}")
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, not {value!r}")


async def _send(
    native: Callable[..., Awaitable[int]],
    transport: asyncio.WriteTransport,
    sock: LoopSocket,
    file: BinaryIO,
    offset: int,
    count: int | None,
) -> int:
    """Send as much as the socket takes at once, all of a small file, before asyncio begins.

    asyncio first pauses reading, and waits for the loop once more after the last byte.
    """
    if sock.sends_file:
        raise RuntimeError("the transport is sending a file already")
    sent = 0
    if count and not transport.get_write_buffer_size():
        try:
            sent = sock.send_file(file.fileno(), offset, min(count, _AT_ONCE))
            file.seek(offset + sent)
        except ConnectionError:
            raise
        except (OSError, AttributeError):
            pass  # it would block, or is no file that can be sent so: asyncio finds out, too
        if sent == count:
            await asyncio.sleep(0)  # others want their turn
            return sent
    rest = None if count is None else count - sent
    sock.sends_file = True
    try:
        return sent + await native(transport, file, offset + sent, rest)
    except BaseException as exc:  # cancellation, too
        # How much has gone out is unknown, unless asyncio says that it was nothing.
        if sent or not isinstance(exc, asyncio.SendfileNotAvailableError):
            _cut(transport)
        raise
    finally:
        sock.sends_file = False


async def keep_promise(
    transport: asyncio.WriteTransport, sending: Awaitable[int], count: int | None
) -> int:
    """Wait for a file to be sent; abort the connection if that is less than was promised.

    Servers announce a file's length, call ``loop.sendfile`` and ignore its return value. The peer
    would take the next answer for the rest of a file that was truncated meanwhile.

    Args:
        transport: one that tlsify made; others are left alone.
        sending: gives the number of bytes sent.
        count: how many were promised; None if that was not said.

    Returns:
        The number of bytes sent.

    Raises:
        As ``sending``.
    """
    try:
        sent = await sending
    except OSError:
        _cut(transport)
        raise
    if count is not None and sent < count and not transport.is_closing() and _cut(transport):
        _log.warning("connection ended: a file had %d of %d bytes to send", sent, count)
    return sent


def _cut(transport: asyncio.WriteTransport) -> bool:
    """Abort without close_notify, so that the peer sees truncation; return whether it is ours."""
    if transport.get_extra_info("handoff") is None:
        return False
    transport.abort()  # closes the socket in the loop's next round
    return True
