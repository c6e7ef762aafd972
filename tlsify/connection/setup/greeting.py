"""A client's ClientHello: left to the kernel until it is whole."""

from __future__ import annotations

import contextlib
import socket

from tlsify.tls.client_hello import shortest
from tlsify.tls.record import FIRST_FLIGHT


class Greeting:
    """Waits for a ClientHello without receiving any of it.

    Until then a connection is a descriptor and little more. A client that sends its ClientHello
    byte by byte wakes this process once or twice, since the kernel is told how many bytes are
    worth waking up for.
    """

    def __init__(self, sock: socket.socket) -> None:
        """Begin with nothing.

        Args:
            sock: without a timeout of its own: it does not block.
        """
        self._sock = sock
        self._awaited = 1

    def has_come(self) -> bool:
        """Return whether the handshake may begin; False says to ask again once it is readable.

        It may begin with a ClientHello that is whole or rather long, and also where there will be
        none: at the end of the stream, and with bytes of another kind.

        Raises:
            OSError: the connection broke.

        Source: socket(7) SO_RCVLOWAT, which poll(2) heeds for TCP alone: where it does not, the
            handshake begins with the second piece.
        """
        try:
            received = self._sock.recv(FIRST_FLIGHT, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        awaited = min(shortest(received), FIRST_FLIGHT)
        if len(received) >= awaited or awaited <= self._awaited or not received:
            if self._awaited > 1:
                self._await(1)
            return True
        self._await(awaited)
        return False

    def drop(self) -> None:
        """Receive what there is, before the connection is closed: unread bytes would reset it."""
        with contextlib.suppress(OSError):
            self._sock.recv(FIRST_FLIGHT)

    def _await(self, number: int) -> None:
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, number)
        self._awaited = number
