"""Tests of the tunnel."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from typing import TYPE_CHECKING

from tests.browser import tunnel
from tests.browser.tunnel import Kind, Tunnel
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_BIG = random.Random(1).randbytes(3_000_000)


@contextlib.asynccontextmanager
async def _tunnel(port: int) -> AsyncIterator[tuple[int, list[bytes], Tunnel]]:
    """Lead to a port; return the near port, the far side's notes and the near side."""
    ends = [await asyncio.open_connection(sock=end) for end in socket.socketpair()]
    notes: list[bytes] = []
    near = Tunnel(*ends[0], notes.append)
    far = Tunnel(*ends[1], notes.append, port)
    running = [asyncio.ensure_future(each.run()) for each in (near, far)]
    server = await asyncio.start_server(near.open, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], notes, near
    finally:
        server.close()
        for _, writer in ends:
            writer.close()
        await asyncio.gather(*running)


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Echo what comes, then a further word, which shows that the end has come."""
    while data := await reader.read(2**16):
        writer.write(data)
        await writer.drain()
    writer.write(b"end")
    writer.close()


async def _talk(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def send() -> None:
        writer.write(data)
        await writer.drain()
        writer.write_eof()

    received, _ = await asyncio.gather(reader.read(-1), send())
    writer.close()
    await writer.wait_closed()
    return received


def test_many_connections() -> None:
    """Every connection gets its own bytes, both ways, and both ends of stream."""

    async def work() -> None:
        async with await asyncio.start_server(_echo, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with _tunnel(port) as (near, notes, side):
                sent = [_BIG[at:] for at in (0, 2_000_000, 2_999_999, 3_000_000)]
                received = await asyncio.gather(*(_talk(near, data) for data in sent))
                side.send(Kind.NOTE, 0, b"note")
                assert await _talk(near, b"x") == b"xend"
                assert notes == [b"note"]
            assert received == [data + b"end" for data in sent]

    asyncio.run(asyncio.wait_for(work(), 30))


def test_nobody_listens() -> None:
    """A connection that leads nowhere ends."""

    async def work() -> None:
        async with _tunnel(free_port()) as (near, _, _side):
            assert await _talk(near, b"") == b""

    asyncio.run(asyncio.wait_for(work(), 30))


def test_reader_that_does_not_read() -> None:
    """One that does not read holds up itself alone, and costs no more than its window."""

    async def work() -> None:
        sent = 0

        async def pour(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            with contextlib.suppress(ConnectionError):
                for at in range(0, 100_000_000, 2**16):
                    writer.write(bytes(2**16))
                    await writer.drain()
                    sent = at

        async with await asyncio.start_server(pour, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with _tunnel(port) as (near, _, side):
                reader, writer = await asyncio.open_connection("127.0.0.1", near)
                assert await reader.readexactly(1) == b"\0"
                before = -1
                while before != sent:
                    before = sent
                    await asyncio.sleep(0.05)
                (stream,) = side._streams.values()
                waiting = 2**16 * stream.incoming.qsize()  # at most
                assert waiting <= 2 * tunnel._WINDOW
                assert sent < 50_000_000
                writer.close()

    asyncio.run(asyncio.wait_for(work(), 30))
