"""Descriptors from the caller: sockets are taken over, so that no other code uses them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat

from tlsify.cli import lazy_modules
from tlsify.errors import ConfigError, errno_name
from tlsify.system.process import Account

# Above those that programs are given.
_FREE = 16
_STREAMS = 3
_STDERR = 2
_HINT = "name the descriptor of a connected stream socket that you left open for the command"


def take_socket(number: int) -> socket.socket:
    """Take over a connected socket.

    Its number is free afterwards: a program that is run later must not find the bare connection
    there. Standard streams that are the same socket, as inetd makes them, lead nowhere from here
    on, since no message may get between the records.

    Args:
        number: a descriptor of this process.

    Raises:
        ConfigError: it is none, or no connected stream socket; it is as it was.
    """
    try:
        status = os.fstat(number)
    except OSError as exc:
        raise _unusable(number, "not open") from exc
    if not stat.S_ISSOCK(status.st_mode):
        raise _unusable(number, "not a socket")
    sock = socket.socket(fileno=fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, _FREE))
    try:
        if sock.type != socket.SOCK_STREAM:
            raise _unusable(number, "not a stream socket")
        sock.getpeername()
    except OSError as exc:
        sock.close()
        raise _unusable(number, f"not connected ({errno_name(exc.errno or 0)})") from exc
    except ConfigError:
        sock.close()
        raise
    _vacate(number, status)
    return sock


def _vacate(number: int, status: os.stat_result) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for stream in range(_STREAMS):
        found = os.fstat(stream)
        if (found.st_dev, found.st_ino) == (status.st_dev, status.st_ino):
            os.dup2(null, stream)
    os.close(null)
    if number >= _STREAMS:
        os.close(number)


def hand_on(sock: socket.socket) -> socket.socket:
    """Move a socket's descriptor to a new object: closing the old one has no effect."""
    return socket.socket(fileno=sock.detach())


def check_unix_socket(number: int) -> None:
    """Check that descriptors can be sent through a descriptor.

    Raises:
        ConfigError: they cannot.
    """
    try:
        with socket.socket(fileno=os.dup(number)) as sock:
            if sock.family == socket.AF_UNIX:
                return
    except OSError as exc:
        raise _not_unix(number) from exc
    raise _not_unix(number)


def _unusable(number: int, why: str) -> ConfigError:
    return ConfigError(f"cannot use descriptor {number}: {why}", hint=_HINT)


def _not_unix(number: int) -> ConfigError:
    return ConfigError(
        f"cannot send through descriptor {number}: not an AF_UNIX socket",
        hint="name one end of a socketpair whose other end the receiver has",
    )


def let_go(*kept: int | None) -> None:
    """Close what the caller gave the program to inherit: a reader of it waits for no more.

    Whatever is ours closes itself on exec, so that what does not is not ours. Errors still go to
    stderr. What is ``kept`` stays open. Privileges go too, where TLS_UID and TLS_GID say so.

    Raises:
        ConfigError: these say something that cannot be done.
    """
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if int(entry) > _STDERR and int(entry) not in kept and os.get_inheritable(int(entry)):
                os.close(int(entry))
    null = os.open(os.devnull, os.O_RDWR)
    for stream in {*range(_STDERR)} - {*kept}:
        os.dup2(null, stream)
    os.close(null)
    account = Account.from_environment()
    if account is not None:
        lazy_modules.load_now()
        account.become()
