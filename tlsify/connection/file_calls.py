"""FileCalls: sendfile and makefile of a stream."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

from tlsify.connection.ending import files, forks
from tlsify.connection.options import ConnectionSocket
from tlsify.system import plain_files

if TYPE_CHECKING:
    from collections.abc import Callable
    from socket import _SendableFile

    from tlsify.connection.control import Channel
    from tlsify.connection.ending.calls import Calls
    from tlsify.connection.ending.forks import Share
    from tlsify.connection.ending.patience import Death

# Bytes to send before another thread, or the answer to a KeyUpdate, gets a turn.
TURN = 2**22


class FileCalls(ConnectionSocket):
    """A stream that sends files, and is one."""

    _channel: Channel | None
    _share: Share
    _calls: Calls
    _timeout: float | None
    death: Death

    def sendfile(self, file: _SendableFile, offset: int = 0, count: int | None = None) -> int:
        """Send a file, as ``socket.sendfile``: a plain one from the kernel's own cache."""
        self._share.used = forks.seen
        source = plain_files.descriptor(file)
        if source is None:
            return self._sendfile_use_send(file, offset, count)  # type: ignore[attr-defined,no-any-return]
        with self._calls.sends:
            if self._channel is None:
                return super().sendfile(file, offset, count)
            return self._send_pages(self._channel, file, source, offset, count)

    def _send_pages(
        self, channel: Channel, file: _SendableFile, source: int, offset: int, count: int | None
    ) -> int:
        if self._timeout == 0:
            raise ValueError("non-blocking sockets are not supported")
        self._check_sendfile_params(file, offset, count)  # type: ignore[attr-defined]
        total = 0
        try:
            while count is None or total < count:
                size = TURN if count is None else min(TURN, count - total)
                attempt = partial(os.sendfile, self.fileno(), source, offset + total, size)
                sent = self._transmit(channel, attempt)
                if not sent:
                    break
                total += sent
                if sent < size:  # the file's end, or something has come between
                    self.death.look()
        finally:
            if total and hasattr(file, "seek"):
                file.seek(offset + total)
        return total

    def _transmit(self, channel: Channel, attempt: Callable[[], int]) -> int:
        """Send once; return the number of bytes."""
        raise NotImplementedError

    def makefile(self, *arguments: Any, **options: Any) -> Any:
        """Make a file object, whose buffer is also sent at the interpreter's end."""
        return files.flushed(super().makefile(*arguments, **options), self)
