"""A transport on a loop's public methods: for any loop, and for records that are ours to seal."""

from __future__ import annotations

import asyncio
import io
import socket
import warnings
from asyncio.trsock import TransportSocket
from functools import partial
from typing import TYPE_CHECKING, Any

from tlsify.aio.introduction import introduce, settle

if TYPE_CHECKING:
    from typing import BinaryIO

    from tlsify.aio.inline_socket import InlineSocket
    from tlsify.aio.loop_socket import LoopSocket

_READ_SIZE = 2**18
_HIGH_WATER = 2**16
# How much of a file is sent before others get their turn.
_TURN = 2**21
# Seconds between two looks for a message of the peer's that data has to wait for.
_HELD = 0.02


class ForeignTransport(asyncio.Transport):
    """Carries a connection by ``add_reader``, ``add_writer`` and ``call_soon`` alone.

    The transports of other loops read and write the descriptor behind our back, which is no way
    to meet a control record. This one goes by the socket's own methods, and otherwise behaves as
    asyncio's.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: LoopSocket | InlineSocket,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None,
        extra: dict[str, Any],
    ) -> None:
        """Begin in the loop's next round; arguments are those of `transport.make_transport`."""
        self._sock = sock
        addresses = {"sockname": _known(sock.getsockname), "peername": _known(sock.getpeername)}
        super().__init__({**extra, **addresses, "socket": TransportSocket(sock.network)})
        self._loop = loop
        self._fd = sock.fileno()
        self._buffer = bytearray()
        self._paused = self._closing = self._over = False
        self._eof_read = self._eof_written = False
        self._limits = (_HIGH_WATER // 4, _HIGH_WATER)
        self._full = False  # the protocol was asked to pause
        self._look: asyncio.TimerHandle | None = None
        self._sending: asyncio.Future[None] | None = None  # a file; what it waits for now
        self.set_protocol(protocol)
        loop.call_soon(introduce, self, protocol, waiter)
        loop.call_soon(self._watch)

    def __repr__(self) -> str:
        """Show the descriptor, and how the connection is."""
        state = "closed" if self._over else "closing" if self._closing else "open"
        return f"<ForeignTransport fd={self._fd} {state} buffered={len(self._buffer)}>"

    def __del__(self) -> None:
        """Close a forgotten connection."""
        if self._sock.fileno() != -1:
            self._sock.abort()  # first: with -W error the warning is an error
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=1, source=self)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Switch to another protocol."""
        self._protocol: Any = protocol
        self._buffered = isinstance(protocol, asyncio.BufferedProtocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol."""
        protocol: asyncio.BaseProtocol = self._protocol
        return protocol

    # -- reading

    def is_reading(self) -> bool:
        """Whether the transport reads for the protocol."""
        return not self._closing and not self._paused

    def pause_reading(self) -> None:
        """Stop reading."""
        if self.is_reading():
            self._paused = True
            self._loop.remove_reader(self._fd)
            self._await_room()

    def resume_reading(self) -> None:
        """Resume reading after `pause_reading`."""
        if self._paused and not self._closing:
            self._paused = False
            self._watch()

    def _watch(self) -> None:
        if self.is_reading() and not self._eof_read:
            self._loop.add_reader(self._fd, self._read_ready)
            if self._sock.is_readable:
                self._loop.call_soon(self._read_ready)

    def _read_ready(self) -> None:
        if not self.is_reading() or self._eof_read:
            return
        try:
            if not (self._take_into() if self._buffered else self._take()):
                self._end()
        except Exception as exc:  # noqa: BLE001 - a bug of the protocol ends its connection only
            self._fail(exc, "a protocol failed in receiving")
        if self._sock.is_readable and not self._eof_read:
            self._loop.call_soon(self._read_ready)
        self._await_room()  # for the answer to a KeyUpdate

    def _take(self) -> bool:
        """Pass on available data; return False at the end of the stream."""
        try:
            data = self._sock.recv(_READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return True
        if data:
            self._protocol.data_received(data)
        return bool(data)

    def _take_into(self) -> bool:
        buffer = self._protocol.get_buffer(-1)
        if not len(buffer):
            raise RuntimeError("get_buffer() returned an empty buffer")
        try:
            count = self._sock.recv_into(buffer)
        except (BlockingIOError, InterruptedError):
            return True
        if count:
            self._protocol.buffer_updated(count)
        return bool(count)

    def _end(self) -> None:
        self._eof_read = True
        if self._protocol.eof_received():
            self._loop.remove_reader(self._fd)
        else:
            self.close()

    # -- writing

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Send data, at once if it fits, and never waiting for it."""
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"data must be bytes-like, not {type(data).__name__!r}")
        if self._eof_written:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self._sending is not None:
            raise RuntimeError("unable to write; sendfile is in progress")
        view = memoryview(data).cast("B")
        if self._over or not view:
            return
        if not self._buffer:
            try:
                view = view[self._sock.send(view) :]
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as exc:
                self._lose(exc)
                return
        self._buffer += view
        self._await_room()
        self._weigh()

    def _await_room(self) -> None:
        """Go on, if anything is left, once there is room, and a message of the peer's is whole."""
        if self._over:
            return
        if self._sock.is_waiting:
            self._loop.remove_writer(self._fd)
            if self._look is None and not self.is_reading():
                self._look = self._loop.call_later(_HELD, self._write_ready)
        elif self._buffer or not self._sock.is_out:
            self._loop.add_writer(self._fd, self._write_ready)

    def _write_ready(self) -> None:
        self._look = None
        if self._over:
            return
        try:
            if not self.is_reading():
                self._sock.look()
            if self._sock.flush() and self._buffer:
                del self._buffer[: self._sock.send(self._buffer)]
        except (BlockingIOError, InterruptedError):
            self._await_room()
            return
        except OSError as exc:
            self._lose(exc)
            return
        self._loop.remove_writer(self._fd)
        self._await_room()
        self._weigh()  # which may lead to more being written
        if self._buffer or not self._sock.is_out:
            return
        if self._sending is not None:
            settle(self._sending)
        if self._closing:
            self._lose(None)
        elif self._eof_written:
            self._shut_down()

    def write_eof(self) -> None:
        """End the sending direction with close_notify, after all written data."""
        if not self._closing and not self._eof_written:
            self._eof_written = True
            if not self._buffer:
                self._shut_down()

    def can_write_eof(self) -> bool:
        """Return True: TLS can close one direction."""
        return True

    def _shut_down(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as exc:
            self._lose(exc)
        self._await_room()

    def get_write_buffer_size(self) -> int:
        """Return the number of bytes that wait to be sent."""
        return len(self._buffer)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the low and the high mark of `set_write_buffer_limits`."""
        return self._limits

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the limits: pause the protocol above ``high`` waiting bytes, resume it at ``low``."""
        if high is None:
            high = _HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._limits = (low, high)
        self._weigh()

    def _weigh(self) -> None:
        low, high = self._limits
        size = len(self._buffer)
        if size > high and not self._full:
            self._full = True
            self._tell(self._protocol.pause_writing)
        elif size <= low and self._full:
            self._full = False
            self._tell(self._protocol.resume_writing)

    def _tell(self, what: Any) -> None:
        try:
            what()
        except Exception as exc:  # noqa: BLE001 - a bug of the protocol, which goes on
            self._report(exc, "a protocol failed in its flow control")

    # -- files

    async def sendfile(self, file: BinaryIO, offset: int = 0, count: int | None = None) -> int:
        """Send a file's bytes from the kernel's own cache, as ``loop.sendfile``.

        Nothing is read from the peer meanwhile, and nothing else can be written.

        Returns:
            The number of bytes sent: less than ``count`` if the file is shorter.

        Raises:
            OSError: the connection broke, or the file cannot be sent so.
            RuntimeError: the transport has written its end, or is sending a file already.
        """
        if self._eof_written or self._sending is not None:
            raise RuntimeError("the end was written, or sendfile is in progress")
        total, resume = 0, self.is_reading()
        self.pause_reading()
        try:
            self._sending = self._loop.create_future()
            if self._buffer:
                await self._sending
            while count is None or total < count:
                self._refuse_lost()
                size = _TURN if count is None else min(_TURN, count - total)
                try:
                    sent = self._send_some(file, offset + total, size)
                except BlockingIOError:
                    await self._writable()
                    continue
                if not sent:
                    break
                total += sent
                await asyncio.sleep(0)
        except BaseException:  # cancellation, too
            if total:  # the peer would take what comes next for the rest of the file
                self.abort()
            raise
        finally:
            self._sending = None
            if total:
                file.seek(offset + total)
            if resume:
                self.resume_reading()
            self._await_room()
        return total

    def _send_some(self, file: BinaryIO, offset: int, size: int) -> int:
        try:
            source = file.fileno()
        except (AttributeError, io.UnsupportedOperation):
            file.seek(offset)
            piece = file.read(min(size, _READ_SIZE))
            return self._sock.send(piece) if piece else 0
        return self._sock.send_file(source, offset, size)

    async def _writable(self) -> None:
        if self._sock.is_waiting:
            await asyncio.sleep(_HELD)
            self._sock.look()
            return
        self._sending = waiting = self._loop.create_future()
        self._loop.add_writer(self._fd, settle, waiting)
        try:
            await waiting
        finally:
            if not self._over:
                self._loop.remove_writer(self._fd)

    def _refuse_lost(self) -> None:
        if self._over:
            raise ConnectionError("the connection was lost while a file was being sent")

    # -- closing

    def is_closing(self) -> bool:
        """Whether the connection is closed, or about to be."""
        return self._closing

    def close(self) -> None:
        """Close after all written data."""
        if not self._closing:
            self._closing = True
            self._loop.remove_reader(self._fd)
            if not self._buffer:
                self._lose(None)
            self._await_room()  # nobody else receives what data may be waiting for

    def abort(self) -> None:
        """Close at once, without close_notify."""
        self._cut()
        self._lose(None)

    def _cut(self) -> None:
        if not self._over:
            self._sock.cut()

    def _fail(self, exc: Exception, message: str) -> None:
        self._cut()
        if not isinstance(exc, OSError):
            self._report(exc, message)
        self._lose(exc)

    def _report(self, exc: Exception, message: str) -> None:
        told = {"message": message, "exception": exc, "transport": self, "protocol": self._protocol}
        self._loop.call_exception_handler(told)

    def _lose(self, exc: Exception | None) -> None:
        if self._over:
            return
        self._over = self._closing = True
        self._buffer.clear()
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        tell = partial(self._say_lost, exc)
        self._loop.call_soon(self._sock.leave, self._loop, tell)

    def _say_lost(self, exc: Exception | None) -> None:
        try:
            self._protocol.connection_lost(exc)
        finally:
            self._sock.close()
            if self._sending is not None:
                settle(self._sending)


def _known(ask: Any) -> Any:
    try:
        return ask()
    except OSError:
        return None
