"""aiohttp: the files of a folder over HTTPS, with sendfile."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from aiohttp import web
from yarl import URL

from tlsify.aio import Acceptor

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

    from tlsify.config import KtlsPolicy, ServerConfig

_INDEX = "index.html"
_DRAIN_SECONDS = 30.0
_MAX_REQUEST_BODY = 2**16


def application(root: Path) -> web.Application:
    """Build an application that answers GET and HEAD from a folder.

    Ranges, conditional requests and MIME types are aiohttp's; what lies outside the folder, also
    by way of symbolic links, is not found.

    Args:
        root: resolved path of the folder.
    """

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            path = (root / request.match_info["path"].lstrip("/")).resolve()
            if not path.is_relative_to(root):
                raise web.HTTPNotFound
            if path.is_dir():
                if not request.path.endswith("/"):
                    location = "/" + request.path.strip("/") + "/"
                    raise web.HTTPMovedPermanently(URL.build(path=location))
                path /= _INDEX
            elif request.path.endswith("/"):  # a file is no folder
                raise web.HTTPNotFound
            if not path.is_file():
                raise web.HTTPNotFound
        # A name too long, a NUL byte, a loop of links (RuntimeError before Python 3.13).
        except (OSError, ValueError, RuntimeError) as exc:
            raise web.HTTPNotFound from exc
        return web.FileResponse(path)

    app = web.Application(client_max_size=_MAX_REQUEST_BODY)
    app.router.add_get("/{path:.*}", answer)
    return app


def serve(
    listener: socket.socket,
    root: Path,
    config: ServerConfig,
    policy: KtlsPolicy,
    ready: Callable[[], None],
) -> None:
    """Serve a folder until SIGTERM or SIGINT, then finish what has begun.

    Args:
        listener: bound and listening.
        root: resolved path of the folder.
        config: certificate and protocol choices.
        policy: when to offload.
        ready: called once connections are accepted.
    """
    asyncio.run(_serve(listener, root, config, policy, ready))


async def _serve(
    listener: socket.socket,
    root: Path,
    config: ServerConfig,
    policy: KtlsPolicy,
    ready: Callable[[], None],
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    runner = web.AppRunner(
        application(root), access_log=None, handle_signals=False, shutdown_timeout=_DRAIN_SECONDS
    )
    await runner.setup()
    if runner.server is None:
        raise RuntimeError("aiohttp's runner has no server after its set-up")
    async with Acceptor(listener, runner.server, config, policy):
        ready()
        await stop.wait()
    await runner.cleanup()
