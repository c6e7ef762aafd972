"""Descriptors that are left: the last ones are for the connections that there are already."""

from __future__ import annotations

import os
import resource
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

# How many are kept for relays, files and backends: so many, or one in so many where there are few.
_SPARE, _PART = 16, 8


class SpareDescriptors:
    """Descriptors that a newcomer must leave to others.

    The kernel gives the lowest number that is free. As long as that is far from the limit there are
    enough; once it was near, they are counted, since there may be gaps among the low numbers.
    """

    def __init__(self) -> None:
        """Begin without counting."""
        self._is_near = False

    def missing(self, sock: socket.socket) -> int:
        """Return how many are missing: 0 if a connection may be accepted.

        Args:
            sock: any.
        """
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        limit = sys.maxsize if soft == resource.RLIM_INFINITY else soft
        spare = min(_SPARE, limit // _PART)
        free = _free(sock, 2 * spare if self._is_near else 1)
        if not free or free[0] >= limit - spare:
            self._is_near = True
            free = _free(sock, spare)
        elif len(free) == 2 * spare:
            self._is_near = False
        return max(spare - len(free), 0) if self._is_near else 0


def _free(sock: socket.socket, number: int) -> list[int]:
    """Return the lowest descriptors that are free, or those that there are."""
    found: list[int] = []
    try:
        while len(found) < number:
            found.append(os.dup(sock.fileno()))
    except OSError:
        pass
    finally:
        for each in found:
            os.close(each)
    return found
