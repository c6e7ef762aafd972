"""Tests of copies: when a connection's descriptor can have been copied."""

from __future__ import annotations

import os
import socket
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.wrap.test_holders import forked
from tests.wrap.wrapped import CARRIERS, Wrapped
from tlsify.wrap import copies as module
from tlsify.wrap.copies import Copies
from tlsify.wrap.holders import Hold
from tlsify.wrap.notifications import Call

if TYPE_CHECKING:
    from tests.cli.conftest import Pki

_PID = os.getpid()
_BASE = 256


def descriptor(**changes: object) -> Any:
    """Return a connection that was delivered long after anything else."""
    usual = {
        "hold": Hold(_PID, 300),
        "held_in": {_PID},
        "is_copied": False,
        "delivered_at": time.monotonic() + 3600,
    }
    return SimpleNamespace(**usual | changes)


def call(name: str, tid: int = _PID) -> Call:
    """Return a call of this process's."""
    return Call(1, tid, name, (300, 0, 0, 0, 0, 0))


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return what a look finds; other tests' processes are none of it."""
    result: list[Any] = []
    monkeypatch.setattr(module, "unix_sockets", lambda _: iter(result))
    return result


@pytest.mark.usefixtures("found")
def test_what_copies() -> None:
    """Each call that may, for the connections that it may copy; a process that is gone for all."""
    ours, others = descriptor(), descriptor(hold=Hold(1, 300), held_in={1})
    for name, tid, expected in [
        ("read", _PID, (True, True)),
        ("socket", _PID, (True, True)),
        ("dup", _PID, (False, True)),
        ("fcntl", _PID, (False, True)),
        ("fork", _PID, (False, True)),
        ("clone", _PID, (False, True)),
        ("vfork", 2**22 + 1, (False, False)),
        ("pidfd_getfd", _PID, (False, False)),
        ("sendmsg", _PID, (False, False)),
        ("sendmmsg", _PID, (False, False)),
    ]:
        ours.is_copied = False
        copies = Copies(lambda _: ours, _BASE)
        assert copies.note(call(name, tid)) == (name != "read")
        ours.delivered_at = others.delivered_at = time.monotonic()
        found = tuple(copies.has_none(each, list) for each in (ours, others))
        assert found == expected, name
        ours.delivered_at += 3600  # a process that has forked long ago
        assert copies.has_none(ours, list) == (name not in {"dup", "fcntl"})


@pytest.mark.usefixtures("found")
def test_other_processes() -> None:
    """One that was seen to use it has it, too."""
    assert not Copies(lambda _: None, _BASE).has_none(descriptor(held_in={_PID, 1}), list)


def test_descriptors_that_wait(monkeypatch: pytest.MonkeyPatch, found: list[Any]) -> None:
    """They are looked for where there are sockets for them: in all, or in those that are known."""
    monkeypatch.setattr(module, "_MOMENT", 0.0)
    copies = Copies(lambda _: None, _BASE)
    ours, theirs = socket.socketpair()
    with ours, theirs, forked(theirs.fileno()) as (_, child):
        number = theirs.fileno()
        link = os.readlink(f"/proc/{child}/fd/{number}")
        found.append((Hold(child, number), link, 0))
        assert copies.has_none(descriptor(), list)
        found.clear()  # a look would find nothing
        assert copies.has_none(descriptor(), list)
        socket.send_fds(ours, [b"."], [0])
        assert not copies.has_none(descriptor(), list)
        copies.note(call("socketpair"))
        assert copies.has_none(descriptor(), list)
        found.append((Hold(child, number), "socket:[1]", 0))  # closed there
        copies.note(call("socketpair"))
        assert copies.has_none(descriptor(), list)
        found[:] = [(Hold(child, number), link, 1)]
        assert not copies.has_none(descriptor(), list)


def test_sockets_whose_calls_are_not_asked_about(found: list[Any]) -> None:
    """Whatever they may have sent, they are not waited for."""
    found.append((Hold(_PID, _BASE), "socket:[1]", 0))
    assert not Copies(lambda _: None, _BASE).has_none(descriptor(), list)
    found[0] = (Hold(_PID, _BASE - 1), "socket:[1]", 0)
    assert Copies(lambda _: None, _BASE).has_none(descriptor(), list)


def test_forgotten_processes() -> None:
    """What has ended is forgotten."""
    copies = Copies(lambda _: None, _BASE)
    copies.note(call("fork"))
    copies._forks[2**22 + 1] = 1.0
    copies.forget()
    assert list(copies._forks) == [_PID]


@CARRIERS
def test_duplicate(pki: Pki, carrier: str) -> None:
    """A connection goes on in a duplicate, however that was made."""
    source = """
import fcntl
listener = listen()
for copy in (
    os.dup, lambda fd: os.dup2(fd, 20), lambda fd: os.dup2(fd, 30, inheritable=False),
    lambda fd: fcntl.fcntl(fd, fcntl.F_DUPFD, 40),
    lambda fd: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 50),
):
    sock, _ = listener.accept()
    number = copy(sock.fileno())
    sock.close()
    os.write(number, b"ok")
    socket.socket(fileno=number).shutdown(socket.SHUT_WR)
"""
    with Wrapped(pki, carrier, source) as program:
        for _ in range(5):
            with program.connect() as client:
                assert client.recv(2) == b"ok"
                assert client.recv(1) == b""
        assert program.end() == 0
