"""Tests of forbidden_calls: what a forked child can still call."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
from functools import partial
from pathlib import Path

import pytest

from tests.system.harness import tried
from tlsify.system import forbidden_calls, libc
from tlsify.system.sandbox import renounce

pytestmark = [
    pytest.mark.own_kernel,
    pytest.mark.skipif(
        platform.machine() not in forbidden_calls.ARCHITECTURES
        or "Seccomp:" not in Path("/proc/self/status").read_text(),
        reason="no seccomp here",
    ),
]


_PIDFD_GETFD = 438


def _call(number: int) -> None:
    """Call the kernel with arguments that no call succeeds with."""
    libc.call("syscall", ctypes.c_long(number), *[ctypes.c_long(-1)] * 6)


def test_forbidden() -> None:
    """Each of them fails as if we were not permitted, whoever we are."""
    numbers = [each[platform.machine() == "aarch64"] for each in forbidden_calls._CALLS.values()]
    found = tried(renounce, *(partial(_call, number) for number in numbers))
    assert found == [errno.EPERM] * len(forbidden_calls._CALLS)


def test_what_goes_on() -> None:
    """What processes of ours do they still can: sockets, files, threads and children."""

    def fork() -> None:
        if os.fork() == 0:
            os._exit(0)
        os.wait()

    def look() -> None:
        assert "Seccomp:\t2\n" in Path("/proc/self/status").read_text()

    ends = socket.socketpair
    assert tried(renounce, fork, look, ends, lambda: os.pidfd_open(os.getpid())) == [None] * 4


def test_program() -> None:
    """None is executed, be it a path or a descriptor."""
    found = tried(
        renounce,
        lambda: os.execv("/bin/sh", ["sh", "-c", "exit 3"]),
        lambda: os.execve(os.open("/bin/sh", os.O_RDONLY), ["sh"], {}),
    )
    assert found == [errno.EPERM] * 2


@pytest.mark.skipif(platform.machine() != "x86_64", reason="about x86")
def test_other_way_in() -> None:
    """The same calls by x32's numbers are none either."""
    assert tried(renounce, lambda: _call(0x40000000 + 520)) == [errno.EPERM]  # x32's execve


def test_calls_that_are_needed() -> None:
    """A process may have a call that the others have not, and no other."""

    def renounce_all_but_one() -> None:
        renounce(but=["pidfd_getfd"])

    def take() -> None:
        libc.call("syscall", _PIDFD_GETFD, os.pidfd_open(os.getpid()), 0, 0)

    assert tried(renounce_all_but_one, take, lambda: os.execv("/", ["x"])) == [None, errno.EPERM]
    assert tried(renounce, take) == [errno.EPERM]


def test_program_of_the_filter() -> None:
    """Every jump stays within it, on both architectures; on another one there is none."""
    for machine in forbidden_calls.ARCHITECTURES:
        code = list(struct.iter_unpack("=HBBI", forbidden_calls._filter(machine)))
        for at, (_, then, otherwise, _) in enumerate(code):
            assert at + max(then, otherwise) < len(code) - (then + otherwise > 0)
    with pytest.raises(OSError, match="no filter for sparc"):
        forbidden_calls._filter("sparc")
