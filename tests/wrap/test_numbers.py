"""Tests of numbers: high ones, and none that is taken."""

from __future__ import annotations

import os
import resource
import threading
from typing import TYPE_CHECKING

import pytest

from tlsify.wrap.numbers import Numbers
from tlsify.wrap.threads import Thread

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def this_thread() -> Iterator[Thread]:
    """The one that runs the test."""
    thread = Thread(threading.get_native_id())
    yield thread
    thread.close()


@pytest.mark.parametrize(
    ("soft", "hard", "base", "first"),
    [(1024, 1024, 256, 1023), (64, 64, 16, 63), (2**20, 2**20, 256, 1023), (512, 4096, 128, 511)],
)
def test_where_they_begin(soft: int, hard: int, base: int, first: int, this_thread: Thread) -> None:
    """At what select can do, or below; the program keeps a quarter for itself at least."""
    numbers = Numbers(soft, hard)
    assert (numbers.base, numbers.free(this_thread)) == (base, first)


def test_taken_numbers(this_thread: Thread) -> None:
    """Each number is used once, then those that have become free; high ones only at last."""
    null = os.open("/dev/null", os.O_RDONLY)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    numbers = Numbers(1024, 1026)
    taken: list[int] = []
    try:
        while (number := numbers.free(this_thread)) is not None:
            taken.append(os.dup2(null, number))
        assert taken == [*range(1023, 255, -1), 1025, 1024]
        os.close(taken.pop(5))
        assert numbers.free(this_thread) == 1018
    finally:
        for each in (*taken, null):
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_own_limits() -> None:
    """A program inherits them."""
    assert Numbers.of_this_process().base <= 256


def test_limit_of_the_process(this_thread: Thread) -> None:
    """It may have been lowered: then numbers beyond it are no use."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, limits[1]))
    try:
        assert Numbers(1024, 1024).free(this_thread) == 511
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
