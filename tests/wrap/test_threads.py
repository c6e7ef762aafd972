"""Tests of threads: those of a wrapped program, by their numbers, which others may have later."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import threading

import pytest

from tests.wrap.test_holders import forked
from tlsify.wrap import threads as module
from tlsify.wrap.threads import Thread, Threads


def test_looks() -> None:
    """What is open, in which process; a number that is not open, or no socket, is no connection."""
    threads, tid = Threads(), threading.get_native_id()
    with socket.socket() as sock:
        number, inode = sock.fileno(), os.fstat(sock.fileno()).st_ino
        for _ in range(2):
            thread, found = threads.look(tid, number)
            assert (thread.pid, found, thread.has(number)) == (os.getpid(), inode, True)
            assert threads.look(tid, thread._folder).inode is None
    unused = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 1
    thread, found = threads.look(tid, unused)
    assert (found, thread.has(unused)) == (None, False)
    threads.forget()


def test_thread_that_is_no_leader() -> None:
    """It is in its process."""
    found: list[int] = []

    def look() -> None:
        thread = Thread(threading.get_native_id())
        found.append(thread.pid)
        thread.close()

    worker = threading.Thread(target=look)
    worker.start()
    worker.join()
    assert found == [os.getpid()]


def test_ended_threads() -> None:
    """Nothing of one that has ended is anybody else's, even where another has its number."""
    threads, tid = Threads(), threading.get_native_id()
    with socket.socket() as sock:
        with forked(sock.fileno()) as (child, _):
            before = Thread(child)
            assert before.pid == child
        for look in (before.open_memory, lambda: threads.look(child, sock.fileno())):
            with pytest.raises(ProcessLookupError):
                look()
        assert not before.has(0)
        threads.forget()
        threads._known[tid] = before  # of another thread with that number
        seen = threads.look(tid, sock.fileno())
        assert seen.thread is not before
        assert seen.inode == os.fstat(sock.fileno()).st_ino
    threads.forget()


def test_as_many_as_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes a descriptor: the one that has called longest ago makes room."""
    monkeypatch.setattr(module, "_MOST", 2)
    threads = Threads()
    with socket.socket() as sock, forked(sock.fileno()) as (child, grandchild):
        pids = [os.getpid(), child, grandchild]
        for pid in pids:
            assert threads.of(pid).pid == pid
        assert list(threads._known) == pids[1:]
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = 1 + max(thread._folder for thread in threads._known.values())
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, limits[1]))
        taken: list[int] = []
        try:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.dup(0))
            assert threads.of(pids[0]).pid == pids[0]
            assert list(threads._known) == pids[:1]
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            for number in taken:
                os.close(number)
    threads.forget()
