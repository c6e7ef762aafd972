"""The interpreter's end: a callback behind all that are registered once tlsify is imported."""

from __future__ import annotations

import atexit
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_endings: list[Callable[[], object]] = []
# Whether it has been called, or never will be: tlsify was first imported by another such callback,
# which only the main thread runs, after its own end.
has_passed = (
    threading.current_thread() is threading.main_thread() and not threading.main_thread().is_alive()
)


def at_exit(ending: Callable[[], object]) -> None:
    """Register a function; it is called after every callback of ``atexit`` that came later.

    Python calls those in the reverse of their order. So this module is imported with the package,
    while functions are registered by modules that a program may import much later.
    """
    _endings.append(ending)


def _end() -> None:
    global has_passed
    for ending in _endings:
        ending()
    has_passed = True


atexit.register(_end)
