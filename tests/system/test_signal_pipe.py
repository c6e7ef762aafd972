"""Tests of signal_pipe."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

from tests.doubles import check_descriptors, descriptors
from tlsify.system.signal_pipe import SignalPipe


def test_signals() -> None:
    """Each that was caught is told once, in the order in which they came."""
    before, usual = descriptors(), signal.getsignal(signal.SIGUSR1)
    pipe = SignalPipe()
    try:
        pipe.catch([signal.SIGUSR1, signal.SIGUSR2])
        assert pipe.read() == b""
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            os.kill(os.getpid(), number)
        assert select.select([pipe.reader], [], [], 60)[0]
        assert pipe.read() == bytes([signal.SIGUSR1, signal.SIGUSR2])
        assert pipe.read() == b""
    finally:
        pipe.close([signal.SIGUSR1])
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, usual)
    check_descriptors(before)


def test_more_signals_than_the_pipe_holds() -> None:
    """Who does not read loses some, without a word on stderr, and is not held up."""
    program = """
import os, signal
from tlsify.system.signal_pipe import SignalPipe
pipe = SignalPipe()
pipe.catch([signal.SIGUSR1])
for _ in range(100_000):
    os.kill(os.getpid(), signal.SIGUSR1)
assert set(pipe.read()) == {signal.SIGUSR1}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stderr == b""
