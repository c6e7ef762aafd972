"""Site: the files of a folder over HTTPS, with sendfile."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from tlsify.aio.transport import attach
from tlsify.aio.watching import watched
from tlsify.connection.stillness import SEND_TIMEOUT, Bounds
from tlsify.errors import said
from tlsify.http.protocol import HttpProtocol, Sent
from tlsify.http.request import Request
from tlsify.logs.access import CLEAN, AccessLog, Subject, ending
from tlsify.system import sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tlsify.connection.handoff import Handoff
    from tlsify.http.answer import Answer
    from tlsify.integrations.static_answers import Folder

# How long a connection may be idle, in seconds, and how long a request may take to come.
_KEEP_ALIVE = 75.0
_REQUEST = 30.0
# The same while we drain: a client that has just got an answer may be sending its next request,
# which closing would lose.
_KEEP_ALIVE_DRAINING = 3.0
# The first one while newcomers have to wait for a place.
_KEEP_ALIVE_FULL = 1.0
# How often to look. That is one timer for all: each request would set several of its own.
_LOOK = 0.5


class Site:
    """A folder's `serving.Service`, on a loop of `tlsify.aio.loop`.

    To drain, it tells clients with their next answer that it is the last one (RFC 9112 9.6), and
    closes connections that have been idle for some seconds.
    """

    def __init__(
        self,
        folder: Folder,
        *,
        send_timeout: float = SEND_TIMEOUT,
        access_log: AccessLog | None = None,
        fields: str = "",
    ) -> None:
        """Store what is served.

        Args:
            folder: answers requests.
            send_timeout: seconds that a client may take nothing of an answer, before it is cut off.
            access_log: gets a line for each request.
            fields: further lines of each answer's header section, each with its end.
        """
        self._access_log = access_log
        self._fields = fields
        self._bounds = Bounds(send=send_timeout)
        self._folder = folder
        self._living: set[HttpProtocol] = set()
        self._draining = False
        self._is_full: Callable[[], bool] = lambda: False
        self._looking: asyncio.Task[None]

    async def start(self, is_full: Callable[[], bool] = lambda: False) -> None:
        """Begin to look after connections; keep to the folder if no other one is within reach.

        Args:
            is_full: whether idle connections are to make room for others.
        """
        self._is_full = is_full
        if sandbox.in_force().landlock:
            self._folder.pin()
        self._looking = asyncio.create_task(self._look())

    async def serve(self, handed: Handoff) -> None:
        """Serve one connection.

        Raises:
            TimeoutError: the client has read nothing of an answer.
        """
        sent = None
        if self._access_log is not None:
            sent = partial(_record, self._access_log, Subject(handed), handed)
        work = attach(lambda: HttpProtocol(self._answer, self._living, sent, self._fields), handed)
        await watched(work, handed, self._bounds, lambda: False)

    async def drain(self) -> None:
        """Close idle connections, and others with their next answer."""
        self._draining = True

    def backends(self) -> Mapping[str, bool]:
        """Return none."""
        return {}

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
            limits = (_KEEP_ALIVE_FULL if self._is_full() else _KEEP_ALIVE, _REQUEST)
            if self._draining:
                limits = (_KEEP_ALIVE_DRAINING, _KEEP_ALIVE_DRAINING)
            for protocol in list(self._living):
                protocol.end_if_late(*limits)


def _record(log: AccessLog, subject: Subject, handed: Handoff, sent: Sent) -> None:
    """Write a line about a request, or about what was none."""
    request, error = sent.request, sent.error
    receiving = handed.relay if handed.channel is None else handed.channel.session
    if receiving is not None and isinstance(error, ConnectionError):
        error = receiving.failure or error  # a send knows only that it came too late
    end = CLEAN if error is None else ending(error)
    line = size = asked = referer = agent = None
    if isinstance(request, Request):
        version = ".".join(map(str, request.version))
        line, size = f"{request.method} {request.target} HTTP/{version}", request.size
        asked, referer, agent = map(request.field, ("Range", "Referer", "User-Agent"))
    else:
        error = error or request
    log.request(
        subject,
        {
            "request": line,
            "status": sent.status,
            "range": asked,
            "received": size,
            "sent": sent.size,
            "seconds": sent.seconds,
            "end": end,
            "error": None if error is None else said(error) or None,
            "referer": referer,
            "user_agent": agent,
        },
    )
