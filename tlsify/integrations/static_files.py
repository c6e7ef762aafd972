"""Site: the files of a folder over HTTPS, with sendfile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tlsify.aio.transport import attach
from tlsify.aio.watching import watched
from tlsify.connection.stillness import SEND_TIMEOUT, Bounds
from tlsify.http.protocol import HttpProtocol
from tlsify.integrations.static_answers import Folder
from tlsify.system import sandbox

if TYPE_CHECKING:
    from pathlib import Path

    from tlsify.connection.handoff import Handoff
    from tlsify.http.answer import Answer
    from tlsify.http.request import Request

# How long a connection may be idle, in seconds, and how long a request may take to come.
_KEEP_ALIVE = 75.0
_REQUEST = 30.0
# The same while we drain: a client that has just got an answer may be sending its next request,
# which closing would lose.
_KEEP_ALIVE_DRAINING = 3.0
# How often to look. That is one timer for all: each request would set several of its own.
_LOOK = 0.5


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
        self._living: set[HttpProtocol] = set()
        self._draining = False
        self._looking: asyncio.Task[None]

    async def start(self) -> None:
        """Begin to look after connections; keep to the folder if no other one is within reach."""
        if sandbox.in_force().landlock:
            self._folder.pin()
        self._looking = asyncio.create_task(self._look())

    async def serve(self, handed: Handoff) -> None:
        """Serve one connection.

        Raises:
            TimeoutError: the client has read nothing of an answer.
        """
        work = attach(lambda: HttpProtocol(self._answer, self._living), handed)
        await watched(work, handed, self._bounds, lambda: False)

    async def drain(self) -> None:
        """Close idle connections, and others with their next answer."""
        self._draining = True

    async def stop(self) -> None:
        """Look no more."""
        self._looking.cancel()
        await asyncio.gather(self._looking, return_exceptions=True)

    def _answer(self, request: Request) -> Answer:
        answer = self._folder.answer(request)
        answer.closes |= self._draining
        return answer

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK)
            limits = (_KEEP_ALIVE, _REQUEST)
            if self._draining:
                limits = (_KEEP_ALIVE_DRAINING, _KEEP_ALIVE_DRAINING)
            for protocol in list(self._living):
                protocol.end_if_late(*limits)
