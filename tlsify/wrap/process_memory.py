"""Memory of a process that waits in a system call: the address that accept tells."""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tlsify.wrap.notifications import Call, Notifications
    from tlsify.wrap.threads import Thread

_LENGTH = struct.Struct("=i")
_IPV4, _IPV6 = struct.Struct("=HH4s8x"), struct.Struct("=HHI16sI")


def encode_address(family: int, name: tuple[Any, ...]) -> bytes:
    """Encode an address as struct sockaddr_in or sockaddr_in6.

    Args:
        family: AF_INET or AF_INET6.
        name: as ``accept`` gives it.
    """
    host, port = name[0].partition("%")[0], socket.htons(name[1])
    if family == socket.AF_INET:
        return _IPV4.pack(family, port, socket.inet_aton(host))
    flow, scope = name[2:] or (0, 0)
    return _IPV6.pack(family, port, socket.htonl(flow), socket.inet_pton(family, host), scope)


def write_address(notifications: Notifications, call: Call, thread: Thread, address: bytes) -> None:
    """Write an address where a call wants it, as accept(2): as much as there is room for.

    The call's second argument is where to, or 0 for nowhere; the third is where the size of the
    room is, and the address's own is written.

    Args:
        notifications: where the call is from.
        call: waits.
        thread: that calls.
        address: encoded.

    Raises:
        OSError: EFAULT or EINVAL, as the call would fail; ESRCH, it has ended.
    """
    _, at, length_at, *_ = call.arguments
    if not at:
        return
    memory = thread.open_memory()
    try:
        # Only now it is certain whose memory that is.
        if not notifications.is_valid(call):
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        (room,) = _LENGTH.unpack(_read(memory, _LENGTH.size, length_at))
        if room < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        _write(memory, address[:room], at)
        _write(memory, _LENGTH.pack(len(address)), length_at)
    finally:
        os.close(memory)


def _read(memory: int, size: int, at: int) -> bytes:
    try:
        found = os.pread(memory, size, at)
    except OverflowError:  # beyond what an offset can be
        found = b""
    except OSError as exc:
        raise OSError(errno.EFAULT, os.strerror(errno.EFAULT)) from exc
    if len(found) < size:
        raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
    return found


def _write(memory: int, data: bytes, at: int) -> None:
    try:
        written = os.pwrite(memory, data, at)
    except (OSError, OverflowError) as exc:
        raise OSError(errno.EFAULT, os.strerror(errno.EFAULT)) from exc
    if written < len(data):
        raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
