"""Descriptor: a plain socket on a TLSSocket's descriptor, for the parts that serve it."""

from __future__ import annotations

import socket
import weakref


class Descriptor(socket.socket):
    """A plain socket that shares the descriptor of a TLSSocket, which closes it.

    The parts of a connection use it instead of the TLSSocket: references back would keep that
    alive, until the next garbage collection, after the program has dropped it.

    Attributes:
        is_taken: whether the descriptor has got another owner.
    """

    def __init__(self, owner: socket.socket) -> None:
        """Share the descriptor of an object."""
        super().__init__(fileno=owner.fileno())
        self.settimeout(None)  # not `socket.setdefaulttimeout`'s: the owner's timeouts are its own
        self._owner = weakref.ref(owner)
        self.is_taken = False

    def detach(self) -> int:
        """Return the descriptor's number, and take it from both objects."""
        self.is_taken = True
        owner = self._owner()  # None in garbage collection: the owner asks `is_taken`
        if owner is not None:
            socket.socket.detach(owner)
        return super().detach()

    def leave(self) -> None:
        """Share the descriptor no longer."""
        super().detach()

    def _real_close(self, *_: object) -> None:
        self.leave()

    def __del__(self) -> None:
        """Leave the descriptor to its owner."""
        self.leave()
