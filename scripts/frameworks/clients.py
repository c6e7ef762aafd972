"""Clients that carry TLS in memory: httpx.AsyncClient on asyncio and trio, and trio's stream."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import httpx
import trio

from tlsify.aio import EventLoop
from tlsify.sslcontext.context import SSLContext

context = SSLContext.for_client(cafile=os.environ["CA"])
port = int(os.environ["PORT"])
file = Path(os.environ["FILE"]).read_bytes()


async def fetch() -> None:
    """Fetch the file by httpx."""
    async with httpx.AsyncClient(verify=context) as client:
        for _ in range(2):
            response = await client.get(f"https://localhost:{port}/file")
            assert response.content == file
        stream = response.extensions["network_stream"]
        assert stream.get_extra_info("ssl_object").ktls == "in-memory"


async def speak() -> None:
    """Send a request, and read to the end, by trio."""
    stream = await trio.open_ssl_over_tcp_stream(
        "localhost", port, ssl_context=context, https_compatible=True
    )
    async with stream:
        await stream.send_all(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
        assert b"".join([part async for part in stream]).startswith(b"HTTP/1.")


for factory in (asyncio.SelectorEventLoop, EventLoop):
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(fetch())
trio.run(fetch)
trio.run(speak)
