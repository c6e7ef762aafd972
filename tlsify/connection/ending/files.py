"""File objects of connections, whose buffers are sent before the interpreter ends a connection."""

from __future__ import annotations

import contextlib
import select
import weakref
from typing import TYPE_CHECKING, Protocol, TypeVar

from tlsify.connection import exit as interpreter
from tlsify.connection.ending import patience

if TYPE_CHECKING:
    import socket


class File(Protocol):
    """A file object that may have a buffer."""

    @property
    def closed(self) -> bool:
        """Whether it was closed."""

    def flush(self) -> None:
        """Send what is in the buffer."""


_File = TypeVar("_File", bound=File)
_open: weakref.WeakKeyDictionary[File, socket.socket] = weakref.WeakKeyDictionary()


def flushed(file: _File, sock: socket.socket) -> _File:
    """Have a file flushed at the interpreter's end; return it.

    Python flushes it when it collects it, and by then a connection may have ended.
    """
    _open[file] = sock
    return file


def _flush_all() -> None:
    for file, sock in list(_open.items()):
        with contextlib.suppress(OSError, ValueError):  # its connection has broken, or was closed
            if not file.closed and _has_room(sock):
                sock.settimeout(patience.PATIENCE)
                file.flush()


def _has_room(sock: socket.socket) -> bool:
    """Return whether data can be sent, within the time that a peer has to read.

    Where it cannot, another thread may hold the file, and a flush would wait for that one.
    """
    poller = select.poll()
    poller.register(sock, select.POLLOUT)
    return bool(poller.poll(patience.PATIENCE * 1000))


interpreter.at(interpreter.Moment.FLUSH, _flush_all)
