"""Tests of holders: which processes have a socket, and where."""

from __future__ import annotations

import errno
import os
import resource
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tlsify.wrap.holders import (
    Hold,
    children,
    descendants,
    has_descriptors,
    has_thread,
    holders,
    process_of,
    socket_at,
    waiting,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def forked(number: int) -> Iterator[tuple[int, int]]:
    """Have a child, and a grandchild, that have nothing but a socket and a pipe."""
    reader, writer = os.pipe()
    told, tell = os.pipe()
    child = os.fork()
    if not child:
        grandchild = os.fork()
        if grandchild:
            os.write(tell, b"%d" % grandchild)
            os.close(number)
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    grandchild = int(os.read(told, 20))
    try:
        yield child, grandchild
    finally:
        for each in (writer, told, tell):
            os.close(each)
        os.waitpid(child, 0)


def test_holders() -> None:
    """A socket is found in each process below, and only there."""
    with socket.socket() as sock:
        inode = os.fstat(sock.fileno()).st_ino
        assert socket_at(os.getpid(), sock.fileno()) == inode
        with forked(sock.fileno()) as (child, grandchild):
            assert set(children(os.getpid())) >= {child}
            assert set(descendants(os.getpid())) >= {child, grandchild}
            hold = Hold(grandchild, sock.fileno())
            while list(holders(inode)) != [hold]:  # until the child has closed it
                pass
            assert list(holders(inode, [hold])) == []
            assert list(holders(inode, [Hold(child, sock.fileno())])) == [hold]
            assert has_descriptors(child)
    assert not has_descriptors(child)
    assert socket_at(child, 0) is None


def test_what_is_no_socket() -> None:
    """A file is none, and neither is a number that is not open."""
    reader, writer = os.pipe()
    assert socket_at(os.getpid(), reader) is None
    os.close(reader)
    os.close(writer)
    assert socket_at(os.getpid(), reader) is None


def test_process_of_a_thread() -> None:
    """It is the one that all its threads are in."""
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(process_of(threading.get_native_id())))
    thread.start()
    thread.join()
    assert found == [os.getpid()]
    tid = threading.get_native_id()
    assert [has_thread(pid, tid) for pid in (tid, os.getppid(), 2**22 + 1)] == [True, False, False]
    with pytest.raises(ProcessLookupError):
        process_of(2**22 + 1)


def test_failed_looks() -> None:
    """Where no descriptor is left nothing is known, which is not "nothing there"."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    unused = os.dup(0)
    os.close(unused)
    resource.setrlimit(resource.RLIMIT_NOFILE, (unused, limits[1]))
    try:
        for look in (children(os.getpid()), holders(1)):
            with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
                list(look)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_descriptors_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was sent, and not yet received, is seen where it waits."""
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket() as unconnected, forked(theirs.fileno()) as pids:
        assert set(pids) <= set(descendants(os.getpid()))
        # Those of other tests come and go.
        monkeypatch.setattr("tlsify.wrap.holders.descendants", lambda _: iter(pids))
        before = sorted(waiting())
        socket.send_fds(ours, [b"."], [unconnected.fileno()])
        after = sorted(waiting())
        assert (sum(after) > sum(before), len(after)) == (True, len(before))
