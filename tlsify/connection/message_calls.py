"""MessageCalls: recvfrom, recvmsg, sendmsg and the like of a stream, by its recv and send."""

from __future__ import annotations

import socket
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NoReturn

from tlsify.connection.options import ConnectionSocket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from _typeshed import ReadableBuffer, WriteableBuffer

# IOV_MAX of linux/uio.h: more at once are EMSGSIZE, which kTLS also has for a bad record.
_MOST_PIECES = 1024


class MessageCalls(ConnectionSocket):
    """A stream whose calls for messages are `recv` and `send` in other words.

    The system's own would pass the connection's ends and its control records by. TLS has neither
    addresses nor ancillary data: calls that name any are refused.
    """

    def recvfrom(self, bufsize: int, flags: int = 0, /) -> tuple[bytes, None]:
        """Receive as `recv`; the address is None, as on any connection."""
        return self.recv(bufsize, flags), None

    def recvfrom_into(
        self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0
    ) -> tuple[int, None]:
        """Receive as `recv_into`, likewise."""
        return self.recv_into(buffer, nbytes, flags), None

    def recvmsg(
        self, bufsize: int, ancbufsize: int = 0, flags: int = 0, /
    ) -> tuple[bytes, list[Any], int, None]:
        """Receive as `recv`; no ancillary data, no flags, no address."""
        _refuse_ancillary(ancbufsize)
        return self.recv(bufsize, flags), [], 0, None

    def recvmsg_into(
        self, buffers: Iterable[WriteableBuffer], ancbufsize: int = 0, flags: int = 0, /
    ) -> tuple[int, list[Any], int, None]:
        """Receive as `recv`, into several buffers, each filled before the next."""
        _refuse_ancillary(ancbufsize)
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        if any(view.readonly for view in views):  # before anything is received
            raise TypeError("recvmsg_into() argument 1 must be writable buffers")
        data = memoryview(self.recv(sum(map(len, views)), flags))
        size = len(data)
        for view in views:
            piece, data = data[: len(view)], data[len(view) :]
            view[: len(piece)] = piece
        return size, [], 0, None

    def sendmsg(
        self,
        buffers: Iterable[ReadableBuffer],
        ancdata: Iterable[Any] = (),
        flags: int = 0,
        address: Any = None,
        /,
    ) -> int:
        """Send several pieces as one, as `send`."""
        _refuse_ancillary(ancdata)
        if address is not None:
            self.sendto()
        pieces = list(islice(buffers, _MOST_PIECES))
        return self._send_once(partial(socket.socket.sendmsg, self, pieces, ()), flags)

    def sendto(self, *_: object) -> NoReturn:
        """Refuse: the peer is the connection's."""
        raise NotImplementedError("a TLS connection is a stream, without addresses: use send")

    def _send_once(self, attempt: Callable[[int], int], flags: int) -> int:
        """Send by one system call, which gets the flags; return the number of bytes."""
        raise NotImplementedError


def _refuse_ancillary(wanted: object) -> None:
    if wanted:
        raise NotImplementedError("a TLS connection has no ancillary data: use recv and send")
