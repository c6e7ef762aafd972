"""Wait for an agent's reply: as long as its handshake may take, if it is at work on it."""

from __future__ import annotations

import contextlib
import fcntl
import select
import socket
import struct
import termios
import time
from typing import NoReturn

from tlsify.agent import wire
from tlsify.errors import AgentError

# Seconds for an agent to take a session, and beyond the handshake's own time for its reply.
PATIENCE = 5.0
# Seconds for an agent that has taken it to go on where nobody but itself is waited for, and between
# two looks for whether it does.
_STALLED = 10.0
_LOOK = 1.0
# linux/tcp.h, struct tcp_info, tcpi_data_segs_out: how many segments with data were sent.
_SENT = struct.Struct("=156xI")


class Watch:
    """Sees from outside whether an agent is at work on a connection.

    The kernel tells whether it has received the request, whether the peer has sent what it does not
    read, and whether it has sent anything.
    """

    def __init__(self, sock: socket.socket, request: wire.Request) -> None:
        """Look at the connection before the agent does.

        Args:
            sock: the connection.
            request: a client's, who speaks first, or a server's.
        """
        self._sock = sock
        self._has_the_word = isinstance(request, wire.ClientRequest)
        self._sent = _segments(sock)
        self._seconds = request.timeout + PATIENCE
        # Where there is little time, some of it is left for a handshake without the agent.
        self._patience = min(PATIENCE, request.timeout / 2)

    def wait(self, channel: socket.socket) -> None:
        """Wait until the agent has something to say, or is gone.

        Raises:
            AgentError: it does nothing, or takes too long; ``untouched`` if it has not taken the
                request, and never will.
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
        """Have an agent that reads its request later find that nobody asks any more.

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
        """Tell whether the peer waits for the agent: how much it has sent that is not read."""
        unread = _count(self._sock, termios.FIONREAD)
        is_silent = self._has_the_word and _segments(self._sock) == self._sent
        return unread if unread or is_silent else None


def _segments(sock: socket.socket) -> int:
    try:
        found = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SENT.size)
    except OSError:  # not TCP, as the agent will say
        return 0
    (count,) = _SENT.unpack(found)
    return int(count)


def _is_unread(channel: socket.socket) -> bool:
    """Tell whether what was sent has not been received: it is charged to us (unix(7) SIOCOUTQ)."""
    return _count(channel, termios.TIOCOUTQ) > 0


def _count(sock: socket.socket, request: int) -> int:
    (count,) = struct.unpack("i", fcntl.ioctl(sock, request, bytes(4)))
    return int(count)
