"""Tests of relay_threads: which of the threads runs a relay."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from tests.connection.test_event_thread import THREAD, Echo, end, threads
from tests.doubles import until
from tests.want import Want
from tlsify.connection.event_thread import EventThread
from tlsify.connection.relay import threads as relay_threads

if TYPE_CHECKING:
    import pytest


def test_another_thread_where_there_is_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no other thread, the one that there is runs it."""
    until(lambda: not threads())
    both = [EventThread[Echo](THREAD), EventThread[Echo](THREAD)]
    monkeypatch.setattr(relay_threads, "_threads", both)
    pairs = [socket.socketpair() for _ in range(3)]
    relay_threads.run(Echo(pairs[0][1]))
    with Want("thread", 0):
        relay_threads.run(Echo(pairs[1][1]))
    assert [len(each) for each in both] == [2, 0]
    relay_threads.run(Echo(pairs[2][1]))
    assert [len(each) for each in both] == [2, 1]
    end(*(ours for ours, _ in pairs))
