"""Ask a server on the loop, in its own protocol, to change to TLS."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tlsify.aio.pump import readable
from tlsify.starttls.upgrade import converse, too_slow

if TYPE_CHECKING:
    import socket


async def upgrade(sock: socket.socket, protocol: str, name: str, timeout: float) -> None:
    """Ask the server to change to TLS; afterwards it expects a ClientHello.

    Arguments and errors are those of `starttls.upgrade.upgrade`; the socket never blocks.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout):
            for output in converse(sock, protocol, name):
                if output:
                    await loop.sock_sendall(sock, output)
                else:
                    await readable(sock)
    except TimeoutError as exc:
        if exc.errno is not None:  # as in `handshake.run`
            raise
        raise too_slow(timeout) from exc
