"""Turns: of threads, of one thread within its own, and lent."""

from __future__ import annotations

import errno
import threading

import pytest

from tests.doubles import Endpoint, interrupted, until
from tlsify.connection.turn import Turn


def test_turns_of_threads() -> None:
    """One at a time."""
    turn = Turn()
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with turn:
            entered.set()
            leave.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    assert entered.wait(60)
    assert turn.locked()
    assert not turn.is_mine()
    assert not turn.acquire(blocking=False)
    assert not turn.acquire(timeout=0.01)
    leave.set()
    assert turn.acquire()
    turn.release()
    holder.join(60)
    assert not turn.locked()


def test_own_turn() -> None:
    """A thread does not wait for itself, and still has its turn afterwards."""
    turn = Turn()
    with turn:
        assert not turn.acquire()
        with pytest.raises(OSError, match="midst") as caught, turn:
            pass
        assert turn.is_mine()
    assert caught.value.errno == errno.EDEADLK
    assert not turn.locked()


def test_turn_that_an_exception_has_left() -> None:
    """Its thread is in no call any more, and neither it nor another waits for it."""
    turn = Turn()
    assert turn.acquire()
    assert not turn.is_mine()
    assert turn.acquire()

    def take() -> None:
        assert turn.acquire(timeout=60)

    for _ in range(2):
        Endpoint(take).result()
    assert turn.acquire()
    turn.release()
    assert not turn.locked()


def test_signal_between_any_two_steps() -> None:
    """A handler finds a turn that is its own thread's, or a free one; it never waits."""
    turn = Turn()
    found = {True: 0, False: 0}

    def look() -> None:
        is_taken = turn.acquire(timeout=60)
        found[is_taken] += 1
        if is_taken:
            turn.release()

    with interrupted(look):
        while min(found.values()) < 200:
            with turn:
                assert turn.is_mine()
    assert not turn.locked()


def test_lent_turn() -> None:
    """No thread has it, and any may return it."""
    turn = Turn()
    turn.lend()
    assert turn.locked()
    assert not turn.is_mine()
    assert not turn.acquire()
    threading.Thread(target=turn.release).start()
    until(lambda: not turn.locked())
    with turn, pytest.raises(OSError, match="midst"):
        turn.lend()
