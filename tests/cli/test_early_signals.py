"""Signals that come while a server starts: none of them ends it, and each is acted on then."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.forked import Forked, refused
from tests.cli.harness import LOOPBACK
from tests.doubles import until
from tlsify.serving import reexec

if TYPE_CHECKING:
    from pathlib import Path
    from types import FrameType

    from tests.cli.conftest import Pki

# Each so-many-th call of a function is a moment at which they come.
_STRIDE = 20


class Shower(AbstractContextManager[None]):
    """Sends a signal to its own process, again and again, until that has started, or failed to."""

    def __init__(self, number: signal.Signals) -> None:
        """Prepare."""
        self._number = number
        self._calls = 0

    def __enter__(self) -> None:
        """Begin."""
        self._pid = os.getpid()
        sys.setprofile(self._called)

    def __exit__(self, *_: object) -> None:
        """It has ended."""

    def _called(self, frame: FrameType, event: str, _: Any) -> None:
        if event != "call":
            return
        if frame.f_code.co_name in {"announce", "drop"} or os.getpid() != self._pid:
            sys.setprofile(None)
            return
        self._calls += 1
        if self._calls % _STRIDE == 0:
            os.kill(self._pid, self._number)


def _words(verb: str, pki: Pki, folder: Path) -> tuple[object, ...]:
    shown = ("--cert", pki.good.certificate, "--key", pki.good.key)
    log = ("--access-log", folder / "log")
    words: dict[str, tuple[object, ...]] = {
        "serve": (*shown, *log, "--workers", "1", "--listen", f"{LOOPBACK}:0", folder),
        "forward": (*shown, *log, "--workers", "1", f"{LOOPBACK}:0", f"{LOOPBACK}:9"),
        "listen": (*shown, *log, f"{LOOPBACK}:0", "--", "true"),
        "agent": ("--workers", "1", folder / "agent"),
    }
    return ("--ktls=off", verb, *words[verb])


_DOCUMENTED = {
    "serve": (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2),
    "forward": (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2),
    "listen": (signal.SIGHUP, signal.SIGUSR1),
    "agent": (signal.SIGHUP,),
}


@pytest.mark.parametrize(
    ("verb", "number"),
    [(verb, number) for verb, numbers in _DOCUMENTED.items() for number in numbers],
)
def test_at_every_moment(
    verb: str, number: signal.Signals, pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It starts, has not lost the signal, and ends as it is asked to."""
    monkeypatch.setattr(reexec, "_command", lambda: ("/bin/false", ["false"]))
    with Forked("-v", *_words(verb, pki, tmp_path), within=Shower(number)) as command:  # type: ignore[arg-type]
        assert command.line()
        if number == signal.SIGHUP:
            until(lambda: "reloaded" in command.said() or "read anew" in command.said())
        elif number == signal.SIGUSR2:
            until(lambda: "restart failed" in command.said())
        command.ask_to_end()
        assert command.end() == 0


def test_failed_start(tmp_path: Path) -> None:
    """It ends with its own status: the signal was too late."""
    words = ("serve", "--listen", f"{LOOPBACK}:0", tmp_path / "nowhere")
    with Forked(*words, within=Shower(signal.SIGUSR1)) as command:
        assert command.line() == ""
        assert command.end() == refused(*words).status


def test_other_verbs() -> None:
    """By default it ends them, as any other program."""
    with Forked("connect", f"{LOOPBACK}:1", within=Shower(signal.SIGUSR1)) as command:
        assert command.line() == ""
        assert command.end() == -signal.SIGUSR1
