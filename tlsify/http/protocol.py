"""HttpProtocol: a connection on which requests are answered one after the other."""

from __future__ import annotations

import asyncio
import errno
import logging
from io import FileIO
from typing import TYPE_CHECKING, NamedTuple, cast

from tlsify.errors import said
from tlsify.http.answer import Answer, FilePart, refusal
from tlsify.http.request import HTTP10, BadRequest, Reader, Request

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO, TypeAlias

    # Told how many bytes of an answer were sent, and what kept the rest back.
    _Tell: TypeAlias = Callable[[int, BaseException | None], None]

_log = logging.getLogger("tlsify")

# What is parsed ahead of the answers; a client may send many short requests at once.
_PIECE = 4 * 1024
# Answers that are sent at once before other connections have their turn, and seconds for them.
_TURN = 16
_LONGEST_TURN = 0.001
# Most plain text of a TLS record (RFC 8446 5.1): a file that fits in with the header section goes
# along with it, which spares both sides a record, and us a task.
_RECORD = 16 * 1024
_NOTHING = memoryview(b"")


class Sent(NamedTuple):
    """What has become of a request.

    Attributes:
        request: or what was none.
        status: of the answer.
        size: bytes of the answer that were sent, header section included.
        seconds: from when the request was there to when the kernel, or a relay, had the answer.
        error: what kept the rest from being sent; None if all was.
    """

    request: Request | BadRequest
    status: int
    size: int
    seconds: float
    error: BaseException | None


def _tell_nobody(_size: int, _error: BaseException | None) -> None:
    """Do nothing: no log of requests is wanted."""


