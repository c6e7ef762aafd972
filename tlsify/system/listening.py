"""Listening sockets: our own, and systemd's."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path

from tlsify.addresses import UNSPECIFIED, Address
from tlsify.errors import SHORTAGES, ConfigError, NetworkError, ResourceError
from tlsify.names import is_ip_address
from tlsify.system.modes import bind
from tlsify.system.os_errors import explain

BACKLOG = 1024
_DEFERRAL = 5  # seconds, which Linux rounds to 7: SYN-ACKs after 1, 2 and 4
_ATTEMPTS = 8  # to find a port that is free for IPv4 and for IPv6
# This host has no such address.
_NOT_OURS = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
_ANOTHER = "choose another address or port"
_HINTS = {
    errno.EADDRINUSE: "choose another port, or stop what listens there (ss -ltnp shows it)",
    errno.EADDRNOTAVAIL: "name an address of this host, which ip address shows, or :PORT for all",
    errno.EACCES: "ports below 1024 are for root: allow CAP_NET_BIND_SERVICE, have systemd open "
    "the socket, or choose another port",
}
_FIRST = 3  # sd_listen_fds(3)
# The paths of the sockets that this process has made, by the sockets' own numbers.
_own: dict[int, tuple[int, int, int]] = {}


def listen_on(
    address: Address,
    backlog: int = BACKLOG,
    number: int = 1,
    *,
    reuse_port: bool = False,
    deferred: bool = False,
) -> list[socket.socket]:
    """Listen on an address: a path, all addresses of a name, or every interface, IPv4 and IPv6.

    Args:
        address: where; port 0 for any that is free, the same for all.
        backlog: how many connections may wait.
        number: sockets for each address; several need ``reuse_port``.
        reuse_port: as for `listen`.
        deferred: likewise.

    Returns:
        One socket at least. An address that this host has not is left out as long as it has
        another: a name may have those of several hosts, and IPv6 may be switched off.

    Raises:
        NetworkError: it cannot be listened on.
        ResourceError: no descriptor is to be had.
    """
    if address.path:
        return [listen_at(Path(address.path), backlog)]
    for _ in range(_ATTEMPTS):
        try:
            return _listen_on_all(
                address, backlog, number, reuse_port=reuse_port, deferred=deferred
            )
        except NetworkError as exc:
            # A port that is free for IPv4 may not be for IPv6.
            if address.port or not _is_for(exc, {errno.EADDRINUSE}):
                raise
            failure = exc
    raise failure


def _listen_on_all(
    address: Address, backlog: int, number: int, *, reuse_port: bool, deferred: bool
) -> list[socket.socket]:
    found: list[socket.socket] = []
    missing: list[NetworkError] = []
    port = address.port
    try:
        for host in _hosts(address):
            for _ in range(number):
                try:
                    sock = listen(host, port, backlog, reuse_port=reuse_port, deferred=deferred)
                except NetworkError as exc:
                    if not _is_for(exc, _NOT_OURS):
                        raise
                    missing.append(exc)
                    break
                found.append(sock)
                port = sock.getsockname()[1]
        if not found:
            raise missing[0]
    except BaseException:
        for sock in found:
            sock.close()
        raise
    return found


def _hosts(address: Address) -> list[str]:
    if not address.host:
        return list(UNSPECIFIED)
    if is_ip_address(address.host):
        return [address.host]
    try:
        found = socket.getaddrinfo(address.host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise _cannot(exc, address) from exc
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def _is_for(exc: NetworkError, numbers: set[int]) -> bool:
    return isinstance(exc.__cause__, OSError) and exc.__cause__.errno in numbers


def listen(
    host: str,
    port: int,
    backlog: int = BACKLOG,
    *,
    reuse_port: bool = False,
    deferred: bool = False,
) -> socket.socket:
    """Listen on one address.

    Args:
        host: an IP address, or a name whose first one is meant.
        port: 0 for any that is free.
        backlog: limit on waiting connections.
        reuse_port: let other sockets of this user listen there, too, among which the kernel
            spreads connections (SO_REUSEPORT).
        deferred: have the kernel keep a connection until its client has sent something, for some
            seconds at most (TCP_DEFER_ACCEPT). A silent client then takes no place of ours.

    Raises:
        NetworkError: it cannot be listened on.
        ResourceError: no descriptor is to be had.
    """
    try:
        sock = socket.create_server(
            (host, port),
            family=socket.AF_INET6 if ":" in host else socket.AF_INET,
            backlog=backlog,
            reuse_port=reuse_port,
        )
        if deferred:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, _DEFERRAL)
    except (OSError, OverflowError, UnicodeError) as exc:
        raise _cannot(exc, Address(host, port)) from exc
    return sock


def _cannot(exc: Exception, address: Address) -> NetworkError | ResourceError:
    what = f"cannot listen on {address}"
    if not isinstance(exc, OSError):
        return NetworkError(f"{what}: {exc}", hint=_ANOTHER)
    if exc.errno in SHORTAGES:
        return ResourceError(exc, what)
    return NetworkError(f"{what}: {explain(exc)}", hint=_HINTS.get(exc.errno or 0, _ANOTHER))


def listen_at(path: Path, backlog: int = BACKLOG) -> socket.socket:
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
            if exc.errno != errno.EADDRINUSE or not is_left_over(path):
                raise
            path.unlink()
            bind(sock, str(path))
        sock.listen(backlog)
        _own[_number(sock)] = _identity(path)
    except OSError as exc:
        sock.close()
        raise NetworkError(
            f"cannot listen at {path}: {explain(exc)}", hint="choose another path"
        ) from exc
    return sock


def is_left_over(path: str | Path, kind: socket.SocketKind = socket.SOCK_STREAM) -> bool:
    """Return whether a path is a socket without a listener.

    Raises:
        OSError: there is nothing.
    """
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        return False
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.settimeout(0)
        return probe.connect_ex(str(path)) == errno.ECONNREFUSED


def forget(sock: socket.socket) -> None:
    """Close a socket that listens, and remove its path if it has one."""
    name, made = "", None
    if sock.fileno() != -1:
        name, made = sock.getsockname(), _own.pop(_number(sock), None)
    sock.close()
    if isinstance(name, str) and name:
        with contextlib.suppress(OSError):
            if made == _identity(name):  # known without a connection to our workers
                os.unlink(name)
                return
        remove(name)


def _number(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


def _identity(path: str | Path) -> tuple[int, int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_ctime_ns  # numbers are given again


def remove(path: str) -> None:
    """Remove the path of a socket that no longer listens, unless another one listens there now."""
    with contextlib.suppress(OSError):
        if is_left_over(path):
            os.unlink(path)


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
    """Return the address of a listening socket as `addresses` spells it."""
    name = sock.getsockname()
    if isinstance(name, tuple):
        return str(Address(*name[:2]))
    return str(Address(path=name if isinstance(name, str) else f"@{os.fsdecode(name[1:])}"))
