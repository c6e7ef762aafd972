"""Wait for an agent's reply, for as long as the agent is at work on it."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from typing import NoReturn

from tlsify.agent import wire
from tlsify.connection.ending.patience import unacknowledged, unread
from tlsify.errors import AgentError

# Seconds for an agent to take a session, and beyond the handshake's own time for its reply.
PATIENCE = 5.0
# Seconds in which an agent that has taken it must go on when it is its turn, and between checks.
_STALLED = 10.0
_LOOK = 1.0
# linux/tcp.h, struct tcp_info, tcpi_data_segs_out: number of segments with data sent.
_SENT = struct.Struct("=156xI")


class Watch:
    """Observes from outside whether an agent is at work on a connection.

    The kernel knows whether it has received the request, whether it leaves the peer's data
    unread, and whether it has sent any data itself.
    """

    def __init__(self, sock: socket.socket, request: wire.Request) -> None:
        """Record the connection's state before the agent has it.

        Args:
            sock: the connection.
            request: implies the role; a client speaks first.
        """
        self._sock = sock
        self._has_the_word = isinstance(request, wire.ClientRequest)
        self._sent = _segments(sock)
        self._seconds = request.timeout + PATIENCE
        # If time is short, half of it is left for a handshake without the agent.
        self._patience = min(PATIENCE, request.timeout / 2)

    def wait(self, channel: socket.socket) -> None:
        """Wait until the channel has a reply, or has ended.

        Raises:
            AgentError: the agent hangs, or takes too long; ``untouched`` if it has not received the
                request, and will not act on it.
        """
        poller = select.poll()
        poller.register(channel, select.POLLIN)
        began = since = time.monotonic()
        before = None
        while not poller.poll(min(_LOOK, self._patience) * 1000):
            now = time.monotonic()
            if _is_unread(channel):
                if now - began >= self._patience:
                    self._take_back(channel)
                continue
            state = self._its_turn()
            if state is None or state != before:
                before, since = state, now
            if now - since >= _STALLED or now - began >= self._seconds:
                raise AgentError("the agent does not answer", untouched=False)

    def _take_back(self, channel: socket.socket) -> NoReturn:
        """Withdraw a request: an agent that reads it later finds the channel hung up.

        Raises:
            AgentError: always.
        """
        with contextlib.suppress(OSError):
            channel.shutdown(socket.SHUT_RDWR)
        raise AgentError(
            f"the agent takes no session within {round(self._patience, 2):g} seconds",
            untouched=_is_unread(channel),
        )

    def _its_turn(self) -> int | None:
        """Return how much of the peer's data is unread, or None if it is not the agent's turn."""
        left = unread(self._sock)
        is_silent = self._has_the_word and _segments(self._sock) == self._sent
        return left if left or is_silent else None


def _segments(sock: socket.socket) -> int:
    try:
        found = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SENT.size)
    except OSError:  # not TCP; the agent will refuse it
        return 0
    (count,) = _SENT.unpack(found)
    return int(count)


def _is_unread(channel: socket.socket) -> bool:
    """Return whether our message has not been received yet (unix(7) SIOCOUTQ)."""
    return unacknowledged(channel) > 0
