"""Read what a configuration names: files, folders of them, and pipes that are being written."""

from __future__ import annotations

import errno
import os
import select
import stat
import time
from typing import TYPE_CHECKING

from tlsify.errors import unusable

if TYPE_CHECKING:
    from collections.abc import Collection

    from _typeshed import StrPath

    from tlsify.errors import TlsifyError

# Seconds for all that comes through a pipe, and bytes of it: whoever waits has other duties.
_PATIENCE, _MOST = 5.0, 2**24


def unreadable(path: StrPath, what: str, exc: OSError) -> TlsifyError:
    """Return the error for a file or folder that cannot be read: its own, or a shortage of ours."""
    return unusable(f"cannot read {what} {path}", exc, "check the path and its permissions")


def read_file(path: StrPath, what: str) -> bytes:
    """Read a file that the configuration names, or a pipe that is being written.

    Raises:
        ConfigError: it cannot be read, or only from a writer who does not write.
        ResourceError: no descriptor or memory is available.
    """
    try:
        with open(path, "rb", opener=_open) as file:
            number = file.fileno()
            is_file = stat.S_ISREG(os.fstat(number).st_mode)
            return file.read() if is_file else _drain(number)
    except OSError as exc:
        raise unreadable(path, what, exc) from exc


def _open(path: str, flags: int) -> int:
    """Open what may be a pipe, which would block until it has a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def _drain(pipe: int) -> bytes:
    """Read a pipe, or a device, to its end.

    Raises:
        OSError: that does not come, or not soon enough.
    """
    content = b""
    poller = select.poll()
    poller.register(pipe, select.POLLIN)
    deadline = time.monotonic() + _PATIENCE
    while len(content) <= _MOST:
        if not poller.poll(max(deadline - time.monotonic(), 0) * 1000):
            raise TimeoutError(errno.ETIMEDOUT, "nobody writes to this pipe")
        piece = os.read(pipe, _MOST)
        if not piece:
            return content
        content += piece
    raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))


def files_in(folder: StrPath, suffixes: Collection[str], what: str) -> list[str] | None:
    """Return the paths of a folder's files with such names, sorted; None if it is no folder.

    Raises:
        ConfigError: it cannot be read.
        ResourceError: no descriptor or memory is available.
    """
    if not os.path.isdir(folder):
        return None
    try:
        names = sorted(os.listdir(folder))
    except OSError as exc:
        raise unreadable(folder, what, exc) from exc
    return [os.path.join(folder, name) for name in names if os.path.splitext(name)[1] in suffixes]
