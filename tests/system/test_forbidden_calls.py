"""Tests of forbidden_calls: what a forked child can still call."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
from pathlib import Path

import pytest

from tests.system.harness import tried
from tlsify.system import forbidden_calls
from tlsify.system.forbidden_calls import forbid
from tlsify.system.process import forgo_rights

pytestmark = pytest.mark.skipif(
    platform.machine() not in forbidden_calls._ARCHITECTURES
    or "Seccomp:" not in Path("/proc/self/status").read_text(),
    reason="no seccomp here",
)


def _forbid() -> None:
    forgo_rights()
    forbid()


def _call(number: int) -> None:
    """Call the kernel with arguments that no call succeeds with."""
    library = ctypes.CDLL(None, use_errno=True)
    bad = ctypes.c_long(-1)
    if library.syscall(ctypes.c_long(number), bad, bad, bad, bad, bad, bad) == -1:
        raise OSError(ctypes.get_errno(), "")


@pytest.mark.parametrize("name", forbidden_calls._CALLS)
def test_forbidden(name: str) -> None:
    """Each of them fails as if we were not permitted, whoever we are."""
    number = forbidden_calls._CALLS[name][platform.machine() == "aarch64"]
    assert tried(_forbid, lambda: _call(number)) == [errno.EPERM]


def test_what_goes_on() -> None:
    """What processes of ours do they still can: sockets, files, threads and children."""

    def fork() -> None:
        if os.fork() == 0:
            os._exit(0)
        os.wait()

    def look() -> None:
        assert "Seccomp:\t2\n" in Path("/proc/self/status").read_text()

    ends = socket.socketpair
    assert tried(_forbid, fork, look, ends, lambda: os.pidfd_open(os.getpid())) == [None] * 4


def test_program() -> None:
    """None is executed, be it a path or a descriptor."""
    found = tried(
        _forbid,
        lambda: os.execv("/bin/sh", ["sh", "-c", "exit 3"]),  # noqa: S606 - none is wanted
        lambda: os.execve(os.open("/bin/sh", os.O_RDONLY), ["sh"], {}),  # noqa: S606 - likewise
    )
    assert found == [errno.EPERM] * 2


@pytest.mark.skipif(platform.machine() != "x86_64", reason="about x86")
def test_other_way_in() -> None:
    """The same calls by x32's numbers are none either."""
    assert tried(_forbid, lambda: _call(0x40000000 + 520)) == [errno.EPERM]  # x32's execve


def test_program_of_the_filter() -> None:
    """Every jump stays within it, on both architectures; on another one there is none."""
    for machine in forbidden_calls._ARCHITECTURES:
        code = list(struct.iter_unpack("=HBBI", forbidden_calls._filter(machine)))
        for at, (_, then, otherwise, _) in enumerate(code):
            assert at + max(then, otherwise) < len(code) - (then + otherwise > 0)
    with pytest.raises(OSError, match="no filter for sparc"):
        forbidden_calls._filter("sparc")
