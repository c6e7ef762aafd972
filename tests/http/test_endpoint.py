"""Tests of the endpoint: with clients that speak HTTP badly, slowly, and in crowds."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.doubles import check_descriptors, descriptors
from tests.want import Want
from tlsify.http.answer import short
from tlsify.http.endpoint import Bounds, Endpoint, request_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

BOUNDS = Bounds()
ANSWER = b"GET / HTTP/1.1\r\n\r\n"


def respond(head: bytes, _name: object) -> bytes:
    """Tell how long the head was."""
    return short(200, f"{len(head)}\n").spell()


@asynccontextmanager
async def answering(bounds: Bounds = BOUNDS) -> AsyncIterator[tuple[str, int]]:
    """Answer on a port of 127.0.0.1."""
    listener = socket.create_server(("127.0.0.1", 0))
    async with Endpoint(listener, respond, bounds):
        yield listener.getsockname()


async def ask(address: tuple[str, int], sent: bytes, *, ends: bool = False) -> bytes:
    """Send something; return the answer's text."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(sent)
    if ends:
        writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize(
    ("sent", "length"),
    [
        (ANSWER, len(ANSWER)),
        (ANSWER + b"nine bytes", len(ANSWER)),
        (b"\r\n\r\n", 4),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 10),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * BOUNDS.head + b"\r\n\r\n", 0),
        (b"x" * (BOUNDS.head + 4), 0),
    ],
)
def test_requests(sent: bytes, length: int) -> None:
    """Each gets an answer, which unread bytes do not reset; one too long shows none of it."""

    async def run() -> None:
        async with answering() as address:
            assert await ask(address, sent) == b"%d\n" % length

    asyncio.run(run())


@given(st.binary(max_size=300))
def test_any_request_line(head: bytes) -> None:
    """Whatever is sent, it is a request line or it is not."""
    method, target, version = request_line(head)
    assert bool(version) == (version in {"HTTP/1.1", "HTTP/1.0"})
    assert version or (method, target) == ("", "")


def test_clients_that_stall() -> None:
    """They are let go in time, and a crowd of them keeps nobody out for longer."""
    before, threads = descriptors(), threading.active_count()

    async def run() -> None:
        async with answering(Bounds(seconds=0.2)) as address:
            stalled = [await asyncio.open_connection(*address) for _ in range(BOUNDS.at_once + 4)]
            for number, (_, writer) in enumerate(stalled):
                writer.write(ANSWER[: number % len(ANSWER)])
            for reader, writer in stalled:
                with suppress(ConnectionResetError):
                    await reader.read()
                writer.close()
            assert await ask(address, ANSWER) == b"%d\n" % len(ANSWER)

    asyncio.run(run())
    check_descriptors(before)
    assert threading.active_count() == threads


@pytest.mark.parametrize("said", [b"", b"GET /met", ANSWER])
def test_newcomers(said: bytes) -> None:
    """Who asks is answered at once, however many there are who say nothing, or do not hang up."""
    before = descriptors()

    async def run() -> None:
        async with answering(Bounds(seconds=3600)) as address:
            crowd = []
            for _ in range(3 * BOUNDS.at_once):
                crowd.append(await asyncio.open_connection(*address))
                crowd[-1][1].write(said)
                if len(crowd) >= BOUNDS.at_once:
                    assert await ask(address, ANSWER, ends=True) == b"%d\n" % len(ANSWER)
            for _, writer in crowd:
                writer.close()

    asyncio.run(run())
    check_descriptors(before)


def test_crowd_from_one_place() -> None:
    """Whoever comes from elsewhere is not dropped for a crowd, however slow he is himself."""

    async def run() -> None:
        async with answering(Bounds(seconds=3600)) as address:
            reader, writer = await asyncio.open_connection(*address, local_addr=("127.0.0.2", 0))
            writer.write(b"GET /healthz ")
            crowd = [await asyncio.open_connection(*address) for _ in range(2 * BOUNDS.at_once)]
            writer.write(b"HTTP/1.1\r\n\r\n")
            assert (await reader.readuntil(b"25\n")).startswith(b"HTTP/1.1 200 ")
            for _, each in [*crowd, (reader, writer)]:
                each.close()

    asyncio.run(run())


def test_no_descriptor_left() -> None:
    """The oldest client gives up its own."""

    async def run() -> None:
        async with answering(Bounds(seconds=3600)) as address:
            silent, writer = await asyncio.open_connection(*address)
            assert await ask(address, ANSWER, ends=True)  # so that the silent one is there, too
            with Want("accept", 1) as want:
                assert await ask(address, ANSWER, ends=True)
                assert want.has_failed
            assert await silent.read() == b""
            writer.close()

    asyncio.run(run())


def test_client_that_does_not_read() -> None:
    """It holds nothing up, the end least of all."""

    async def run() -> None:
        async with answering(Bounds(seconds=0.2)) as address:
            with socket.create_connection(address) as sock:
                sock.sendall(ANSWER)
                assert await ask(address, ANSWER) == b"%d\n" % len(ANSWER)

    asyncio.run(run())


def test_leaving(tmp_path: Path) -> None:
    """Who leaves answers nobody else, while another that listens on the same socket does."""

    async def run() -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "metrics"))
        listener.listen()
        async with Endpoint(listener.dup(), respond) as old, Endpoint(listener, respond):
            old.leave()
            for _ in range(5):
                reader, writer = await asyncio.open_unix_connection(tmp_path / "metrics")
                writer.write(ANSWER)
                assert (await reader.read()).endswith(b"%d\n" % len(ANSWER))
                writer.close()
                await writer.wait_closed()

    asyncio.run(run())


def test_leaving_last() -> None:
    """Clients that wait already are still accepted if no other process would."""
    listener = socket.create_server(("127.0.0.1", 0))

    async def leave() -> None:
        endpoint = Endpoint(listener, respond)
        async with endpoint:
            with socket.create_connection(listener.getsockname()) as sock:
                sock.sendall(ANSWER)
                endpoint.leave(sweep=True)
                sock.setblocking(False)
                loop = asyncio.get_running_loop()
                assert (await loop.sock_recv(sock, 2**10)).startswith(b"HTTP/1.1 200 ")

    asyncio.run(leave())


def test_leaving_in_a_crowd() -> None:
    """However many wait, no more are accepted than may be there at a time: the end has to come."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=2 * BOUNDS.at_once)

    async def ask(sock: socket.socket) -> bytes:
        with sock, suppress(ConnectionError):
            return await asyncio.get_running_loop().sock_recv(sock, 2**10)
        return b""

    async def leave() -> None:
        async with Endpoint(listener, respond) as endpoint:
            crowd = []
            for _ in range(BOUNDS.at_once + 4):
                crowd.append(socket.create_connection(listener.getsockname()))
                crowd[-1].sendall(ANSWER)
                crowd[-1].setblocking(False)
            endpoint.leave(sweep=True)
            answers = await asyncio.gather(*map(ask, crowd))
        assert sum(answer.startswith(b"HTTP/1.1 200 ") for answer in answers) == BOUNDS.at_once

    asyncio.run(leave())