class HttpProtocol(asyncio.Protocol):
    """Answers the requests of a connection, in their order.

    Reading is paused while requests wait for answers before them: neither requests nor answers
    pile up. Content of requests is never kept.
    """

    def __init__(
        self,
        answer: Callable[[Request], Answer],
        living: set[HttpProtocol],
        sent: Callable[[Sent], None] | None = None,
        fields: str = "",
    ) -> None:
        """Store what answers requests.

        Args:
            answer: makes answers at once.
            living: to be in while there is a connection.
            sent: told of each answer.
            fields: further lines of each header section, each with its end.
        """
        self._fields = fields
        self._sent = sent
        self._answer = answer
        self._living = living
        self._loop = asyncio.get_running_loop()
        self._reader = Reader()
        self._fault: BadRequest | None = None
        self._transport: asyncio.Transport
        self._unread = _NOTHING  # a view: pieces are taken off it without moving the rest
        self._sending: asyncio.Task[None] | None = None
        self._is_full = False  # the transport takes no more for now
        self._is_due = False  # we go on in the loop's next round
        self._has_ended = False  # the client sends no more, and may be waiting for answers
        self._is_over = False  # the last answer has been sent, or the connection is lost
        self._holds = False  # we have paused reading
        # Since when we have been waiting for a request, or for the rest of one.
        self._since = self._loop.time()
        self._was_amid = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for requests."""
        self._transport = cast("asyncio.Transport", transport)
        self._living.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Answer no more; a file that is being sent learns of it from the transport."""
        del exc
        self._finish()
        self._living.discard(self)

    def data_received(self, data: bytes) -> None:
        """Answer what has come, or keep it until its turn."""
        if not self._is_over:
            self._unread = memoryview(bytes(self._unread) + data)
            self._go_on()

    def eof_received(self) -> bool:
        """Keep the connection while answers are due; without any, the transport closes it."""
        self._has_ended = True
        return self._is_busy

    def pause_writing(self) -> None:
        """Send no more answers until the client has taken some."""
        self._is_full = True

    def resume_writing(self) -> None:
        """Go on with the next answer."""
        self._is_full = False
        self._resume()

    def end_if_late(self, idle: float, request: float) -> None:
        """End the connection if the client does not ask for anything.

        Args:
            idle: how many seconds it may send nothing after an answer.
            request: how many seconds it may take to send a request.
        """
        if self._is_busy or self._is_over:
            return
        waited = self._loop.time() - self._since
        if self._reader.is_amid:
            if waited >= request:
                self._respond(BadRequest(408, "the request did not come to its end in time"))
        elif waited >= idle:
            self._finish()
            self._transport.close()

    @property
    def _is_busy(self) -> bool:
        return self._is_full or self._is_due or self._sending is not None

    def _finish(self) -> None:
        """Forget what will not be answered."""
        self._is_over = True
        self._unread = _NOTHING
        self._fault = None
        self._reader.found.clear()

    def _go_on(self) -> None:
        """Answer requests, as long as the transport takes answers."""
        number = 0
        began = self._loop.time()
        while not (self._is_busy or self._transport.is_closing()):
            request = self._next()
            if request is None:
                break
            self._respond(request)
            number += 1
            if number == _TURN or self._loop.time() - began > _LONGEST_TURN:
                self._is_due = True
                self._loop.call_soon(self._take_turn)
        if not self._is_over:
            self._wait(is_new=number > 0)

    def _take_turn(self) -> None:
        self._is_due = False
        self._resume()

    def _resume(self) -> None:
        """Go on after a time that the client need not answer for."""
        self._since = self._loop.time()
        self._go_on()

    def _next(self) -> Request | BadRequest | None:
        found = self._reader.found
        while True:
            if found and found[0].can_be_answered:
                return found.popleft()
            if self._fault is not None:
                return self._fault
            if not self._unread:
                return None
            piece, self._unread = self._unread[:_PIECE], self._unread[_PIECE:]
            try:
                self._reader.feed(piece)
            except BadRequest as exc:
                self._fault = exc

    def _wait(self, *, is_new: bool) -> None:
        """Wait for requests, or, before that, for what keeps us from answering."""
        if not self._is_busy and self._has_ended:
            self._finish()
            self._transport.close()
            return
        is_amid = self._reader.is_amid
        if is_new or is_amid != self._was_amid:
            self._was_amid = is_amid
            self._since = self._loop.time()
        if self._holds != bool(self._unread):
            self._holds = not self._holds
            if self._holds:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _respond(self, request: Request | BadRequest) -> None:
        """Send an answer, or, if that takes more than a moment, begin to."""
        connection = None
        if isinstance(request, BadRequest):
            _log.info("bad request: %s", request)
            answer = refusal(request.status)
            closes = True
        else:
            answer = self._make(request)
            closes = answer.closes or not (request.persists and request.is_whole)
            if request.version == HTTP10:
                connection = "keep-alive"
            if request.method == "HEAD":
                answer.content = b""
        if closes:
            connection = "close"
            self._finish()
        tell = self._teller(request, answer.status)
        head, part = answer.head(connection, self._fields), answer.content
        if not isinstance(part, FilePart):
            content = part
        elif len(head) + part.size <= _RECORD:
            try:
                content = _read(part)
            except OSError as exc:
                self._finish()
                self._transport.abort()
                tell(0, exc)
                return
        else:
            file = FileIO(part.descriptor)
            self._sending = self._loop.create_task(self._send(head, file, part, tell))
            return
        self._transport.write(head + content)
        if closes:
            self._transport.close()
        tell(len(head) + len(content), None)

    def _teller(self, request: Request | BadRequest, status: int) -> _Tell:
        """Return what tells what becomes of an answer, from now on."""
        sent, clock = self._sent, self._loop.time
        if sent is None:
            return _tell_nobody
        began = clock()
        return lambda size, error: sent(Sent(request, status, size, clock() - began, error))

    def _make(self, request: Request) -> Answer:
        try:
            return self._answer(request)
        except Exception as exc:  # noqa: BLE001 - the client is told, whatever it is
            _log.error("bug in an answer", exc_info=exc)
            answer = refusal(500)
            answer.closes = True
            return answer

    async def _send(self, head: bytes, file: FileIO, part: FilePart, tell: _Tell) -> None:
        """Send a file by the loop's ``sendfile``.

        The client would take the next answer for the rest of it, if it has become shorter
        meanwhile: so the connection ends without close_notify then, as with any other error.
        """
        transport = self._transport
        sent = 0
        error: BaseException | None = None
        try:
            with file:
                transport.write(head)
                try:
                    sent = await self._loop.sendfile(
                        transport, cast("BinaryIO", file), part.offset, part.size
                    )
                except BaseException:
                    sent = max(file.tell() - part.offset, 0)  # it is left behind what was sent
                    raise
            if sent < part.size:
                error = _shortened(sent, part)
        except ConnectionError as exc:
            error = exc  # the client has gone
        except OSError as exc:
            error = exc
            _log_unreadable(exc)
        except asyncio.CancelledError as exc:
            error = exc
            raise
        finally:
            self._sending = None
            tell(len(head) + sent, error)
            if error is not None:
                self._finish()
                transport.abort()
        if self._is_over:
            transport.close()
        else:
            self._resume()


def _read(part: FilePart) -> bytes:
    """Read a small part and close its file.

    Raises:
        OSError: the client cannot have what is announced.
    """
    try:
        content = part.read()
    except OSError as exc:
        _log_unreadable(exc)
        raise
    finally:
        part.close()
    if len(content) < part.size:
        error = _shortened(len(content), part)
        _log.warning("connection ended: %s", error.strerror)
        raise error
    return content


def _shortened(size: int, part: FilePart) -> OSError:
    return OSError(errno.ENODATA, f"a file had {size} of {part.size} bytes")


def _log_unreadable(exc: OSError) -> None:
    _log.warning("connection ended: a file cannot be read: %s", said(exc))
