"""RemoteRelay: a connection that the agent relays, seen from the program's process."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from tlsify.agent import wire
from tlsify.agent.errors import revive
from tlsify.errors import AgentError
from tlsify.system import scm_rights

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlsify.errors import TlsifyError

# Milliseconds in which an agent that has ended the program's stream, or died, reports it.
_VERDICT = 1000


class _Channel(socket.socket):
    """Channel that closes silently if its end is not needed: the connection goes on without it."""

    def __del__(self) -> None:
        self.close()


class RemoteRelay:
    """A connection that the agent relays, seen from here: a `handoff.Carrier`.

    Attributes:
        local_address: the connection's; None if it was already broken.
        peer_address: likewise.
        dies_with_process: False; the agent outlives it.
    """

    dies_with_process = False

    def __init__(self, channel: socket.socket, sock: socket.socket) -> None:
        """Store the channel on which the agent reports the end, and the connection's socket."""
        self._channel = _Channel(fileno=channel.detach())
        self._lock = threading.Lock()
        self._told = self._is_over = False
        self._failure: TlsifyError | OSError | None = None
        self.local_address = _address(sock.getsockname)
        self.peer_address = _address(sock.getpeername)

    @property
    def failure(self) -> TlsifyError | OSError | None:
        """Return the error that ended the peer's direction: call it after the end of the stream.

        A live agent has reported it by then, or does at once. If the agent was killed, the stream
        may end first.
        """
        self._wait(_VERDICT, lambda: self._told)
        return self._failure

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the connection is over; return whether it is."""
        self._wait(None if timeout is None else timeout * 1000, lambda: self._is_over)
        return self._is_over

    def is_lost(self, program_end: socket.socket) -> bool:  # noqa: ARG002 - `Carrier` has it
        """Return False: `failure` tells of an agent that has ended."""
        return False

    def under_way(self) -> int:
        """Return 0: the agent delivers sent data, whether or not this process waits."""
        return 0

    def progress(self) -> None:
        """Return None: only the agent has the connection itself."""

    def set_option(self, *arguments: Any) -> None:
        """Do nothing: only the agent has the connection itself."""

    def option(self, *arguments: Any) -> None:
        """Return None: only the agent has the connection itself."""

    def end_in_order(self) -> None:
        """Notify the agent; otherwise it treats the program's end as a cut."""
        with contextlib.suppress(OSError):
            self._channel.send(wire.IN_ORDER, socket.MSG_DONTWAIT)

    def _wait(self, milliseconds: float | None, enough: Callable[[], bool]) -> None:
        """Receive the agent's messages, until the end is known or the time is over."""
        deadline = None if milliseconds is None else time.monotonic() + milliseconds / 1000
        while not enough() and not self._is_over:
            poller = select.poll()
            poller.register(self._channel, select.POLLIN)
            left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
            if not poller.poll(left):
                return
            with self._lock:
                if not self._is_over:
                    self._take()

    def _take(self) -> None:
        """Receive one message, or the end; another thread may have been quicker."""
        message, descriptor = bytearray(), None
        try:
            self._channel.settimeout(0)
            message, descriptor = scm_rights.receive(self._channel, wire.MAX_REPLY)
            if message:
                self._failure = revive(wire.decode(message, wire.Ended))
                self._told = True
        except (BlockingIOError, ConnectionResetError):
            # The agent need not read all messages. Its own message is still queued behind that
            # error.
            return
        except AgentError as exc:
            self._failure, self._told = exc, True
        except OSError:  # it has ended, too
            message.clear()
        finally:
            if descriptor is not None:
                os.close(descriptor)
        if not message:
            self._is_over = True
            self._channel.close()
            if not self._told:
                self._told = True
                self._failure = AgentError(
                    "the agent ended while it carried the connection",
                    untouched=False,
                    hint="the received data may be incomplete; connect again",
                )


def _address(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except OSError:
        return None
