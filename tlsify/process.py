"""Keep this process's memory, and with it the secrets, from core dumps and debuggers."""

from __future__ import annotations

import ctypes
import os

_PR_SET_DUMPABLE = 4


def protect_process() -> None:
    """Have the kernel write no core dump of this process, and let nobody attach to it but root.

    That goes for forked children too, and ends with ``exec``. Traffic secrets, private keys and
    plaintext lie in this process's memory, and copies that libraries make cannot be wiped.

    Raises:
        OSError: the kernel refuses.

    Source: prctl(2) PR_SET_DUMPABLE; RLIMIT_CORE does not bind dumps that are piped to a program.
    """
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "prctl")
