"""Threads in the midst of calls: this one, another, one that is over."""

from __future__ import annotations

import threading

from tests.doubles import Endpoint, call_within
from tlsify.connection.midst import is_in_call


def test_this_thread() -> None:
    """A call that asks is none, one around its caller is one."""
    me = threading.get_ident()
    found: list[bool] = []
    assert not is_in_call(me)
    call_within(lambda: found.append(is_in_call(me)))
    assert found == [True]
    assert not is_in_call(me)


def test_another_thread() -> None:
    """Only while it is in one."""
    entered, leave = threading.Event(), threading.Event()
    threads: list[int] = []

    def wait() -> None:
        threads.append(threading.get_ident())
        entered.set()
        leave.wait(60)

    other = Endpoint(lambda: call_within(wait))
    assert entered.wait(60)
    assert is_in_call(threads[0])
    leave.set()
    other.result()
    assert not is_in_call(threads[0])
