"""Calls that threads are in on a connection, which its end concerns."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from tlsify.connection.ending import forks
from tlsify.connection.midst import is_in_call

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

# Seconds that an end waits for sends that are under way.
_MOMENT = 0.4


class Callers:
    """This process's threads that are in calls of one kind."""

    __slots__ = ("_births", "_left", "_threads")

    def __init__(self) -> None:
        """Begin with none."""
        self._threads: list[int] = []
        self._births = forks.births
        self._left: threading.Event | None = None

    def __enter__(self) -> None:
        """Begin a call; one may be part of another."""
        if self._births != forks.births:  # those were the parent's
            self._threads, self._births = [], forks.births
        self._threads.append(threading.get_ident())

    def __exit__(self, *_: object) -> None:
        """End a call."""
        threads, thread = self._threads, threading.get_ident()
        if thread in threads:  # a signal handler may have forked in its midst
            threads.remove(thread)
        if self._left is not None and not threads:
            self._left.set()

    def __bool__(self) -> bool:
        if not self._threads or self._births != forks.births:
            return False
        for thread in set(self._threads):
            begun = self._threads.count(thread)
            if not is_in_call(thread):  # an exception has come before their end was noted
                with contextlib.suppress(ValueError):  # another thread finds the same
                    for _ in range(begun):
                        self._threads.remove(thread)
        return bool(self._threads)

    def wait(self, timeout: float) -> bool:
        """Wait until no call is under way; return whether none is.

        It does not wait for this thread, which a signal may have interrupted in a call.
        """
        if not self:
            return True
        self._left = left = threading.Event()
        if not self:
            return True
        if threading.get_ident() in self._threads:
            return False
        return left.wait(timeout) or not self


class Calls:
    """Calls that this process's threads are in on a connection.

    Attributes:
        sends: those that send; one of several steps, as ``sendall``, counts as a whole.
        receives: those that receive.
        refusal: errno for receives that our own end of the connection has woken; 0 before it.
        are_deaf: whether the program has ended its receiving direction, and only that is known.
    """

    __slots__ = ("are_deaf", "receives", "refusal", "sends")

    def __init__(self) -> None:
        """Begin with none."""
        self.sends, self.receives = Callers(), Callers()
        self.refusal, self.are_deaf = 0, False

    def finish_sending(self) -> bool:
        """Wait a moment for sends that are under way; return whether none is left."""
        return self.sends.wait(_MOMENT)

    def check(self, received: object) -> None:
        """Refuse to treat our own end of the connection as the peer's.

        Args:
            received: by a call; empty at an end.

        Raises:
            OSError: the end is ours.
        """
        if self.refusal and not received:
            raise OSError(self.refusal, os.strerror(self.refusal))


class CountedSocket(socket.socket):
    """The program's end of a relay's socketpair, which counts the calls of its methods.

    Those on its number (``os.read``, another library) cannot be known.
    """

    def __init__(self, sock: socket.socket, calls: Calls) -> None:
        """Take over a socket, with its timeout."""
        timeout = sock.gettimeout()
        super().__init__(sock.family, sock.type, sock.proto, sock.detach())
        self.settimeout(timeout)
        self._calls = calls

    def dup(self) -> CountedSocket:
        """Duplicate the descriptor."""
        made = socket.socket(self.family, self.type, self.proto, os.dup(self.fileno()))
        made.settimeout(self.gettimeout())
        return CountedSocket(made, self._calls)

    def _receive(self, call: Callable[..., T], *arguments: Any, **options: Any) -> T:
        with self._calls.receives:
            received = call(*arguments, **options)
        self._calls.check(received[0] if isinstance(received, tuple) else received)
        return received

    def _send(self, call: Callable[..., T], *arguments: Any, **options: Any) -> T:
        with self._calls.sends:
            return call(*arguments, **options)

    def recv(self, *arguments: Any) -> bytes:
        """Receive as a socket does; likewise all that follow."""
        return self._receive(super().recv, *arguments)

    def recv_into(self, *arguments: Any, **options: Any) -> int:
        """Receive into a buffer."""
        return self._receive(super().recv_into, *arguments, **options)

    def recvfrom(self, *arguments: Any) -> tuple[bytes, Any]:
        """Receive, with an address."""
        return self._receive(super().recvfrom, *arguments)

    def recvfrom_into(self, *arguments: Any, **options: Any) -> tuple[int, Any]:
        """Receive into a buffer, with an address."""
        return self._receive(super().recvfrom_into, *arguments, **options)

    def recvmsg(self, *arguments: Any) -> tuple[bytes, list[Any], int, Any]:
        """Receive a message."""
        return self._receive(super().recvmsg, *arguments)

    def recvmsg_into(self, *arguments: Any) -> tuple[int, list[Any], int, Any]:
        """Receive a message into buffers."""
        return self._receive(super().recvmsg_into, *arguments)

    def send(self, *arguments: Any) -> int:
        """Send some."""
        return self._send(super().send, *arguments)

    def sendall(self, *arguments: Any) -> None:
        """Send all."""
        self._send(super().sendall, *arguments)

    def sendmsg(self, *arguments: Any) -> int:
        """Send a message."""
        return self._send(super().sendmsg, *arguments)

    def sendfile(self, *arguments: Any, **options: Any) -> int:
        """Send a file."""
        return self._send(super().sendfile, *arguments, **options)
