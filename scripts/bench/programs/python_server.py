"""A TLS server in Python, in one of several ways; it waits for its client to end, and ends.

Usage: python_server.py WAY PORT CERTIFICATE KEY [AGENT]
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tlsify.config import ServerConfig

_BACKLOG = 1024


def _listener(port: int) -> socket.socket:
    return socket.create_server(("127.0.0.1", port), backlog=_BACKLOG)


def _context(certificate: str, key: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


def cpython(port: int, certificate: str, key: str) -> None:
    """CPython's ssl, blocking."""
    context, listener = _context(certificate, key), _listener(port)
    while True:
        sock, _ = listener.accept()
        with contextlib.suppress(OSError), context.wrap_socket(sock, server_side=True) as stream:
            stream.recv(1)


def asyncio_ssl(port: int, certificate: str, key: str) -> None:
    """CPython's asyncio with ssl."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.read(1)
        writer.close()

    async def run() -> None:
        context = _context(certificate, key)
        server = await asyncio.start_server(serve, "127.0.0.1", port, ssl=context, backlog=_BACKLOG)
        await server.serve_forever()

    asyncio.run(run())


def tlsify_handshake(port: int, certificate: str, key: str) -> None:
    """The library as far as the traffic keys, without a carrier for the records behind it."""
    from tlsify.config import KtlsMode, KtlsPolicy
    from tlsify.connection.establish import prepare
    from tlsify.connection.setup import handshake
    from tlsify.tls.engine import Engine

    config = _config(certificate, key)
    prepare(config, KtlsPolicy(KtlsMode.OFF))
    listener = _listener(port)
    while True:
        sock, _ = listener.accept()
        with contextlib.suppress(Exception), sock:
            engine = Engine(config, now=time.monotonic())
            handshake.run(sock, engine, config.timeout)
            engine.release()
            sock.recv(1)


def tlsify_library(port: int, certificate: str, key: str) -> None:
    """The library with what carries the records: the kernel, or the relay where it cannot."""
    from tlsify.config import KtlsPolicy
    from tlsify.connection.establish import accept, prepare

    config, policy = _config(certificate, key), KtlsPolicy()
    prepare(config, policy)
    listener = _listener(port)
    while True:
        sock, _ = listener.accept()
        with contextlib.suppress(Exception), accept(sock, config, policy) as handed:
            handed.sock.recv(1)


def tlsify_agent(port: int, certificate: str, _: str, place: str) -> None:
    """The library by way of an agent, which has the key."""
    from tlsify import agent

    request = agent.ServerRequest(key_pair=certificate, ktls="auto")
    listener = _listener(port)
    while True:
        sock, _ = listener.accept()
        with contextlib.suppress(Exception), agent.accept(place, sock, request) as handed:
            handed.sock.recv(1)


def _config(certificate: str, key: str) -> ServerConfig:
    from tlsify.config import ServerConfig
    from tlsify.credentials.key_pair import KeyPair

    return ServerConfig(key_pair=KeyPair.load(Path(certificate), Path(key)), resumption=True)


if __name__ == "__main__":
    way, port, *rest = sys.argv[1:]
    globals()[way](int(port), *rest)
