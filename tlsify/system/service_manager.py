"""Notify the service manager that a service is ready, reloading, alive or stopping."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# Variables from a service manager for the process that it starts alone. A program of ours that
# inherited them could speak for the service (sd_notify(3), sd_watchdog_enabled(3)) or take the
# connection on its descriptors for listening sockets (sd_listen_fds(3)).
VARIABLES = (
    *("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"),
    *("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID"),
)
# Seconds that a service manager may take to make room for one more message.
_PATIENCE = 1.0


def notify(state: str) -> None:
    """Send a state such as ``READY=1``, if the service manager wants to know.

    Nothing depends on it, so that it cannot fail.

    Source: sd_notify(3).
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
    ):
        sock.settimeout(_PATIENCE)
        sock.sendto(state.encode(), address.replace("@", "\0", 1))


def watchdog_period() -> float | None:
    """Return the seconds within which the service manager expects ``WATCHDOG=1``, if it does.

    Source: sd_watchdog_enabled(3).
    """
    period, pid = (os.environ.get(name, "") for name in ("WATCHDOG_USEC", "WATCHDOG_PID"))
    if not period.isdecimal() or int(period) == 0 or pid not in {"", str(os.getpid())}:
        return None
    return int(period) / 1_000_000


class ServiceManager:
    """The service manager's end of sd_notify(3).

    The messages suit both ``Type=notify-reload`` and ``Type=notify``: a reload begins with
    RELOADING=1, and ends with READY=1 whether or not it succeeded.

    Attributes:
        due: when `feed` has something to say next, on the monotonic clock; infinity for never.
    """

    def __init__(self, send: Callable[[str], None] = notify, period: float | None = None) -> None:
        """Say nothing yet.

        Args:
            send: takes one state.
            period: seconds within which ``WATCHDOG=1`` is expected; None if it is not.
        """
        self._send = send
        self._period = period
        self.due = math.inf if period is None else time.monotonic()

    def ready(self, status: str = "") -> None:
        """The service works: after its start, and again after each reload."""
        self._send("READY=1" + _status(status))

    def reloading(self) -> None:
        """A reload begins."""
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={microseconds}")

    def stopping(self, status: str = "", seconds: float | None = None) -> None:
        """The service has begun to end.

        Args:
            status: what it does meanwhile.
            seconds: how long that may take at most, which may be more than ``TimeoutStopSec``.
        """
        more = "" if seconds is None else f"\nEXTEND_TIMEOUT_USEC={seconds * 1e6:.0f}"
        self._send("STOPPING=1" + _status(status) + more)

    def feed(self, now: float, *, alive: bool = True) -> None:
        """Send ``WATCHDOG=1`` if it is due, twice in each period; not for a service that hangs.

        Args:
            now: the monotonic clock's.
            alive: whether the workers live.
        """
        if self._period is None or now < self.due:
            return
        self.due = now + self._period / (2 if alive else 20)
        if alive:
            self._send("WATCHDOG=1")


def _status(text: str) -> str:
    return f"\nSTATUS={text}" if text else ""
