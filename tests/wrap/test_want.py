"""A moment of want in the supervisor of a wrapped program."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

import pytest

from tests.cli.forked import Forked
from tests.doubles import until
from tests.want import KINDS, Want
from tests.wrap.wrapped import (
    KERNEL,
    LISTEN,
    RELAY,
    SERVE,
    connect,
    needs_seccomp,
    quickly,
    read_all,
)
from tlsify.errors import ExitCode

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Pki

_REFUSED = 9
# Says so if it may not listen, and serves any number of clients, whatever accept(2) says.
_PROGRAM = f"""
try:
    listener = listen()
except OSError:
    sys.exit({_REFUSED})
while True:
    try:
        found = listener.accept()
    except OSError:
        continue
    serve(*found)
"""
_USUAL = {"fork", "thread", "dup"}
# What a supervisor takes; without kernel TLS there is a thread for relays, too.
_TAKEN = {"fork", "dup", "socketpair", "socket", "accept", "open", "write", "mmap"}
_RELAYS_TAKE = {"thread", "epoll", "epoll_ctl", "eventfd"}


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[] if kind in _USUAL else [pytest.mark.occasional])
        for kind in KINDS
    ],
)
@pytest.mark.parametrize(
    "carrier",
    [
        pytest.param(RELAY, id="relay"),
        pytest.param(KERNEL, id="kernel", marks=[pytest.mark.ktls, pytest.mark.full_run]),
    ],
)
@needs_seccomp
@pytest.mark.timeout(1800)  # many starts, emulated
def test_supervisor(pki: Pki, tmp_path: Path, kind: str, carrier: str) -> None:
    """PROG ends as it does without room to listen, or serves all but one client at most."""
    credentials = ("--cert", pki.good.certificate, "--key", pki.good.key)
    options = ("wrap", *credentials, "--access-log", tmp_path / "log")
    words = (carrier, *options, "--", sys.executable, "-I", "-S", "-c", LISTEN + SERVE + _PROGRAM)

    def live(nth: int, at_rest: int) -> tuple[bool, int]:
        """Return whether there was an nth call, and how many descriptors are left at rest."""
        want = Want(kind, nth)
        with Forked(*words, within=want, command=quickly) as command:
            line = command.line()
            if not line:
                assert command.end() in {ExitCode.SYSTEM, _REFUSED}
                assert want.has_failed
                return True, at_rest
            served = [_is_served(pki, int(line)) for _ in range(3)]
            assert served.count(True) >= len(served) - want.has_failed
            until(lambda: command.descriptors() <= at_rest)
            found = command.descriptors()
            command.ask_to_end()
            assert command.end() == 128 + signal.SIGTERM
            return want.has_failed, found

    _, at_rest = live(10**6, 10**6)
    nth, has_failed = 1, True
    while has_failed:
        has_failed, _ = live(nth, at_rest)
        nth += 1
    taken = _TAKEN | (_RELAYS_TAKE if carrier == RELAY else set())
    assert nth > 2 or kind not in taken


def _is_served(pki: Pki, port: int) -> bool:
    try:
        with connect(pki, "127.0.0.1", port) as client:
            client.sendall(b"hello")
            own, port, *_ = client.getsockname()
            return read_all(client).decode() == f"hello from {own} {port}"
    except OSError:
        return False
