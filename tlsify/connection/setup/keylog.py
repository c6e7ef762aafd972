"""Append a connection's secrets to a file, for decryption by other tools (RFC 9850)."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from tlsify.errors import ConfigError, unusable
from tlsify.system.modes import is_own, own_alone

if TYPE_CHECKING:
    from _typeshed import StrPath


def append(path: StrPath, lines: bytes) -> None:
    """Write whole lines at the end of a file of the caller's own, made with mode 0600.

    Args:
        path: the file.
        lines: as OpenSSL gives them, each with its newline; none just sees whether that would go.

    Raises:
        ConfigError: it cannot be written, or others could read it.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        file = os.open(path, flags, 0o600)
        try:
            state = os.fstat(file)
            if not stat.S_ISREG(state.st_mode) or not is_own(state):
                raise ConfigError(
                    f"key log {path} is not private",
                    hint=f"it must be a file of yours and of mode 0600: chmod 600 {path}",
                )
            if not state.st_mode & stat.S_IRWXU:  # it has just been made
                own_alone(file)
            if os.write(file, lines) < len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(file)
    except OSError as exc:
        hint = "check the path, or leave it out"
        raise unusable(f"cannot write key log {path}", exc, hint) from exc
