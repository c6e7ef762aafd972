"""The right to send, or to receive, on a connection: one thread's at a time."""

from __future__ import annotations

import errno
import threading

_LENT = -1  # instead of a thread


def refusal() -> OSError:
    """Return the error of a call that would wait for its own thread."""
    return OSError(errno.EDEADLK, "this thread is in the midst of such a call")


class Turn:
    """A lock whose owner does not wait for itself.

    A signal handler runs in the midst of its own thread's call, and would wait for ever. The inner
    lock lets its owner in again: between that and the note of the owner no handler is locked out.
    """

    __slots__ = ("_lock", "_owner")

    def __init__(self) -> None:
        """Begin with nobody's."""
        self._lock = threading.RLock()
        self._owner = 0

    def acquire(self, *, blocking: bool = True, timeout: float = -1) -> bool:
        """Take it, as ``threading.Lock.acquire``.

        Returns:
            Whether it was taken: at once False if this thread has it already, or if it is lent.
        """
        if not self._lock.acquire(blocking, timeout):
            return False
        if self._owner:
            self._lock.release()
            return False
        self._owner = threading.get_ident()
        return True

    def release(self) -> None:
        """Give it back; only its owner may."""
        self._owner = 0
        self._lock.release()

    def lend(self) -> None:
        """Take it for no thread: whichever comes may `return_lent`.

        Raises:
            OSError: EDEADLK: this thread has it already, or it is lent.
        """
        self.__enter__()
        self._owner = _LENT
        self._lock.release()

    def return_lent(self) -> None:
        """Give back what was lent."""
        self._owner = 0

    def is_mine(self) -> bool:
        """Return whether this thread has it."""
        return self._owner == threading.get_ident()

    def locked(self) -> bool:
        """Return whether anybody has it."""
        return self._owner != 0

    def __enter__(self) -> None:
        if not self.acquire():
            raise refusal()

    def __exit__(self, *_: object) -> None:
        self.release()
