"""Tests of wrap as a command: what it refuses; tests/wrap has what it does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli.forked import refused
from tests.wrap.wrapped import RELAY, Wrapped, needs_seccomp, read_all
from tlsify.wrap import launch as launching

if TYPE_CHECKING:
    from tests.cli.conftest import Pki


@pytest.mark.parametrize(
    ("words", "status", "complaint"),
    [
        ((), 100, "there is no program to run"),
        (("--port", "0", "--", "true"), 100, "--port"),
        (("--port", "80", "--plain-port", "80", "--", "true"), 100, "port 80 cannot both"),
        (("--", "/nowhere"), 127, "cannot run /nowhere"),
        (("--", "/etc/passwd"), 126, "not executable"),
    ],
)
def test_misuse(words: tuple[str, ...], status: int, complaint: str) -> None:
    """Each error is named before anything is run."""
    refused("wrap", *words).failed(status, complaint)


def test_without_kernel_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """With --ktls=require the command refuses."""
    monkeypatch.setenv("TLSIFY_KTLS", "off")
    refused("--ktls=require", "wrap", "--", "true").failed(103, "unset that variable")


@needs_seccomp
def test_unusable_certificate(pki: Pki) -> None:
    """The program does not begin."""
    with pytest.raises(AssertionError, match=r"it did not start: tlsify: error: .*nowhere"):
        Wrapped(pki, RELAY, "listen()", credentials=("--cert", "/nowhere"))


@needs_seccomp
def test_where_it_cannot_work(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal names what helps."""

    def forbidden(*_: object) -> int:
        raise PermissionError(1, "not permitted")

    monkeypatch.setattr(launching, "take", forbidden)
    with pytest.raises(
        AssertionError, match=r"pidfd_getfd: EPERM.*\n.*SYS_PTRACE.*SystemCallFilter"
    ):
        Wrapped(pki, RELAY, "listen()")


# Tells its own rights, and those of its parent.
_RIGHTS = """
with listen() as listener:
    sock, _ = listener.accept()
for each in ("self", os.getppid()):
    with open(f"/proc/{each}/status", "rb") as file:
        sock.sendall(b"".join(l for l in file if l.startswith((b"No", b"Sec", b"CapB"))))
"""


@needs_seccomp
def test_rights(pki: Pki) -> None:
    """The supervisor has given up what it does not need, and the program has what it had."""
    with Wrapped(pki, RELAY, _RIGHTS) as command:
        with command.connect() as client:
            lines = read_all(client).decode().splitlines()
        assert command.end() == 0
        warning = "tlsify: warning: the supervisor's and the program's processes run as root"
        assert (warning in command.said()) is (os.geteuid() == 0)
    own, supervisors = (
        dict(line.split(":\t") for line in lines[at : at + len(lines) // 2])
        for at in (0, len(lines) // 2)
    )
    for found in (own, supervisors):
        assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
    ours = Path("/proc/self/status").read_text()
    assert f"CapBnd:\t{own['CapBnd']}\n" in ours
    if os.geteuid() == 0:
        assert int(supervisors["CapBnd"], 16) == 0
