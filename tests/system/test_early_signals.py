"""Tests of early_signals: what servers do with them is in tests/cli/test_early_signals.py."""

from __future__ import annotations

import os
import signal

from tests.cli.forked import Forked
from tlsify.system import early_signals


def test_held_and_dropped() -> None:
    """A signal that has come meanwhile does nothing, and the mask is as it was."""

    def work(_: list[str]) -> int:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        found = early_signals.hold()
        for number in early_signals.HELD:
            os.kill(os.getpid(), number)
        assert signal.sigpending() >= set(early_signals.HELD)
        early_signals.drop(found)
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == {*before, signal.SIGTERM}
        return 0

    with Forked(command=work) as process:
        assert process.end() == 0


def test_held_and_released() -> None:
    """A signal that has come meanwhile comes then."""

    def work(_: list[str]) -> int:
        found = early_signals.hold()
        os.kill(os.getpid(), signal.SIGUSR2)
        os.write(1, b"not yet\n")
        early_signals.release(found)
        return 0

    with Forked(command=work) as process:
        assert process.line() == "not yet\n"
        assert process.end() == -signal.SIGUSR2
