"""The interpreter's end: connections serve its last callbacks, then end and are delivered."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import threading
import time
from enum import Enum
from typing import TYPE_CHECKING

from tlsify.system import last_callback, process
from tlsify.system.own_descriptor import OwnDescriptor

if TYPE_CHECKING:
    from collections.abc import Callable

# Seconds in which the interpreter usually gets from the end of connections to its own.
_MOMENT = 3.0


class CarrierThread(threading.Thread):
    """A thread that carries the last bytes of connections.

    A daemon: Python waits for other threads before it calls what `atexit` has, which may still use
    connections. So `end` waits for it. It watches `bell`, and ends its connections when that rings.
    """

    def __init__(self, name: str, run: Callable[[], object]) -> None:
        """Prepare; ``start`` begins."""
        super().__init__(target=run, name=name, daemon=True)

    def start(self) -> None:
        """Begin.

        Raises:
            RuntimeError: no thread is available, or the interpreter ends before it would be done.
        """
        if has_begun():
            raise RuntimeError("the interpreter is ending, and no thread outlives it")
        super().start()


class _End:
    """The end of this process's interpreter, and the bell that tells its carriers."""

    def __init__(self, *, has_begun: bool = False) -> None:
        self.is_near = False
        self.is_under_way = has_begun  # connections may have ended
        self.has_begun = has_begun
        self.is_over = threading.Event()
        self._bell = _new_bell()
        if has_begun:
            self.ring()

    def bell(self) -> int:
        if not self._bell.is_ours():
            self._bell = _new_bell()
            if self.has_begun:
                self.ring()
        return self._bell.number

    def ring(self) -> None:
        self.has_begun = True
        if self._bell.is_ours():
            bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM, 0, self._bell.number)
            bell.shutdown(socket.SHUT_RD)
            bell.detach()

    def forget(self) -> None:
        """In a forked child, which has none of its parent's threads: a bell of its own."""
        before = self._bell
        # If there is none to be had: its parent's, which may wake it once too often.
        with contextlib.suppress(OSError):
            self.__init__()  # type: ignore[misc]
            before.close()


def _new_bell() -> OwnDescriptor:
    """Return a socket, which ended is readable for good, and which has an inode of its own."""
    return OwnDescriptor(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).detach())


_end = _End(has_begun=last_callback.has_passed)


class Moment(Enum):
    """A moment of the interpreter's end, in their order."""

    APPROACH = "the last one at which threads can start, before atexit's callbacks"
    FLUSH = "connections can still send"
    END = "they end"
    FINISH = "no thread carries any more"


_calls: dict[Moment, list[Callable[[], object]]] = {moment: [] for moment in Moment}


def at(moment: Moment, call: Callable[[], object]) -> None:
    """Register a function; it must not raise."""
    _calls[moment].append(call)


def end() -> None:
    """End all connections, and wait until what was sent on them is out."""
    _reach(Moment.FLUSH)
    _end.is_under_way = True
    _reach(Moment.END)
    _end.ring()
    await_carriers()
    _reach(Moment.FINISH)
    _end.is_over.set()


def _reach(moment: Moment) -> None:
    for call in _calls[moment]:
        call()


def await_carriers() -> None:
    """Wait until no connection is carried any more."""
    for thread in threading.enumerate():
        if isinstance(thread, CarrierThread):
            thread.join()


def detain() -> None:
    """Hold a daemon thread whose connection has ended with the interpreter.

    Python stops it a moment later, wherever it is, and until then it would report an error. It goes
    on if that takes long: another callback may wait for something that the thread holds.
    """
    if _end.is_under_way and threading.current_thread().daemon:
        _end.is_over.wait()
        time.sleep(_MOMENT)


def ended() -> ConnectionAbortedError:
    """Return the error of a connection that has ended with the interpreter."""
    return ConnectionAbortedError(errno.ECONNABORTED, "the interpreter has ended the connection")


def _approach() -> None:
    """Notice that the main thread has ended; other threads, then callbacks, are still to run."""
    _end.is_near = True
    _reach(Moment.APPROACH)
    # Its children end without atexit, by os._exit, after Python has waited for their threads.
    multiprocessing = sys.modules.get("multiprocessing.process")
    if multiprocessing is not None and multiprocessing.parent_process() is not None:
        with contextlib.suppress(RuntimeError):
            threading.Thread(target=_end_after_others, name="tlsify-exit", daemon=False).start()


def _end_after_others() -> None:
    threading.main_thread().join()
    while others := [each for each in threading.enumerate() if _is_the_programs(each)]:
        others[0].join()
    end()


def _is_the_programs(thread: threading.Thread) -> bool:
    return not thread.daemon and thread not in {
        threading.main_thread(),
        threading.current_thread(),
    }


def bell() -> int:
    """Return the descriptor that becomes readable, for good, at the interpreter's end.

    Raises:
        OSError: the program has closed it, and no other one is available.
    """
    return _end.bell()


def is_near() -> bool:
    """Return whether the main thread has ended, so that soon no thread can start any more."""
    return _end.is_near


def has_begun() -> bool:
    """Return whether connections have ended, and only the last bytes are still to be carried."""
    return _end.has_begun


os.register_at_fork(after_in_child=_end.forget)
last_callback.at_exit(end)
process.before_end(end)
# Public is only what waits for threads, or comes after them. It refuses once they have been waited
# for.
with contextlib.suppress(AttributeError, RuntimeError):
    threading._register_atexit(_approach)  # type: ignore[attr-defined]
