"""The right to send, or to receive, on a connection: one thread's at a time."""

from __future__ import annotations

import errno
import threading
import time

from tlsify.connection.midst import is_in_call

_KEY = "owner"
_LENT = -1  # instead of a thread
# Seconds until a thread that waits looks whether the owner still is in its call.
_LOOK = 0.2
_mending = threading.RLock()  # a signal handler may come to it amid its own thread's look


def refusal() -> OSError:
    """Return the error of a call that would wait for its own thread."""
    return OSError(errno.EDEADLK, "this thread is in the midst of such a call")


class Turn:
    """A lock whose owner does not wait for itself, and does not keep it past its call.

    A signal handler runs in the midst of its own thread's call, and would wait for ever. If it
    raises, the call may be left before it is able to give the turn back.
    """

    __slots__ = ("_freed", "_is_programs", "_owner", "_waiting")

    def __init__(self) -> None:
        """Begin with nobody's."""
        self._owner: dict[str, int] = {}  # setdefault takes it and notes by whom in one step
        self._is_programs = False
        self._waiting = 0
        self._freed = threading.Event()

    def acquire(self, *, blocking: bool = True, timeout: float = -1) -> bool:
        """Take it for a call of this package, as ``threading.Lock.acquire``.

        Returns:
            Whether it was taken: at once False if this thread has it already, or if it is lent.
        """
        thread = threading.get_ident()
        if self._owner.get(_KEY) == thread and self.is_mine():
            return False
        if self._owner.setdefault(_KEY, thread) == thread:
            return True
        return blocking and self._wait(thread, time.monotonic() + timeout if timeout >= 0 else None)

    def _wait(self, thread: int, until: float | None) -> bool:
        self._waiting += 1
        try:
            while True:
                self._freed.clear()
                owner = self._owner.setdefault(_KEY, thread)
                left = _LOOK if until is None else min(_LOOK, until - time.monotonic())
                if owner in {thread, _LENT} or left <= 0:
                    return owner == thread
                if not self._freed.wait(left):
                    self._mend()
        finally:
            self._waiting -= 1

    def release(self) -> None:
        """Give it back; only its owner may."""
        self._owner.pop(_KEY, None)
        if self._waiting:
            self._freed.set()

    def _mend(self) -> None:
        """Take it from a thread whose call is over."""
        with _mending:
            owner = self._owner.get(_KEY, _LENT)
            if owner != _LENT and not self._is_programs and not is_in_call(owner):
                self.release()

    def lend(self) -> None:
        """Take it for no thread: whichever comes may release it.

        Raises:
            OSError: EDEADLK: this thread has it already, or it is lent.
        """
        if not self.acquire():
            raise refusal()
        self._owner[_KEY] = _LENT

    def is_mine(self) -> bool:
        """Return whether this thread has it, in a call that was interrupted or by ``with``."""
        thread = threading.get_ident()
        if self._owner.get(_KEY) != thread:
            return False
        self._mend()
        return self._owner.get(_KEY) == thread

    def locked(self) -> bool:
        """Return whether anybody has it."""
        return bool(self._owner)

    def __enter__(self) -> None:
        """Take it for as long as the program wants."""
        if not self.acquire():
            raise refusal()
        self._is_programs = True

    def __exit__(self, *_: object) -> None:
        self._is_programs = False
        self.release()
