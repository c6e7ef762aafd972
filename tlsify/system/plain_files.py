"""Plain files: those whose bytes sendfile(2) can send, past Python's objects."""

from __future__ import annotations

import io
import os
import stat


def descriptor(file: object) -> int | None:
    """Return the descriptor of a file that can be sent by sendfile(2); None if it has to be read.

    Only of a regular file, opened by Python's own classes, a read returns the bytes that the
    descriptor has. gzip's objects, and wrappers that count or decrypt, have a descriptor, too, but
    their own ``read``; files in /proc have no size, and devices and pipes no offset.
    """
    raw = file
    if type(file) in {io.BufferedReader, io.BufferedRandom}:
        raw = file.raw  # type: ignore[attr-defined]
    if type(raw) is not io.FileIO or not raw.readable():
        return None
    if type(file) is io.BufferedRandom:
        file.flush()  # it may have been written to
    state = os.fstat(raw.fileno())
    return raw.fileno() if stat.S_ISREG(state.st_mode) and state.st_size else None
