"""Listening sockets, our own or systemd's, and telling systemd how we are."""

from __future__ import annotations

import contextlib
import os
import socket

from tlsify.errors import ConfigError, NetworkError

BACKLOG = 1024
_FIRST = 3  # sd_listen_fds(3)


def listen(host: str, port: int, backlog: int = BACKLOG) -> socket.socket:
    """Listen on an address.

    Args:
        host: a name or an address; empty for every IPv4 interface.
        port: 0 for any that is free.
        backlog: how many connections may wait.

    Raises:
        NetworkError: it cannot be listened on.
    """
    try:
        return socket.create_server(
            (host, port),
            family=socket.AF_INET6 if ":" in host else socket.AF_INET,
            backlog=backlog,
        )
    except (OSError, OverflowError, UnicodeError) as exc:
        raise NetworkError(
            f"cannot listen on {host}:{port}: {exc}",
            hint="choose another address or port",
        ) from exc


def inherited() -> list[socket.socket]:
    """Take over the sockets that systemd has opened for us; empty if there are none.

    Raises:
        ConfigError: what it passed is no listening stream socket.

    Source: sd_listen_fds(3).
    """
    names = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    pid, count, _ = (os.environ.pop(name, "") for name in names)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    found = []
    for number in range(_FIRST, _FIRST + int(count)):
        try:
            os.set_inheritable(number, False)  # noqa: FBT003 - os's own signature
            sock = socket.socket(fileno=number)
            is_listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as exc:
            raise _not_listening(number) from exc
        if not is_listening or sock.type != socket.SOCK_STREAM:
            raise _not_listening(number)
        found.append(sock)
    return found


def _not_listening(number: int) -> ConfigError:
    return ConfigError(
        f"descriptor {number} from systemd is no listening stream socket",
        hint="use ListenStream= with Accept=no in the .socket unit",
    )


def notify(state: str) -> None:
    """Tell systemd, if it wants to know, such as ``READY=1`` or ``STOPPING=1``.

    Nothing depends on it, so that it cannot fail.

    Source: sd_notify(3).
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
    ):
        sock.sendto(state.encode(), address.replace("@", "\0", 1))


def spell(sock: socket.socket) -> str:
    """Give the address of a listening socket as ``HOST:PORT``, or the path it has."""
    name = sock.getsockname()
    if not isinstance(name, tuple):
        return str(name)
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"{host}:{name[1]}"
