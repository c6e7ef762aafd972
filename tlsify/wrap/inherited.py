"""Listening sockets that a program is going to inherit: which of them can get TLS."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from tlsify.errors import ConfigError
from tlsify.system.listening import spell
from tlsify.wrap.steering import as_user, is_tcp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def check(is_wanted: Callable[[int], bool]) -> None:
    """Check that a socket of ours may join each one.

    Args:
        is_wanted: whether a port gets TLS.

    Raises:
        ConfigError: one is another user's.
    """
    for sock in _listeners():
        user = os.fstat(sock.fileno()).st_uid
        if not is_wanted(sock.getsockname()[1]):
            continue
        try:
            with as_user(user):
                pass
        except PermissionError as exc:
            raise ConfigError(
                f"{spell(sock)}, which the program inherits, was made by user {user}: "
                "no socket of tlsify may join it",
                hint="have it made by the user that runs tlsify, or run tlsify as root",
            ) from exc


def _listeners() -> Iterator[socket.socket]:
    for name in os.listdir("/proc/self/fd"):
        number = int(name)
        with suppress(OSError):
            if stat.S_ISSOCK(os.fstat(number).st_mode) and os.get_inheritable(number):
                with socket.socket(fileno=os.dup(number)) as sock:
                    if is_tcp(sock) and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                        yield sock
