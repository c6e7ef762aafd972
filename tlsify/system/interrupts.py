"""Interrupt the main thread's system call by a signal, whenever the signal comes."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

# Seconds for a handler to run by itself.
_MOMENT = 0.02


@contextlib.contextmanager
def interrupting(numbers: Collection[int], is_heeded: Callable[[], bool]) -> Iterator[None]:
    """Repeat signals to the main thread, which has the block, until a handler has run.

    Python runs handlers between two instructions. A signal that comes after the last of them and
    before a system call is noted, and does not interrupt the call, which may wait for ever. If no
    thread or descriptor is to be had, that rare case stays as it is.

    Args:
        numbers: the signals, whose handlers are installed.
        is_heeded: whether one of the handlers has run.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, RuntimeError, MemoryError):
            _begin(stack, numbers, is_heeded)
        yield


def _begin(
    stack: contextlib.ExitStack, numbers: Collection[int], is_heeded: Callable[[], bool]
) -> None:
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    os.set_blocking(reader, True)
    stack.callback(os.close, writer)  # ends the thread
    main = threading.get_ident()

    def repeat() -> None:
        with open(reader, "rb", buffering=0) as told:
            while number := told.read(1):
                while number[0] in numbers and not is_heeded():
                    time.sleep(_MOMENT)
                    if not is_heeded():
                        signal.pthread_kill(main, number[0])

    thread = threading.Thread(target=repeat, name="tlsify-signals", daemon=True)
    try:
        thread.start()
    except (RuntimeError, MemoryError):
        os.close(reader)
        raise
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    stack.callback(signal.set_wakeup_fd, before)
