"""The C library, for system calls that Python has no name for."""

from __future__ import annotations

import ctypes
import functools
import os
from typing import Any


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


@functools.cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
