"""Names of relayed connections: a program is told its client's address, not that of a pair."""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING, NamedTuple

from tlsify.connection.ending.forks import inode
from tlsify.wrap.holders import GONE
from tlsify.wrap.process_memory import encode_address, write_address

if TYPE_CHECKING:
    import socket
    from typing import Any

    from tlsify.wrap.notifications import Call, Notifications
    from tlsify.wrap.threads import Thread, Threads


class _Named(NamedTuple):
    """A program's end of a pair.

    Attributes:
        sock: a duplicate.
        own: the address that its client has connected to, encoded.
        peer: the client's, likewise.
    """

    sock: socket.socket
    own: bytes
    peer: bytes


class Names:
    """Answers ``getsockname`` and ``getpeername`` for all processes of a program."""

    def __init__(self, notifications: Notifications, threads: Threads) -> None:
        """Begin without any."""
        self._notifications, self._threads = notifications, threads
        self._named: dict[int, _Named] = {}

    def add(self, sock: socket.socket, own: tuple[Any, ...], peer: tuple[Any, ...]) -> int:
        """Give a program's end its names; return what to `forget` it by."""
        key = inode(sock)
        names = (encode_address(sock.family, each) for each in (own, peer))
        self._named[key] = _Named(sock, *names)
        return key

    def forget(self, key: int) -> None:
        """Forget one that is going to be closed."""
        del self._named[key]

    def answer(self, call: Call) -> None:
        """Answer a call that asks for a name; those of other descriptors are the kernel's."""
        try:
            if (found := self._find(call)) is None:
                self._notifications.go_on(call)
                return
            thread, named = found
            if call.name == "getsockname":
                name = named.own
            else:
                named.sock.getpeername()  # there may be none any more
                name = named.peer
            if not call.arguments[1]:
                raise OSError(errno.EFAULT, "no room for a name")
            write_address(self._notifications, call, thread, name)
        except OSError as exc:
            self._notifications.fail(call, exc.errno or errno.ENOTCONN)
        else:
            self._notifications.succeed(call)

    def _find(self, call: Call) -> tuple[Thread, _Named] | None:
        """Return what a call is about, if it is a relayed connection.

        Raises:
            OSError: one cannot tell, for want of a descriptor for instance: a program that is told
                of a local client may trust it.
        """
        if self._named:
            with contextlib.suppress(*GONE):
                thread, found = self._threads.look(call.tid, call.descriptor)
                if found is not None and (named := self._named.get(found)) is not None:
                    return thread, named
        return None
