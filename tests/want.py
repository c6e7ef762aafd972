"""Want: one call of tlsify's finds no thread, descriptor, memory or space on a disk."""

from __future__ import annotations

import builtins
import contextlib
import copy
import errno
import io
import mmap
import os
import resource
import select
import socket
import stat
import struct
import sys
import threading
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType


class _Source(NamedTuple):
    """Where something comes from.

    Attributes:
        places: have the function: an owner and a name each.
        errors: what it raises where there is none, in turn.
        takes: whether a call, by its arguments, takes some at all.
    """

    places: tuple[tuple[Any, str], ...]
    errors: tuple[Exception, ...]
    takes: Callable[..., bool] = lambda *_, **__: True


def _is_new(_: object, *arguments: Any, **named: Any) -> bool:
    """Return whether a socket is opened, rather than made of a descriptor that is there."""
    return named.get("fileno") is None and len(arguments) < 4


def _is_of_a_file(descriptor: int, *_: Any) -> bool:
    """Return whether what is written goes to a disk."""
    return stat.S_ISREG(os.fstat(descriptor).st_mode)


class _Epoll:
    """The kernel's, with a method that can be exchanged: those of Python's own type cannot."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._real = _epoll(*arguments, **named)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._real.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def register(self, *arguments: Any, **named: Any) -> None:
        self._real.register(*arguments, **named)


_epoll, select.epoll = select.epoll, _Epoll  # type: ignore[misc, assignment]


def _errors(*numbers: int) -> tuple[Exception, ...]:
    return tuple(OSError(number, os.strerror(number)) for number in numbers)


_NO_DESCRIPTOR = _errors(errno.EMFILE, errno.ENFILE)
_NO_MEMORY = _errors(errno.ENOMEM)
_NO_SOCKET = _errors(errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_STARTS = ("_start_joinable_thread", "_start_new_thread")  # Python 3.13's, and those before
_SOURCES = {
    "thread": _Source(
        ((threading, next(name for name in _STARTS if hasattr(threading, name))),),
        (RuntimeError("can't start new thread"),),
    ),
    "dup": _Source(((os, "dup"),), _errors(errno.EMFILE)),
    "pipe": _Source(((os, "pipe"), (os, "pipe2")), _NO_DESCRIPTOR),
    "open": _Source(((os, "open"), (builtins, "open"), (io, "open")), _NO_DESCRIPTOR),
    "socketpair": _Source(((socket, "socketpair"),), _NO_SOCKET),
    "socket": _Source(((socket.socket, "__init__"),), _NO_SOCKET, _is_new),
    "accept": _Source(((socket.socket, "accept"),), _NO_SOCKET),
    "epoll": _Source(((select, "epoll"),), _NO_DESCRIPTOR),
    "epoll_ctl": _Source(((_Epoll, "register"),), _errors(errno.ENOMEM, errno.ENOSPC)),
    "eventfd": _Source(((os, "eventfd"),), _NO_DESCRIPTOR),
    "mmap": _Source(((mmap, "mmap"),), _NO_MEMORY),
    "fork": _Source(((os, "fork"),), _errors(errno.EAGAIN, errno.ENOMEM)),
    "setsockopt": _Source(((socket.socket, "setsockopt"),), _NO_MEMORY),
    "getsockopt": _Source(((socket.socket, "getsockopt"),), _NO_MEMORY),
    "write": _Source(((os, "write"),), _errors(errno.ENOSPC), _is_of_a_file),
}
KINDS = tuple(_SOURCES)
_COUNT = struct.Struct("=I")


class Want:
    """Has the nth call fail that tlsify makes, in any thread, for as long as the block lasts.

    Processes that are forked meanwhile count together.
    """

    def __init__(self, kind: str, nth: int) -> None:
        """Prepare.

        Args:
            kind: of what there is none, one of `KINDS`.
            nth: from 1; 0 for every call.
        """
        self._source = _SOURCES[kind]
        self._nth = nth
        self._common = mmap.mmap(-1, _COUNT.size)
        self._patch = pytest.MonkeyPatch()

    @property
    def has_failed(self) -> bool:
        """Whether there was an nth call."""
        return self._calls >= max(self._nth, 1)

    @property
    def _calls(self) -> int:
        (calls,) = _COUNT.unpack(self._common)
        return int(calls)

    def __enter__(self) -> Self:
        """Begin to count."""
        for owner, name in self._source.places:
            self._patch.setattr(owner, name, self._instead_of(getattr(owner, name)))
        return self

    def _instead_of(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def attempt(*arguments: Any, **named: Any) -> Any:
            if self._source.takes(*arguments, **named) and _is_tlsifys():
                calls = self._calls + 1
                _COUNT.pack_into(self._common, 0, calls)
                if self._nth in {0, calls}:
                    # Another one each time: it keeps the frames that it has come through.
                    errors = self._source.errors
                    raise copy.copy(errors[calls % len(errors)])
            return real(*arguments, **named)

        return attempt

    def __exit__(self, *_: object) -> None:
        """There is enough of everything."""
        self._patch.undo()


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """Refuse this process any further descriptor, as long as the block lasts."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)  # the limit is on the number, and the lowest free one would be taken
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def _is_tlsifys() -> bool:
    """Return whether a call is made by tlsify, or by what it calls, rather than by a test."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] == "tlsify":
            return True
        frame = frame.f_back
    return False
