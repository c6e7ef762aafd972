"""Tests of terminal: of servers in one that is closed, and of those that are reloaded in it."""

from __future__ import annotations

import logging
import os
import pty
import signal
import sys
import warnings
from typing import TYPE_CHECKING

import pytest

from tests.cli.forked import Forked
from tests.doubles import Endpoint, until
from tlsify.cli import main
from tlsify.system.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import trustme


def _in_terminal(work: Callable[[], int]) -> tuple[int, int]:
    """Fork a child with a terminal of its own; return its pid, and our end of the terminal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads and fork
        pid, ours = pty.fork()
    if pid == 0:
        status = 1
        try:
            sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
            logging.root.handlers.clear()  # pytest's
            status = work()
        finally:
            os._exit(status)
    return pid, ours


def _status(pid: int) -> int:
    return os.waitstatus_to_exitcode(Endpoint(lambda: os.waitpid(pid, 0)[1]).result(60))


@pytest.mark.parametrize(("verb", "reloaded"), [("agent", b"reloaded"), ("listen", b"read anew")])
def test_server(verb: str, reloaded: bytes, tmp_path: Path, authority: trustme.CA) -> None:
    """A reload leaves it alone; it ends, in good order, with its terminal."""
    shown = tmp_path / "both.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(shown)
    shown.chmod(0o600)
    words = {
        "agent": ["--workers", "1", str(tmp_path / "agent")],
        "listen": ["--cert", str(shown), "127.0.0.1:0", "--", "true"],
    }
    pid, ours = _in_terminal(lambda: main(["-v", "--ktls=off", verb, *words[verb]]))
    said = b""

    def has_said(what: bytes) -> bool:
        nonlocal said
        said += os.read(ours, 2**12)
        return what in said

    until(lambda: has_said(b"agent at" if verb == "agent" else b"listening on"))
    os.kill(pid, signal.SIGHUP)
    until(lambda: has_said(reloaded))
    os.close(ours)
    assert _status(pid) == 0


@pytest.mark.parametrize("ignored", [False, True])
def test_end(*, ignored: bool) -> None:
    """It is of interest except under nohup."""
    reader, writer = os.pipe()

    def work() -> int:
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else lambda *_: None)
        terminal = Terminal()
        before = terminal.is_gone()
        os.write(writer, b"!")
        while os.path.exists("/dev/tty") and os.isatty(0):
            signal.sigtimedwait([], 0.01)
        return 10 * before + terminal.is_gone()

    pid, ours = _in_terminal(work)
    assert os.read(reader, 1) == b"!"
    for each in (ours, reader, writer):
        os.close(each)
    assert _status(pid) == (0 if ignored else 1)


def test_without_one() -> None:
    """There is none to be gone."""

    def work(_: list[str]) -> int:
        if os.fork():
            return os.waitstatus_to_exitcode(os.wait()[1])
        os.setsid()
        os._exit(Terminal().is_gone())

    with Forked(command=work) as process:
        assert process.end() == 0
