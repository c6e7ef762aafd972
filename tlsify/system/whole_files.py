"""Files that are read whole, and folders that are listed, within a bound."""

from __future__ import annotations

import errno
import os
import select
import stat
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO, TypeAlias

    from _typeshed import StrPath

    Entry: TypeAlias = os.DirEntry[str]

# Of a folder.
MOST_NAMES = 2**16
# Seconds for everything that comes through a pipe: the reader has other duties.
_PATIENCE = 5.0
_PIECE = 2**16


def read(path: StrPath, most: int, *, waits: bool = False) -> bytes:
    """Read a regular file, or, if the caller waits for its writer, a pipe.

    Opening never blocks. A file that grows meanwhile is read as far as the bound.

    Raises:
        OSError: it cannot be read, has more bytes than ``most`` (EFBIG), or is no file (EINVAL).
    """
    with open(path, "rb", opener=_open) as file:
        state = os.fstat(file.fileno())
        if stat.S_ISREG(state.st_mode):
            content = _read(file, state.st_size, most)
        elif waits:
            content = _drain(file.fileno(), most)
        else:
            raise OSError(errno.EINVAL, "it is not a regular file")
    if content is None or len(content) > most:
        raise too_large(most)
    return content


def _read(file: BinaryIO, size: int, most: int) -> bytes | None:
    if size > most:
        return None
    content = file.read(size + 1)
    if len(content) > size:  # it grows, or is one of /proc's
        content += file.read(most + 1 - len(content))
    return content


def too_large(most: int) -> OSError:
    """Return the error for more bytes than there may be."""
    shift, unit = (20, "MiB") if most >> 20 else (10, "KiB")
    return OSError(errno.EFBIG, f"it has more than {most >> shift} {unit}")


def _open(path: str, flags: int) -> int:
    """Open what may be a pipe, which would block until it has a writer, or a terminal."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def _drain(pipe: int, most: int) -> bytes | None:
    """Read a pipe, or a device, to its end; return None if there is more.

    Raises:
        OSError: the end does not come in time.
    """
    content = bytearray()
    poller = select.poll()
    poller.register(pipe, select.POLLIN)
    deadline = time.monotonic() + _PATIENCE
    while len(content) <= most:
        if not poller.poll(max(deadline - time.monotonic(), 0) * 1000):
            raise TimeoutError(errno.ETIMEDOUT, "nobody writes to this pipe")
        piece = os.read(pipe, _PIECE)
        if not piece:
            return bytes(content)
        content += piece
    return None


def entries(folder: StrPath) -> Iterator[Entry]:
    """List a folder.

    Raises:
        OSError: it cannot be listed, or has more than `MOST_NAMES` names (EFBIG).
    """
    with os.scandir(folder) as found:
        for number, entry in enumerate(found):
            if number == MOST_NAMES:
                raise OSError(errno.EFBIG, f"it has more than {MOST_NAMES} names")
            yield entry


def names(folder: StrPath) -> list[str]:
    """Return the names in a folder, sorted; raises as `entries`."""
    return sorted(entry.name for entry in entries(folder))
