"""hypercorn with the files of the working folder, HTTP/2 or 1.1 as the client likes.

Usage: h2_server.py WAY PORT CERTIFICATE KEY
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_PIECE = 2**16


async def application(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Answer with a file, as ASGI has it: in pieces, since no sendfile gets into a frame."""
    if scope["type"] != "http":
        await receive()
        return
    path = Path.cwd() / scope["path"].lstrip("/")
    size = path.stat().st_size
    head = {"type": "http.response.start", "status": 200}
    await send(head | {"headers": [(b"content-length", b"%d" % size)]})
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            more = file.tell() < size
            await send({"type": "http.response.body", "body": piece, "more_body": more})


def _settle(config: Any, port: str, certificate: str, key: str) -> None:
    config.bind = [f"127.0.0.1:{port}"]
    config.certfile, config.keyfile = certificate, key
    config.loglevel = "ERROR"
    config.keep_alive_max_requests = sys.maxsize


def _own(*places: str) -> None:
    """Serve with Python's TLS."""
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    config, asgi = Config(), cast("Any", application)
    _settle(config, *places)
    asyncio.run(serve(asgi, config))


def _ours(way: str, *places: str) -> None:
    from tlsify.config import KtlsMode, KtlsPolicy
    from tlsify.integrations.hypercorn import Config, run

    config = Config()
    config.policy = KtlsPolicy(KtlsMode(way))
    _settle(config, *places)
    run(application, config)


if __name__ == "__main__":
    if sys.argv[1] == "ssl":
        _own(*sys.argv[2:])
    else:
        _ours(*sys.argv[1:])
