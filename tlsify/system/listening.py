"""Listening sockets: our own, and systemd's."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from typing import TYPE_CHECKING

from tlsify.errors import SHORTAGES, ConfigError, NetworkError, ResourceError
from tlsify.system.modes import bind

if TYPE_CHECKING:
    from pathlib import Path

BACKLOG = 1024
_FIRST = 3  # sd_listen_fds(3)


def listen(
    host: str, port: int, backlog: int = BACKLOG, *, reuse_port: bool = False
) -> socket.socket:
    """Listen on an address.

    Args:
        host: a name or an address; empty for every IPv4 interface.
        port: 0 for any that is free.
        backlog: limit on waiting connections.
        reuse_port: let other sockets of this user listen there, too, among which the kernel
            spreads connections (SO_REUSEPORT).

    Raises:
        NetworkError: it cannot be listened on.
        ResourceError: no descriptor is to be had.
    """
    try:
        return socket.create_server(
            (host, port),
            family=socket.AF_INET6 if ":" in host else socket.AF_INET,
            backlog=backlog,
            reuse_port=reuse_port,
        )
    except (OSError, OverflowError, UnicodeError) as exc:
        if isinstance(exc, OSError) and exc.errno in SHORTAGES:
            raise ResourceError(exc, f"cannot listen on {host}:{port}") from exc
        raise NetworkError(
            f"cannot listen on {host}:{port}: {exc}",
            hint="choose another address or port",
        ) from exc


def listen_at(path: Path) -> socket.socket:
    """Listen at a path, replacing the socket of a dead listener.

    This user alone may connect.

    Raises:
        NetworkError: another process listens there, or listening failed.
        ResourceError: no descriptor is to be had.
    """
    try:
        sock = socket.socket(socket.AF_UNIX)
    except OSError as exc:
        raise ResourceError(exc, f"cannot listen at {path}") from exc
    try:
        try:
            bind(sock, str(path))
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE or not _is_left_over(path):
                raise
            path.unlink()
            bind(sock, str(path))
        sock.listen(BACKLOG)
    except OSError as exc:
        sock.close()
        raise NetworkError(
            f"cannot listen at {path}: {exc.strerror or exc}", hint="choose another path"
        ) from exc
    return sock


def _is_left_over(path: Path) -> bool:
    """Return whether a path is a socket without a listener."""
    if not stat.S_ISSOCK(path.lstat().st_mode):
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(0)
        return probe.connect_ex(str(path)) == errno.ECONNREFUSED


def forget(sock: socket.socket) -> None:
    """Close a socket that listens, and remove its path if it has one."""
    name = sock.getsockname() if sock.fileno() != -1 else ""
    if isinstance(name, str) and name:
        with contextlib.suppress(OSError):
            os.unlink(name)
    sock.close()


def inherited() -> list[socket.socket]:
    """Take over the sockets that systemd has opened for us; empty if there are none.

    Raises:
        ConfigError: a passed descriptor is no listening stream socket.

    Source: sd_listen_fds(3).
    """
    pid, count = (os.environ.get(name, "") for name in ("LISTEN_PID", "LISTEN_FDS"))
    for name in ("LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    found = []
    for number in range(_FIRST, _FIRST + int(count)):
        try:
            found.append(adopt(number))
        except OSError as exc:
            raise ConfigError(
                f"descriptor {number} from systemd is no listening stream socket",
                hint="use ListenStream= with Accept=no in the .socket unit",
            ) from exc
    return found


def adopt(number: int) -> socket.socket:
    """Take over an inherited listening socket, and make it close-on-exec.

    Raises:
        OSError: it is none.
    """
    sock = socket.socket(fileno=number)
    try:
        is_listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if not is_listening or sock.type != socket.SOCK_STREAM:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        sock.set_inheritable(False)
    except OSError:
        sock.detach()
        raise
    return sock


def spell(sock: socket.socket) -> str:
    """Return the address of a listening socket as ``HOST:PORT``, or the path it has."""
    name = sock.getsockname()
    if not isinstance(name, tuple):
        return str(name)
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"{host}:{name[1]}"
