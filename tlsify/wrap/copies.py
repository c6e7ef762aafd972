"""Copies of connections' descriptors: which calls make some; most connections need no look."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from tlsify.wrap.holders import Queue, process_of, unix_sockets

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from tlsify.wrap.descriptor import Descriptor
    from tlsify.wrap.holders import Hold
    from tlsify.wrap.notifications import Call

# Seconds for which a call that was let go on may take to happen.
_MOMENT = 1.0
_KEPT = 32  # sockets of AF_UNIX that take a descriptor each


class Copies:
    """Knows whether a connection's descriptor can have been copied since it was delivered.

    It can by ``dup`` and the like, by a fork, and by a socket of AF_UNIX. These calls are asked
    about; what they do is found by looks (`holders`), but only where there has been one.
    """

    def __init__(self, find: Callable[[Call], Descriptor | None], base: int) -> None:
        """Begin before the program does.

        Args:
            find: returns the connection that a call is about, if it is about one.
            base: descriptors from this number on send others without being asked about.
        """
        self._find = find
        self._base = base
        self._forks: dict[int, float] = {}
        self._copied_at = 0.0
        self._unix: list[Queue] = []
        self._unix_found_at, self._unix_changed_at = 0.0, time.monotonic()
        self._is_any_beyond = False
        self._notes: dict[str, Callable[[Call], None]] = (
            dict.fromkeys(("fork", "vfork", "clone"), self._note_fork)
            | dict.fromkeys(("dup", "dup2", "dup3", "fcntl"), self._note_copy)
            | dict.fromkeys(("socket", "socketpair"), lambda _: self.found_way())
            | dict.fromkeys(("pidfd_getfd", "sendmsg", "sendmmsg"), lambda _: self._note_any())
        )

    def note(self, call: Call) -> bool:
        """Note a call that may make a copy; return whether it is one of these, and is to go on."""
        note = self._notes.get(call.name)
        if note is not None:
            note(call)
        return note is not None

    def _note_fork(self, call: Call) -> None:
        try:
            self._forks[process_of(call.tid)] = time.monotonic()
        except OSError:  # whichever it is
            self._note_any()

    def _note_copy(self, call: Call) -> None:
        if (descriptor := self._find(call)) is not None:
            descriptor.is_copied = True

    def _note_any(self) -> None:
        self._copied_at = time.monotonic()

    def found_way(self) -> None:
        """Note that there is another socket to send descriptors through."""
        self._unix_changed_at = time.monotonic()

    def forget(self) -> None:
        """Forget processes that have ended."""
        self._forks = {pid: at for pid, at in self._forks.items() if os.path.exists(f"/proc/{pid}")}

    def has_none(self, descriptor: Descriptor, passed_over: Callable[[], Collection[Hold]]) -> bool:
        """Return whether a connection is nowhere but where it was delivered.

        Args:
            descriptor: the connection.
            passed_over: returns descriptors that are known to be no sockets of AF_UNIX.

        Raises:
            OSError: one cannot tell.
        """
        pid = descriptor.hold.pid
        copied_at = max(self._forks.get(pid, 0.0), self._copied_at)
        return (
            not descriptor.is_copied
            and descriptor.held_in <= {pid}
            and copied_at + _MOMENT < descriptor.delivered_at
            and not (self._is_any_waiting(passed_over) or self._is_any_beyond)
        )

    def _is_any_waiting(self, passed_over: Callable[[], Collection[Hold]]) -> bool:
        """Return whether a descriptor waits in a socket of AF_UNIX."""
        if self._unix_changed_at + _MOMENT < self._unix_found_at:
            try:
                return any(queue.waiting() for queue in self._unix)
            except LookupError:  # closed there, and perhaps not elsewhere
                pass
        found_at, found = time.monotonic(), list(unix_sockets(passed_over()))
        for queue in self._unix:
            queue.close()
        holds = {link: hold for hold, link, _ in found}
        self._unix = [
            Queue(hold, link, is_kept=at < _KEPT) for at, (link, hold) in enumerate(holds.items())
        ]
        self._unix_found_at = found_at
        self._is_any_beyond = any(hold.number >= self._base for hold, *_ in found)
        return any(count for *_, count in found)
