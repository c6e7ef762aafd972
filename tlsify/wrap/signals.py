"""Signals with what a handler is not told: whether the kernel sent them, as a terminal's are."""

from __future__ import annotations

import os
import signal
import struct
from typing import TYPE_CHECKING

from tlsify.system import libc

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_SET = struct.Struct("=Q16x104x")  # sigset_t
_TOLD = struct.Struct("=Iii116x")  # linux/signalfd.h: struct signalfd_siginfo
_FROM_KERNEL = 0x80  # asm-generic/siginfo.h: SI_KERNEL


class SignalOrigins:
    """Signals that are read rather than handled; lasts as long as the process.

    Attributes:
        descriptor: readable when there are some.
    """

    def __init__(self, numbers: Collection[signal.Signals]) -> None:
        """Block them, in this thread and what it starts.

        Raises:
            OSError: there is no descriptor.

        Source: signalfd(2).
        """
        wanted = _SET.pack(sum(1 << number - 1 for number in numbers))
        self.descriptor = libc.call("signalfd", -1, wanted, os.O_CLOEXEC | os.O_NONBLOCK)
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)

    def read(self) -> Iterator[tuple[int, bool]]:
        """Return what has come: each signal, and whether it is the kernel's."""
        while True:
            try:
                told = os.read(self.descriptor, _TOLD.size)
            except BlockingIOError:
                return
            number, _, code = _TOLD.unpack(told)
            yield number, code == _FROM_KERNEL
