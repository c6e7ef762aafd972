"""Tests of interrupts."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

from tests.doubles import check_descriptors, descriptors, until
from tests.want import Want
from tlsify.system.interrupts import interrupting

# A signal that another thread takes is noted, and interrupts nothing: just as one that comes a
# moment before the call.
_PROGRAM = """
import os, signal, threading, time
from pathlib import Path
from tlsify.system.interrupts import interrupting

heeded = []
def handler(number, _):
    heeded.append(number)
    raise InterruptedError
signal.signal(signal.SIGTERM, handler)
reader, writer = os.pipe()
main = Path(f"/proc/self/task/{threading.get_native_id()}/syscall")
def strike():
    while not main.read_text().startswith("0 "):  # read(2), on x86-64
        time.sleep(0.001)
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
threading.Thread(target=strike).start()
with interrupting([signal.SIGTERM], lambda: bool(heeded)):
    try:
        os.read(reader, 1)
    except InterruptedError:
        print(heeded)
"""


def test_signal_that_interrupts_nothing() -> None:
    """It is repeated until it does."""
    ran = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, check=True, timeout=60, text=True
    )
    assert ran.stdout == f"[{signal.SIGTERM:d}]\n"
    assert not ran.stderr


def test_nothing_is_left() -> None:
    """Neither a thread nor a descriptor, with or without them to be had."""
    before = descriptors()
    with interrupting([signal.SIGUSR1], lambda: True):
        assert any(each.name == "tlsify-signals" for each in threading.enumerate())
    with Want("thread", 1), interrupting([signal.SIGUSR1], lambda: True):
        pass
    until(lambda: not any(each.name == "tlsify-signals" for each in threading.enumerate()))
    check_descriptors(before)
