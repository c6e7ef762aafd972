"""File objects of connections, whose buffers are sent before the interpreter ends a connection."""

from __future__ import annotations

import contextlib
import select
import time
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

    def writable(self) -> bool:
        """Return whether there may be something in its buffer to send."""

    def flush(self) -> None:
        """Send what is in the buffer."""


_File = TypeVar("_File", bound=File)
# Each with its socket, which may in turn have the file.
_open: weakref.WeakKeyDictionary[File, weakref.ref[socket.socket]] = weakref.WeakKeyDictionary()


def flushed(file: _File, sock: socket.socket) -> _File:
    """Have a file flushed at the interpreter's end; return it.

    Python flushes it when it collects it, and by then a connection may have ended.
    """
    if file.writable():
        _open[file] = weakref.ref(sock)
    return file


def _flush_all() -> None:
    deadline = time.monotonic() + patience.PATIENCE
    for file, held in list(_open.items()):
        with contextlib.suppress(OSError, ValueError):  # its connection has broken, or was closed
            if (sock := held()) is not None and not file.closed and _has_room(sock, deadline):
                sock.settimeout(patience.PATIENCE)
                file.flush()


def _has_room(sock: socket.socket, deadline: float) -> bool:
    """Return whether data can be sent, within the time that all peers have together.

    Where it cannot, another thread may hold the file, and a flush would wait for that one.
    """
    poller = select.poll()
    poller.register(sock, select.POLLOUT)
    return bool(poller.poll(max(deadline - time.monotonic(), 0) * 1000))


interpreter.at(interpreter.Moment.FLUSH, _flush_all)
