"""A small server of plain HTTP/1.1 for short answers, within bounds: one request each time."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple, Self, TypeAlias

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    # Makes the answer to the head of a request, which is empty if it was too long.
    Respond: TypeAlias = Callable[[bytes, object], bytes]

# Bytes that are read behind a request, so that closing does not reset the answer.
_REST_LIMIT = 2**16
_PIECE = 2**13
_ACCEPT_PAUSE = 1.0  # seconds


class Bounds(NamedTuple):
    """Limits of an endpoint.

    Attributes:
        seconds: for a request and its answer.
        head: bytes of a request's head.
        at_once: clients at a time.
    """

    seconds: float = 5.0
    head: int = 2**13
    at_once: int = 16


_USUAL = Bounds()


class Endpoint:
    """Answers requests on a listening socket.

    A request takes its time at most, and less if others come, so that a silent crowd keeps no other
    client waiting.
    """

    def __init__(self, listener: socket.socket, respond: Respond, bounds: Bounds = _USUAL) -> None:
        """Prepare; ``async with`` begins.

        Args:
            listener: bound and listening; it belongs to the endpoint from here on.
            respond: makes the answer to a head, and to the address of its client.
            bounds: for the clients.
        """
        self._listener = listener
        self._respond = respond
        self._bounds = bounds
        self._is_open = False
        self._asking: dict[asyncio.Task[None], str] = {}  # from where, the oldest first

    async def __aenter__(self) -> Self:
        """Begin to answer."""
        self._listener.settimeout(0)
        self._is_open = True
        self._listen()
        return self

    def leave(self, *, sweep: bool = False) -> None:
        """Accept no more; other processes that listen on the same socket do.

        Args:
            sweep: first accept waiting connections, since no other process would; no more than
                there may be at a time.
        """
        if self._is_open:
            left = self._bounds.at_once if sweep else 0
            while left and self._accept():
                left -= 1
            self._is_open = False
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()

    # asyncio's own servers drop connections accepted just before they are closed.

    def _listen(self) -> None:
        if self._is_open:
            asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _accept(self) -> bool:
        loop = asyncio.get_running_loop()
        try:
            sock, name = self._listener.accept()
        except (BlockingIOError, ConnectionError):  # another's, or gone
            return False
        except OSError:  # out of descriptors: later there may be one, such as the oldest client's
            if self._asking:
                self._make_room()
            loop.remove_reader(self._listener)
            loop.call_later(_ACCEPT_PAUSE, self._listen)
            return False
        if len(self._asking) >= self._bounds.at_once:
            self._make_room()
        task = loop.create_task(self._answer(sock, name))
        self._asking[task] = name[0] if isinstance(name, tuple) else ""
        task.add_done_callback(lambda done: self._asking.pop(done, None))
        return True

    def _make_room(self) -> None:
        """Drop the oldest client of the address with the most.

        An honest client sends its request at once, and has its answer before so many others have
        come.
        """
        ((crowd, _),) = Counter(self._asking.values()).most_common(1)
        oldest = next(task for task, origin in self._asking.items() if origin == crowd)
        del self._asking[oldest]
        oldest.cancel()

    async def __aexit__(self, *_: object) -> None:
        """Stop answering, after the answers under way."""
        self.leave()
        if self._asking:
            await asyncio.wait(self._asking)

    async def _answer(self, sock: socket.socket, name: object) -> None:
        reader, writer = await asyncio.open_connection(sock=sock, limit=self._bounds.head)
        try:
            with contextlib.suppress(OSError, EOFError, TimeoutError):
                async with asyncio.timeout(self._bounds.seconds):
                    await self._converse(reader, writer, name)
        finally:
            writer.transport.abort()

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: object
    ) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            head = b""
        writer.transport.set_write_buffer_limits(high=0)  # so that drain means all of it
        writer.write(self._respond(head, name))
        await writer.drain()
        writer.write_eof()
        # Closing on unread bytes would reset the answer.
        budget = _REST_LIMIT
        while budget > 0 and (more := await reader.read(_PIECE)):
            budget -= len(more)


def request_line(head: bytes) -> tuple[str, str, str]:
    """Parse a request line; return three empty strings if it is malformed (RFC 9112 3).

    Returns:
        Method, target and version.
    """
    try:
        method, target, version = head.partition(b"\r\n")[0].decode("ascii").split(" ")
    except ValueError:
        return "", "", ""
    if version not in {"HTTP/1.1", "HTTP/1.0"}:
        return "", "", ""
    return method, target, version
