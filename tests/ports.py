"""Ports for servers that have to be told one, and do not say which port 0 has given them."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOWEST = 10_240
_STRETCH = 128


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody uses, and nobody else is given until a server has it.

    The kernel gives the ports of its own range to whoever binds port 0 or connects, so it is below
    that range. Each process has its stretch there; tests run in several.
    """
    while True:
        port = next(_ports(os.getpid()))
        # Without SO_REUSEADDR: what is in TIME_WAIT was somebody's a moment ago.
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


@cache
def _ports(process: int) -> Iterator[int]:
    text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
    lowest, end = _LOWEST, int(text.split()[0])
    if end - lowest < _STRETCH:
        lowest, end = end, int(text.split()[1]) + 1
    first = process * _STRETCH % (end - lowest)
    return itertools.cycle([*range(lowest + first, end), *range(lowest, lowest + first)])
