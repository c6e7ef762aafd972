"""Verdict: how a relayed connection ends, shared with forked copies of the program's end."""

from __future__ import annotations

import errno
import mmap
import os
import select
import threading
from typing import TYPE_CHECKING, ClassVar

from tlsify.tls.explain import truncated

if TYPE_CHECKING:
    import socket

    from tlsify.errors import TlsifyError

_UNDER_WAY, _GOOD, _CUT, _BROKEN = range(4)
_ENTRY = 4  # bytes: a generation (2), the verdict, whether the program has ended in order
_PER_PAGE = mmap.PAGESIZE // _ENTRY


class Verdict:
    """End of a relayed connection, readable in children that were forked meanwhile.

    A relay's thread lives in one process. Its memory is shared with no other, but for this.
    """

    _lock = threading.Lock()
    _free: ClassVar[list[tuple[mmap.mmap, int]]] = []
    # The list that the entry is from, which is another one in a child; None without an entry.
    _home: list[tuple[mmap.mmap, int]] | None = None

    def __init__(self) -> None:
        """Reserve an entry."""
        with self._lock:
            if not self._free:
                page = mmap.mmap(-1, mmap.PAGESIZE)
                self._free.extend((page, _ENTRY * index) for index in range(_PER_PAGE))
            self._page, self._at = self._free.pop()
            self._home = self._free
        self._generation = (int.from_bytes(self._page[self._at : self._at + 2]) + 1) % 2**16
        entry = self._generation.to_bytes(2) + bytes(2)
        self._page[self._at : self._at + _ENTRY] = entry

    @classmethod
    def forget(cls) -> None:
        """Begin a new list in a forked child: free entries are the parent's."""
        cls._lock, cls._free = threading.Lock(), []

    def __del__(self) -> None:
        """Free the entry, without a module's names: the interpreter may have ended.

        A child that still asks finds another generation.
        """
        if self._home is self._free:
            self._free.append((self._page, self._at))

    @property
    def is_ours(self) -> bool:
        """Whether the relay is in this process."""
        return self._home is self._free

    @property
    def in_order(self) -> bool:
        """Whether a process with the program's end has declared its end an orderly one."""
        return self._is_current() and bool(self._page[self._at + 3])

    def end_in_order(self) -> None:
        """Record a clean end."""
        if self._is_current():
            self._page[self._at + 3] = 1

    def give(self, failure: Exception | None, *, cut: bool = False) -> None:
        """Record how the peer's direction has ended."""
        self._page[self._at + 2] = _GOOD if failure is None else _CUT if cut else _BROKEN

    def failure(self) -> TlsifyError | OSError | None:
        """Return the failure for a child, as far as it is recorded."""
        code = self._page[self._at + 2] if self._is_current() else _BROKEN
        if code == _CUT:
            return truncated()
        if code == _BROKEN:
            return OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        return None

    def is_lost(self, program_end: socket.socket) -> bool:
        """Return whether the process that would give the verdict has ended, for a child."""
        if self.is_ours or program_end.fileno() == -1:
            return False
        poller = select.poll()
        poller.register(program_end, 0)
        # In this order: a relay gives its verdict before it closes its socket.
        is_over = bool(poller.poll(0))
        return is_over and self._is_current() and self._page[self._at + 2] == _UNDER_WAY

    def _is_current(self) -> bool:
        return int.from_bytes(self._page[self._at : self._at + 2]) == self._generation


os.register_at_fork(after_in_child=Verdict.forget)
