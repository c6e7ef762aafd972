"""Errors of system calls and look-ups in words, without what Python's libraries add."""

from __future__ import annotations

import errno
import os


def explain(error: OSError) -> str:
    """Return an error as ``ENOENT: No such file or directory``.

    Look-ups have numbers that are no errno, and asyncio and ``create_server`` put addresses into
    the text of the errors that they raise again.
    """
    name = errno.errorcode.get(error.errno or 0)
    if name is None or error.errno is None:
        return str(error.strerror or error)
    return f"{name}: {os.strerror(error.errno)}"
