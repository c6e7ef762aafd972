"""Send a file through a LoopSocket, whenever its buffer has room."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Any, NoReturn

from tlsify.system import plain_files

if TYPE_CHECKING:
    from typing import BinaryIO

    from tlsify.aio.loop_socket import LoopSocket

# How many bytes one connection may send before others get a turn. Twice as many take a third longer
# for each byte, and a quarter as many likewise (docs/benchmarks/notes.md).
_TURN = 2**21


class _Read:
    """A file for asyncio to read, piece by piece, since its descriptor will not do."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def fileno(self) -> NoReturn:
        raise io.UnsupportedOperation("the file has to be read")

    def readinto(self, buffer: memoryview) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def sendable(file: Any) -> Any:
    """Return a file that loops send as its ``read`` has it: by its descriptor only if that will do.

    asyncio's own loops send the bytes of any descriptor: of a wrapper that decrypts, other ones
    than it reads, and of a file in /proc none.
    """
    return file if plain_files.descriptor(file) is not None else _Read(file)


async def pour(sock: LoopSocket, file: BinaryIO, offset: int, count: int | None) -> int:
    """Send a file until its end, ``count`` bytes, or until the socket is closed.

    asyncio's own asks the selector for each piece anew, goes on waiting for a socket that was
    closed, and passes by the session, which may have to change keys between two pieces.

    Args:
        sock: non-blocking, and without another watcher.
        file: open for reading in binary; it is left behind what was sent.
        offset: where to begin.
        count: how many bytes; to the end of the file if None.

    Returns:
        The number of bytes sent.

    Raises:
        OSError: the connection broke, was closed, or the file cannot be read any more.
        asyncio.SendfileNotAvailableError: nothing was sent, since it is no such file.
    """
    try:
        source = file.fileno()
    except (OSError, AttributeError) as exc:
        raise asyncio.SendfileNotAvailableError("it is no real file") from exc
    pouring = _Pouring(sock, source, offset, count)
    try:
        await pouring.done
    except OSError as exc:
        if pouring.sent or isinstance(exc, ConnectionError):
            raise
        raise asyncio.SendfileNotAvailableError(str(exc)) from exc
    finally:
        pouring.stop(None)
        sock.on_cut = None
        if pouring.sent:
            file.seek(offset + pouring.sent)
    return pouring.sent


class _Pouring:
    def __init__(self, sock: LoopSocket, source: int, offset: int, count: int | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock, self._number = sock, sock.fileno()
        self._source, self._offset, self._count = source, offset, count
        self.sent = 0
        self.done: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_writer(self._number, self._send)
        sock.on_cut = self.stop

    def _send(self) -> None:
        size = _TURN if self._count is None else min(_TURN, self._count - self.sent)
        try:
            sent = self._sock.send_file(self._source, self._offset + self.sent, size)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            self.stop(exc)
            return
        self.sent += sent
        if not sent or self.sent == self._count:
            self.stop(None)

    def stop(self, reason: OSError | None) -> None:
        """Stop watching the socket; the first call settles the waiter."""
        if self._number >= 0:
            self._loop.remove_writer(self._number)
            self._number = -1
        if self.done.done():
            return
        if reason is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(reason)
