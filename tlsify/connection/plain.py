"""Plain: a connection without TLS, for code that serves connections of either kind."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import TYPE_CHECKING, Self

from tlsify.connection.ending import linger

if TYPE_CHECKING:
    from types import TracebackType

_AT_ONCE = struct.pack("=ii", 1, 0)  # struct linger: on, no time


class _Rest:
    """Receives what nobody wants any more (`linger.Receiver`)."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def discard(self, scratch: memoryview) -> int:
        return self._sock.recv_into(scratch, 0, socket.MSG_DONTWAIT)

    def wipe(self) -> None:
        """Do nothing: there is no secret."""


class Plain:
    """A connection without TLS, with the methods of a `Handoff` that its servers call.

    Attributes:
        sock: the connection.
        relay: None: the socket is the connection itself.
    """

    __slots__ = ("sock",)

    relay = None

    def __init__(self, sock: socket.socket) -> None:
        """Take over a connected socket."""
        self.sock = sock

    def shutdown(self) -> None:
        """End the sending direction; a receive shows whether the peer has gone."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """End both directions, in the background while the peer has not received all data.

        With unread input a mere close would reset the connection, and lose what is on its way.
        """
        if self.sock.fileno() == -1:
            return
        if linger.is_owed(self.sock):
            sock = socket.socket(fileno=self.sock.detach())
            linger.finish(linger.Ending(sock, None, _Rest(sock)))
        else:
            self.sock.close()

    def abort(self) -> None:
        """End both directions with RST, so that the peer sees a cut, where that can be told."""
        if self.sock.fileno() != -1:
            with contextlib.suppress(OSError):
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            self.sock.close()

    def __enter__(self) -> Self:
        """Close at the end of the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close; with RST after an exception."""
        if kind is None:
            self.close()
        else:
            self.abort()
