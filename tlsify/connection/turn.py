"""The right to send, or to receive, on a connection: one thread's at a time."""

from __future__ import annotations

import errno
import threading
import time

from tlsify.connection.midst import is_in_call

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

    __slots__ = ("_is_programs", "_lock", "_owner")

    def __init__(self) -> None:
        """Begin with nobody's."""
        self._lock = threading.RLock()  # notes its owner in the same step
        self._owner = 0
        self._is_programs = False

    def acquire(self, *, blocking: bool = True, timeout: float = -1) -> bool:
        """Take it for a call of this package, as ``threading.Lock.acquire``.

        Returns:
            Whether it was taken: at once False if this thread has it already, or if it is lent.
        """
        if self._is_owned() and not self._mend():
            return False
        until = time.monotonic() + timeout if blocking and timeout >= 0 else None
        while True:
            lock = self._lock
            if not lock.acquire(blocking=False):
                left = _LOOK if until is None else min(_LOOK, until - time.monotonic())
                if not blocking or left <= 0:
                    return False
                if not lock.acquire(timeout=left):
                    self._mend()
                    continue
            if lock is self._lock and self._owner != _LENT:
                self._owner = threading.get_ident()
                return True
            lock.release()
            if lock is self._lock:
                return False

    def release(self) -> None:
        """Give it back; only its owner may."""
        self._owner = 0
        self._lock.release()

    def _mend(self) -> bool:
        """Take it from a thread whose call is over; return whether that was so."""
        with _mending:
            owner = threading.get_ident() if self._is_owned() else self._owner
            is_left_behind = owner > 0 and not self._is_programs and not is_in_call(owner)
            if is_left_behind:
                self._lock, self._owner = threading.RLock(), 0
        return is_left_behind

    def lend(self) -> None:
        """Take it for no thread: whichever comes may `return_lent`.

        Raises:
            OSError: EDEADLK: this thread has it already, or it is lent.
        """
        if not self.acquire():
            raise refusal()
        self._owner = _LENT
        self._lock.release()

    def return_lent(self) -> None:
        """Give back what was lent."""
        self._owner = 0

    def is_mine(self) -> bool:
        """Return whether this thread has it, in a call that was interrupted or by ``with``."""
        return self._is_owned() and not self._mend()

    def locked(self) -> bool:
        """Return whether anybody has it."""
        return self._owner != 0

    def _is_owned(self) -> bool:
        return self._lock._is_owned()  # type: ignore[attr-defined, no-any-return]

    def __enter__(self) -> None:
        """Take it for as long as the program wants."""
        if not self.acquire():
            raise refusal()
        self._is_programs = True

    def __exit__(self, *_: object) -> None:
        self._is_programs = False
        self.release()
