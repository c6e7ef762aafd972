"""The terminal that a server was started in: SIGHUP may mean that it is gone."""

from __future__ import annotations

import os
import signal

_PATH = "/dev/tty"  # tty(4): the process's controlling terminal, if it has one


class Terminal:
    """The controlling terminal of this process, as long as there is one."""

    def __init__(self) -> None:
        """Look for it; under nohup(1), which has SIGHUP ignored, its end is of no interest."""
        self._matters = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and _is_there()

    def is_gone(self) -> bool:
        """Return whether there was one, and it has been closed."""
        return self._matters and not _is_there()


def _is_there() -> bool:
    try:
        os.close(os.open(_PATH, os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
