"""Tests of signals: a terminal's are told from those of other processes."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import termios

from tlsify.wrap.signals import SignalOrigins


def test_origins() -> None:
    """``kill`` is no key on the terminal."""
    terminal, its_end = os.openpty()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.setsid()
        fcntl.ioctl(its_end, termios.TIOCSCTTY, 0)
        origins = SignalOrigins({signal.SIGINT, signal.SIGQUIT})
        os.kill(os.getpid(), signal.SIGQUIT)
        found = list(origins.read())
        os.write(writer, b"go")
        select.select([origins.descriptor], [], [], 60)
        is_right = [*found, *origins.read()] == [(signal.SIGQUIT, False), (signal.SIGINT, True)]
        os._exit(0 if is_right else 1)
    os.read(reader, 2)
    os.write(terminal, b"\x03")
    assert os.waitpid(child, 0)[1] == 0
    for each in (terminal, its_end, reader, writer):
        os.close(each)
