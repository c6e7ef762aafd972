"""Signals for a server, held from the first moment of its process until it can act on them."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# Each would end a process that has no handler for it yet: a log may be rotated, or a certificate
# renewed, while a server starts.
HELD = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def hold() -> Iterable[int]:
    """Hold these signals; return what `release` needs."""
    return signal.pthread_sigmask(signal.SIG_BLOCK, HELD)


def release(before: Iterable[int]) -> None:
    """Restore what `hold` has found; by default a signal that has come ends the process now."""
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def drop(before: Iterable[int]) -> None:
    """Restore what `hold` has found; a signal that has come is too late."""
    while signal.sigtimedwait(HELD, 0) is not None:
        pass
    release(before)
