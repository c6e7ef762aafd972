"""Signals as bytes in a pipe, for a loop that waits for descriptors."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

from tlsify.system.early_signals import HELD
from tlsify.system.process import ignore

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable


class SignalPipe:
    """Catches signals, and says which have come; one for each process, in its main thread.

    Attributes:
        reader: the descriptor to wait for.
    """

    def __init__(self) -> None:
        """Make the pipe; `catch` begins."""
        self.reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def catch(self, numbers: Iterable[signal.Signals]) -> None:
        """Write these signals to the pipe, instead of their former handling.

        Those that were blocked, so that none gets lost until now, come at once.
        """
        caught = list(numbers)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in caught:
            signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {*caught, *HELD})

    def read(self) -> bytes:
        """Return the numbers of the signals that have come, perhaps none."""
        with contextlib.suppress(BlockingIOError):
            return os.read(self.reader, 2**10)
        return b""

    def close(self, ignored: Collection[signal.Signals] = ()) -> None:
        """Catch no more.

        Args:
            ignored: signals that do nothing from here on: the interpreter, as it ends, would die
                of one more.
        """
        ignore(ignored)
        signal.set_wakeup_fd(-1)
        self.drop()

    def drop(self) -> None:
        """Close the pipe in a forked child (`process.fork`), where no signal is written to it."""
        os.close(self.reader)
        os.close(self._writer)
