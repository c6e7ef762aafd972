"""Tests of syslog: priorities, a daemon that begins anew, and one that reads nothing."""

from __future__ import annotations

import logging
import os
import socket
from typing import TYPE_CHECKING

import pytest

from tlsify.logs import messages
from tlsify.logs.messages import NOTICE
from tlsify.metrics.counters import counters

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_log = logging.getLogger("tlsify")
_DAEMON = 3 << 3


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A syslog daemon's socket, which messages go to."""
    path = str(tmp_path / "log")
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        sock.settimeout(60)
        monkeypatch.setattr(messages, "_SYSLOG", path)
        root.handlers.clear()
        messages.install(logging.DEBUG, syslog=True)
        yield sock
    for handler in root.handlers:
        handler.close()
    root.handlers[:] = before
    root.setLevel(level)


def test_priorities(daemon: socket.socket) -> None:
    """Facility and level are syslog's, and the process is named."""
    for level, number in ((10, 7), (20, 6), (NOTICE, 5), (30, 4), (40, 3), (50, 2)):
        _log.log(level, "text \x1b\n")
        said = f"<{_DAEMON | number}>tlsify[{os.getpid()}]: text \\x1b\\n"
        assert daemon.recv(1000) == said.encode()


def test_errors(daemon: socket.socket, capsys: pytest.CaptureFixture[str]) -> None:
    """What ends a command, or a connection of `listen`, is told there as well as on stderr."""
    messages.report("wrong", "do it right")
    assert daemon.recv(1000).endswith(b": wrong")
    assert capsys.readouterr().err == "tlsify: error: wrong\ntlsify: hint: do it right\n"


def test_new_daemon(daemon: socket.socket) -> None:
    """One that has taken its place gets the messages."""
    path = daemon.getsockname()
    daemon.close()
    os.unlink(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(path)
        other.settimeout(60)
        _log.warning("to the new one")
        assert other.recv(1000).endswith(b"to the new one")


@pytest.mark.usefixtures("daemon")
def test_daemon_that_reads_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """What it does not take is lost and counted; nobody waits for it."""
    before = counters()["log_line_lost"]
    for _ in range(2000):
        _log.warning("x" * 1000)
    assert counters()["log_line_lost"] > before
    assert capsys.readouterr().err == ""
