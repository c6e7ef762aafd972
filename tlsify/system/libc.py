"""The C library, for system calls that Python has no name for."""

from __future__ import annotations

import ctypes
import functools
import os
from typing import Any

_M_PERTURB = -6  # malloc.h
_PATTERN = 0x5A  # any byte but 0, which would mean that nothing is overwritten


def call(name: str, *arguments: Any) -> int:
    """Call a function of the C library that returns -1 and sets errno upon failure.

    Raises:
        OSError: it has failed.
    """
    result: int = getattr(_library(), name)(*arguments)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return result


def overwrite_freed_memory() -> None:
    """Have ``free`` overwrite memory, as far as the C library can: musl's cannot.

    Source: mallopt(3) M_PERTURB.
    """
    if hasattr(_library(), "mallopt"):
        _library().mallopt(_M_PERTURB, _PATTERN)


@functools.cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
