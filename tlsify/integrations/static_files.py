"""aiohttp: the files of a folder over HTTPS, with sendfile."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, cast

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.http_exceptions import HttpProcessingError

from tlsify.aio.transport import attach
from tlsify.aio.watching import watched
from tlsify.connection.stillness import SEND_TIMEOUT, Bounds
from tlsify.integrations.static_answers import Folder, Request
from tlsify.system import sandbox

if TYPE_CHECKING:
    from pathlib import Path

    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.http import RawRequestMessage
    from aiohttp.streams import StreamReader

    from tlsify.connection.handoff import Handoff

_log = logging.getLogger("tlsify")

# How long a connection may be idle, in seconds, and how long while we drain: a client that has
# just got an answer may be sending its next request, which closing would lose.
_KEEP_ALIVE = 75.0
_KEEP_ALIVE_DRAINING = 3.0
_LOOK = 0.25


class Site:
    """A folder's `serving.Service`, on a loop of `tlsify.aio.loop`.

    To drain, it tells clients with their next answer that it is the last one (RFC 9112 9.6), and
    closes connections that have been idle for some seconds.
    """

    def __init__(
        self,
        root: Path,
        *,
        alias: Path | None = None,
        dotfiles: bool = False,
        precompressed: bool = False,
        send_timeout: float = SEND_TIMEOUT,
    ) -> None:
        """Take the arguments of `static_answers.Folder`.

        Args:
            root: likewise.
            alias: likewise.
            dotfiles: likewise.
            precompressed: likewise.
            send_timeout: seconds that a client may take nothing of an answer, before it is cut off.
        """
        self._bounds = Bounds(send=send_timeout)
        self._folder = Folder(root, alias=alias, dotfiles=dotfiles, precompressed=precompressed)
        # Since when connections are idle, on the loop's clock; None for those that are not.
        self._idle: dict[asyncio.BaseProtocol, float | None] = {}
        self._draining = False
        self._runner: web.ServerRunner

    async def start(self) -> None:
        """Set up aiohttp's own, and keep to the folder if no other one is within reach."""
        if sandbox.in_force().landlock:
            self._folder.pin()
        logging.getLogger("aiohttp.server").addFilter(_is_our_fault)
        server = web.Server(
            self._answer,
            request_factory=_make_request,
            access_log_class=_rest_of(self._idle),
            keepalive_timeout=_KEEP_ALIVE,
        )
        self._runner = web.ServerRunner(server)
        await self._runner.setup()

    async def serve(self, handed: Handoff) -> None:
        """Serve one connection.

        Raises:
            TimeoutError: the client has taken nothing of an answer.
        """
        server = self._runner.server
        if server is None:
            raise RuntimeError("aiohttp's runner has no server before its set-up")
        protocol = server()
        self._idle[protocol] = asyncio.get_running_loop().time()
        try:
            work = attach(lambda: protocol, handed)
            await watched(work, handed, self._bounds, lambda: False)
        finally:
            del self._idle[protocol]

    async def drain(self) -> None:
        """Close idle connections, and others with their next answer."""
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

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self._idle[request.protocol] = None
        answer = self._folder.answer(cast("Request", request))
        if self._draining:
            answer.force_close()
        return answer


def _make_request(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: web.RequestHandler,
    writer: AbstractStreamWriter,
    task: asyncio.Task[None],
) -> Request:
    return Request(message, payload, protocol, writer, task, asyncio.get_running_loop())


def _is_our_fault(record: logging.LogRecord) -> bool:
    """Return whether an error is ours; a client could fill the log with malformed HTTP."""
    fault = record.exc_info[1] if record.exc_info else None
    if isinstance(fault, HttpProcessingError):
        _log.info("bad request: %s", fault.message.partition("\n")[0])
        return False
    return True


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
