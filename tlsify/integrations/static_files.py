"""aiohttp: the files of a folder over HTTPS, with sendfile."""

from __future__ import annotations

import asyncio
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger
from yarl import URL

from tlsify.aio.transport import attach

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable
    from concurrent.futures import Future
    from pathlib import Path

    from aiohttp.typedefs import Handler

    from tlsify.handoff import Handoff

_INDEX = "index.html"
_MAX_REQUEST_BODY = 2**16
# How long a connection may be idle, in seconds, and how long while we drain: a client that has
# just got an answer may be sending its next request, which closing would lose.
_KEEP_ALIVE = 75.0
_KEEP_ALIVE_DRAINING = 3.0
_LOOK = 0.25


def application(root: Path) -> web.Application:
    """Build an application that answers GET and HEAD from a folder.

    Ranges, conditional requests and MIME types are aiohttp's; what lies outside the folder, also
    by way of symbolic links, is not found.

    Args:
        root: resolved path of the folder.
    """
    prefix = os.path.join(root, "")  # noqa: PTH118 - pathlib takes as long as all of this

    def find(name: str) -> tuple[str, int]:
        """Resolve a path below the folder; gives it with what kind of file is there."""
        path = os.path.realpath(prefix + name)
        if not (path + os.sep).startswith(prefix):
            raise web.HTTPNotFound
        return path, stat.S_IFMT(os.stat(path).st_mode)  # noqa: PTH116 - likewise

    async def answer(request: web.Request) -> web.StreamResponse:
        name = request.match_info["path"].lstrip("/")
        try:
            path, kind = find(name)
            if kind == stat.S_IFDIR:
                if not request.path.endswith("/"):
                    location = "/" + request.path.strip("/") + "/"
                    raise web.HTTPMovedPermanently(URL.build(path=location))
                path, kind = find(f"{name}/{_INDEX}")
            elif request.path.endswith("/"):  # a file is no folder
                raise web.HTTPNotFound
        # A name too long, a NUL byte, a loop of links.
        except (OSError, ValueError) as exc:
            raise web.HTTPNotFound from exc
        if kind != stat.S_IFREG:
            raise web.HTTPNotFound
        return web.FileResponse(path)

    app = web.Application(client_max_size=_MAX_REQUEST_BODY)
    app.router.add_get("/{path:.*}", answer)
    return app


class _AtOnce(ThreadPoolExecutor):
    """Does at once what it is given.

    aiohttp has a thread open and close each file. The way there and back takes longer than the
    work, and a disk that is slow holds up the loop's ``sendfile`` just the same.
    """

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call, and give what is done already: nobody has to wait for the loop's next round."""
        # Of asyncio's kind, which `asyncio.wrap_future` gives to who waits as it is.
        done: Any = asyncio.get_running_loop().create_future()
        done.set_result(fn(*args, **kwargs))  # what it raises comes to who calls, and waits at once
        return done  # type: ignore[no-any-return]


class Site:
    """A folder's `serving.Service`, on a loop of `tlsify.aio.loop`.

    That loop's sendfile ends a connection whose file is cut short meanwhile: aiohttp would go on,
    and the client would take the next answer for the rest of the file.

    To drain, it tells clients with their next answer that it is the last one (RFC 9112 9.6), and
    closes connections that have been idle for some seconds.
    """

    def __init__(self, root: Path) -> None:
        """Take the resolved path of the folder."""
        self._app = application(root)
        self._app.middlewares.append(self._visit)
        # Since when connections are idle, on the loop's clock; None for those that are not.
        self._idle: dict[asyncio.BaseProtocol, float | None] = {}
        self._draining = False
        self._runner = web.AppRunner(
            self._app,
            access_log_class=_rest_of(self._idle),
            handle_signals=False,
            keepalive_timeout=_KEEP_ALIVE,
        )

    async def start(self) -> None:
        """Set up aiohttp's own."""
        asyncio.get_running_loop().set_default_executor(_AtOnce())
        await self._runner.setup()

    async def serve(self, handed: Handoff) -> None:
        """Serve one connection."""
        server = self._runner.server
        if server is None:
            raise RuntimeError("aiohttp's runner has no server before its set-up")
        protocol = server()
        self._idle[protocol] = asyncio.get_running_loop().time()
        try:
            await attach(lambda: protocol, handed)
        finally:
            del self._idle[protocol]

    async def drain(self) -> None:
        """Let go of whoever is idle, and, with its next answer, of whoever is not."""
        self._draining = True
        loop = asyncio.get_running_loop()
        while True:
            for protocol, since in list(self._idle.items()):
                rests = since is not None and loop.time() - since >= _KEEP_ALIVE_DRAINING
                if rests and isinstance(protocol, web.RequestHandler):
                    protocol.force_close()  # close() leaves idle ones open
            await asyncio.sleep(_LOOK)

    async def stop(self) -> None:
        """Take aiohttp's own down."""
        await self._runner.cleanup()

    @web.middleware
    async def _visit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._idle[request.protocol] = None
        try:
            response = await handler(request)
        except web.HTTPException as exc:
            if self._draining:
                exc.force_close()
            raise
        if self._draining:
            response.force_close()
        return response


def _rest_of(idle: dict[asyncio.BaseProtocol, float | None]) -> type[AbstractAccessLogger]:
    """Make what aiohttp tells of each request once its answer is sent."""

    class Rest(AbstractAccessLogger):
        def __init__(self, logger: logging.Logger, log_format: str) -> None:
            super().__init__(logger, log_format)

        def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
            del response, time
            if request.protocol in idle:
                idle[request.protocol] = asyncio.get_running_loop().time()

    return Rest
