"""Tests of descriptors: how many are left for newcomers."""

from __future__ import annotations

import os
import resource
import socket

from tests.cli.forked import Forked
from tlsify.aio.descriptors import SpareDescriptors


def test_missing() -> None:
    """Near the limit they are counted, gaps among the low numbers included, until it is far."""
    with Forked(command=_check_missing) as child:  # where no other thread has any
        assert child.end() == 0


def _check_missing(_words: list[str]) -> int:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    number = 8 * 4
    spare = SpareDescriptors()
    with socket.socket() as sock:
        first = os.dup(0)
        taken = [first]
        try:
            while taken[-1] < first + number:
                taken.append(os.dup(0))
            limit = taken[-1] + 1
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limits[1]))
            kept = min(16, limit // 8)
            found = [spare.missing(sock)]
            for _gap in range(kept):
                os.close(taken.pop(0))  # the lowest
                found.append(spare.missing(sock))
            assert found == [*range(kept, -1, -1)]
            os.close(taken.pop())
            taken.append(os.dup(0))  # in a gap
            assert spare.missing(sock) == 0
            taken.append(os.dup(0))
            assert spare.missing(sock) == 1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            for each in taken:
                os.close(each)
        assert spare.missing(sock) == 0
    return 0
