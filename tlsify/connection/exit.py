"""Notice the interpreter's end, which waits for the threads that carry connections."""

from __future__ import annotations

import contextlib
import os
import threading

from tlsify.system import process


class CarrierThread(threading.Thread):
    """A thread that carries the last bytes of connections.

    Never a daemon, even if a daemon starts it: the bytes must be out before the interpreter ends.
    It watches `bell`, and ends its connections when that is rung.
    """

    def __init__(self, name: str, run: object) -> None:
        """Prepare; ``start`` begins."""
        super().__init__(target=run, name=name, daemon=False)  # type: ignore[arg-type]

    def start(self) -> None:
        """Begin, and see that the program's end is noticed."""
        _watcher.begin()
        super().start()


class _Watcher:
    """One daemon thread of each process that has carriers, and the bell that it rings."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a finalizer may want it in the midst of `begin`
        self._is_watching = self.has_rung = False
        self.bell = process.out_of_the_way(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))

    def begin(self) -> None:
        with self._lock:
            if not self._is_watching:
                threading.Thread(target=self._watch, name="tlsify-exit", daemon=True).start()
                self._is_watching = True

    def _watch(self) -> None:
        """Wait until only the threads that serve connections are left of the program.

        The interpreter ends its main thread first, then waits for all that are no daemons.
        """
        threading.main_thread().join()
        while others := [each for each in threading.enumerate() if _is_the_programs(each)]:
            others[0].join()
        self.ring()

    def ring(self) -> None:
        self.has_rung = True
        os.eventfd_write(self.bell, 1)

    def forget(self) -> None:
        """In a forked child, which has none of its parent's threads: a bell of its own."""
        before = self.bell
        # If there is none to be had: its parent's, which may wake it once too often.
        with contextlib.suppress(OSError):
            self.__init__()  # type: ignore[misc]
            os.close(before)


def _is_the_programs(thread: threading.Thread) -> bool:
    return not (
        thread.daemon or isinstance(thread, CarrierThread) or thread is threading.main_thread()
    )


_watcher = _Watcher()
os.register_at_fork(after_in_child=_watcher.forget)
process.before_end(_watcher.ring)


def bell() -> int:
    """Return the descriptor that becomes readable, for good, at the interpreter's end."""
    return _watcher.bell


def has_begun() -> bool:
    """Return whether the program is over, and only the last bytes are still to be carried."""
    return _watcher.has_rung
