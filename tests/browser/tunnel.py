"""TCP connections through one pair of pipes: to a guest, which has no network but loopback."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import struct
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# Number of the connection, what this is, length of what follows.
_HEAD = struct.Struct("!IBI")
_CHUNK = 2**16
# How much one direction of a connection may send before the other side has passed it on.
_WINDOW = 2**18


class Kind(IntEnum):
    """What a frame says of its connection."""

    OPEN = 0
    DATA = 1
    END = 2
    CREDIT = 3
    # No connection's: what the two programs have to say to each other.
    NOTE = 4


class _Stream:
    """One connection, as one side of the tunnel has it."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[bytes] = asyncio.Queue()
        self.allowance = _WINDOW
        self.allowed = asyncio.Event()


class Tunnel:
    """One side of it.

    One side opens connections; each is carried to its end in both directions, with as much under
    way as its reader has room for.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        note: Callable[[bytes], None],
        port: int | None = None,
    ) -> None:
        """Store the pipes.

        Args:
            reader: from the other side.
            writer: to it.
            note: is told its notes.
            port: of 127.0.0.1, to which what the other side opens is connected.
        """
        self._reader = reader
        self._writer = writer
        self._note = note
        self._port = port
        self._streams: dict[int, _Stream] = {}
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Carry until the other side ends."""
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    number, kind, length = _HEAD.unpack(await self._reader.readexactly(_HEAD.size))
                    self._take(number, Kind(kind), await self._reader.readexactly(length))
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def send(self, kind: Kind, number: int = 0, payload: bytes = b"") -> None:
        """Send one frame."""
        self._writer.write(_HEAD.pack(number, kind, len(payload)) + payload)

    def open(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry a connection to the other side: a callback for ``asyncio.start_server``."""
        number = next(self._numbers)
        self.send(Kind.OPEN, number)
        self._start(self._carry(number, self._add(number), reader, writer))

    def _add(self, number: int) -> _Stream:
        self._streams[number] = _Stream()
        return self._streams[number]

    def _start(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _take(self, number: int, kind: Kind, payload: bytes) -> None:
        if kind is Kind.NOTE:
            self._note(payload)
        elif kind is Kind.OPEN:
            self._start(self._connect(number, self._add(number)))
        elif (stream := self._streams.get(number)) is None:
            return  # it has ended here
        elif kind is Kind.CREDIT:
            stream.allowance += int.from_bytes(payload, "big")
            stream.allowed.set()
        else:
            stream.incoming.put_nowait(payload)  # an empty one is the end

    async def _connect(self, number: int, stream: _Stream) -> None:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            del self._streams[number]
            self.send(Kind.END, number)
            return
        await self._carry(number, stream, reader, writer)

    async def _carry(
        self,
        number: int,
        stream: _Stream,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        outgoing = asyncio.ensure_future(self._forward(number, stream, reader))
        try:
            await self._deliver(number, stream, writer)
            await outgoing
        except ConnectionError:  # nobody reads on
            pass
        finally:
            outgoing.cancel()
            self._streams.pop(number, None)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _forward(self, number: int, stream: _Stream, reader: asyncio.StreamReader) -> None:
        """Send what the connection's own peer sends, and its end."""
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(min(_CHUNK, stream.allowance)):
                stream.allowance -= len(data)
                self.send(Kind.DATA, number, data)
                await self._writer.drain()
                while stream.allowance <= 0:
                    stream.allowed.clear()
                    await stream.allowed.wait()
        self.send(Kind.END, number)

    async def _deliver(self, number: int, stream: _Stream, writer: asyncio.StreamWriter) -> None:
        """Pass on what came through the tunnel, and its end."""
        while data := await stream.incoming.get():
            writer.write(data)
            await writer.drain()
            self.send(Kind.CREDIT, number, len(data).to_bytes(4, "big"))
        if writer.can_write_eof():
            with contextlib.suppress(OSError):
                writer.write_eof()
