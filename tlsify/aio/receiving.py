"""The receiving side of ``tlsify forward --pass-fd`` on the loop: a task per connection."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Self

from tlsify.aio.pump import readable
from tlsify.errors import TlsifyError
from tlsify.receiver import Receiver, take

if TYPE_CHECKING:
    import os
    import socket
    from collections.abc import Awaitable, Callable

    from tlsify.connection.handoff import Handoff
    from tlsify.passing.metadata import ConnectionInfo

_log = logging.getLogger("tlsify")

_PATIENCE = 5.0  # seconds for a sender's message
_PAUSE = 0.1  # seconds after which to accept again, when that has failed


class Receiving:
    """Receives connections as `receiver.Receiver` does, and serves each in a task."""

    def __init__(
        self,
        where: str | os.PathLike[str] | socket.socket,
        serve: Callable[[Handoff, ConnectionInfo], Awaitable[None]],
        mode: int = 0o600,
    ) -> None:
        """Prepare; ``async with`` begins, and ends once every connection has.

        Args:
            where: as `Receiver` has it.
            serve: lasts for as long as the connection.
            mode: as `Receiver` has it.

        Raises:
            ConfigError: it cannot be listened on.
        """
        self._receiver = Receiver(where, mode)
        self._serve = serve
        self._accepting: asyncio.Task[None] | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Begin to accept."""
        self._receiver.sock.settimeout(0)
        self._accepting = asyncio.create_task(self._accept_forever())
        return self

    def close(self) -> None:
        """Stop accepting; tlsify keeps further connections for the next receiver."""
        if self._accepting is not None:
            self._accepting.cancel()

    async def __aexit__(self, *_: object) -> None:
        """Stop accepting, and wait for the tasks; cancelling this cancels them."""
        self.close()
        if self._accepting is not None:
            await asyncio.gather(self._accepting, return_exceptions=True)
        self._receiver.close()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _accept_forever(self) -> None:
        try:
            while True:
                await self._accept()
        finally:
            self._receiver.close()  # at once: others may listen in its place

    async def _accept(self) -> None:
        await readable(self._receiver.sock)
        try:
            channel, _ = self._receiver.sock.accept()
        except BlockingIOError:  # another process was quicker
            return
        except OSError as exc:
            _log.warning("cannot accept: %s", exc)
            await asyncio.sleep(_PAUSE)
            return
        task = asyncio.create_task(self._take(channel))
        self._serving.add(task)
        task.add_done_callback(self._ended)

    async def _take(self, channel: socket.socket) -> None:
        with channel:
            channel.settimeout(0)
            try:
                async with asyncio.timeout(_PATIENCE):
                    await readable(channel)
            except TimeoutError:
                _log.warning("no connection was received: the sender said nothing in time")
                return
            found = take(channel)
        if found is None:
            return
        handed, told = found
        handed.sock.settimeout(0)
        try:
            with handed:
                await self._serve(handed, told)
        except (TlsifyError, OSError) as exc:
            _log.info("connection ended: %s", exc)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._serving.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("bug in a connection", exc_info=error)
