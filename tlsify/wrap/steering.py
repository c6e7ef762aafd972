"""Steering: a socket of ours takes the clients of a program's listening socket."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, NamedTuple

from tlsify.system import libc
from tlsify.system.bpf import (
    IF_EQUAL,
    LOAD,
    LOAD_BYTE,
    MASK,
    RETURN,
    RETURN_VALUE,
    SUBTRACT,
    UNLESS_BELOW,
    Program,
    assemble,
)
from tlsify.system.listening import BACKLOG
from tlsify.wrap.holders import holders
from tlsify.wrap.listener_options import Inheritance

if TYPE_CHECKING:
    from collections.abc import Iterator

# asm-generic/socket.h, linux/in6.h and linux/in.h, where Python has no name for them.
_ATTACH_REUSEPORT_CBPF, _PROTOCOL, _MPTCP = 51, 38, 262
_AF_SMC, _SMC, _NAMESPACE_COOKIE = 43, 256, 71
# linux/filter.h: from here on, offsets in an instruction count from the network header.
_NETWORK = 0xFFF00000
# A knock has a source that no packet from outside can have: of 127.0.0.0/8, or ::1 with a hop limit
# as no other program sets it. What is added to it says at which socket of the program it knocks.
_SOURCE = bytes((127, 99, 88, 0))
_HOPS, _FARTHEST = 100, 255
_VERSION_4 = 0x40
_LISTENS = "0A"  # include/net/tcp_states.h, as /proc/net/tcp spells it


class Place(NamedTuple):
    """A local address, and the family that it is in.

    Attributes:
        family: of the program's socket.
        name: as ``getsockname`` has it.
        only_v6: whether it takes no IPv4.
    """

    family: int
    name: tuple[str, int]
    only_v6: bool

    @classmethod
    def of(cls, sock: socket.socket) -> Place:
        """Return where a socket is bound."""
        name = sock.getsockname()
        if sock.family == socket.AF_INET:
            return cls(sock.family, name, only_v6=False)
        only = sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        return cls(sock.family, name, only_v6=bool(only))

    def to_knock(self) -> tuple[int, tuple[str, int]]:
        """Return how to reach it from here: a family, and an address."""
        host, port = self.name[:2]
        if self.family == socket.AF_INET:
            return socket.AF_INET, ("127.0.0.1" if host == "0.0.0.0" else host, port)  # noqa: S104
        address = IPv6Address(host.partition("%")[0])
        if address.ipv4_mapped is not None:
            return socket.AF_INET, (str(address.ipv4_mapped), port)
        if not int(address):
            # IPv4 is there even where IPv6 is switched off.
            ours = (socket.AF_INET6, "::1") if self.only_v6 else (socket.AF_INET, "127.0.0.1")
            return ours[0], (ours[1], port)
        return socket.AF_INET6, (host, port)


def is_tcp(sock: socket.socket) -> bool:
    """Return whether a socket is TCP's, or MPTCP's, or SMC's, whose clients are TCP's."""
    if sock.family == _AF_SMC:
        return True
    if sock.family not in {socket.AF_INET, socket.AF_INET6} or sock.type != socket.SOCK_STREAM:
        return False
    return sock.getsockopt(socket.SOL_SOCKET, _PROTOCOL) in {socket.IPPROTO_TCP, _MPTCP, _SMC}


def is_listening(sock: socket.socket) -> bool:
    """Return whether a socket listens; close it otherwise."""
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return True
    sock.close()
    return False


def obstacle(sock: socket.socket) -> str | None:
    """Return why a bound socket cannot be knocked at; None if it can."""
    if sock.family == _AF_SMC or sock.getsockopt(socket.SOL_SOCKET, _PROTOCOL) == _SMC:
        return "it is SMC's"
    with socket.socket() as ours:
        if _namespace(ours) != _namespace(sock):
            return "it is in another network namespace"
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).strip(b"\0"):
        return "it is bound to a network device"
    family, (host, *_) = Place.of(sock).to_knock()
    if family == socket.AF_INET6 and IPv6Address(host.partition("%")[0]).is_link_local:
        return "it is bound to a link-local address"
    return None


def _namespace(sock: socket.socket) -> bytes:
    return sock.getsockopt(socket.SOL_SOCKET, _NAMESPACE_COOKIE, 8)


class Group:
    """The sockets at one address: the program's, and ours, which gets the clients.

    The kernel has them in an order, by which a program of ours names one of them: a socket that
    begins to listen is the last, and where one is closed the last one moves there
    (net/core/sock_reuseport.c). If that goes wrong a client meets a socket of the program, whose
    ``accept`` finds it.

    Attributes:
        ours: listening.
        place: the address.
        inheritance: passes on the options of the program's.
    """

    def __init__(self, theirs: socket.socket, backlog: int) -> None:
        """Make both listen at the program's address.

        Args:
            theirs: a duplicate of the program's socket, bound.
            backlog: as the program wants it.

        Raises:
            OSError: as ``bind`` and ``listen``: another program has the address, for instance.
        """
        self.place = Place.of(theirs)
        if theirs.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) and _strangers(self.place):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        _listen(theirs, backlog)
        self.inheritance = Inheritance()
        self.ours = _beside(theirs, self.place, self.inheritance)
        self._order = [theirs, self.ours]
        try:
            self._steer()
        except BaseException:
            self.ours.close()
            raise

    def join(self, theirs: socket.socket, backlog: int) -> None:
        """Have another socket of the program listen, as its workers do with SO_REUSEPORT.

        Raises:
            OSError: as ``listen``.
        """
        _listen(theirs, backlog)
        self._order.append(theirs)

    def leave(self, theirs: socket.socket) -> None:
        """Close our duplicate of a socket that the program has closed."""
        at = self._order.index(theirs)
        last = self._order.pop()
        if at < len(self._order):
            self._order[at] = last
        self.inheritance.forget(theirs)
        theirs.close()
        if self._order != [self.ours]:
            self._steer()

    def _steer(self) -> None:
        code = assemble(_program(self._order.index(self.ours)))
        program = bytes(Program.of(code))
        self.ours.setsockopt(socket.SOL_SOCKET, _ATTACH_REUSEPORT_CBPF, program)

    def source(self, theirs: socket.socket) -> tuple[socket.socket, tuple[str, int]]:
        """Return an unconnected socket that knocks at one of the program's, and whereto."""
        family, address = self.place.to_knock()
        index = min(self._order.index(theirs), _FARTHEST - _HOPS)
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(0)
            if family == socket.AF_INET:
                sock.bind((socket.inet_ntoa(_SOURCE[:3] + bytes((index,))), 0))
            else:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, _HOPS + index)
                sock.bind(("::1", 0))
        except BaseException:
            sock.close()
            raise
        return sock, address


def _listen(theirs: socket.socket, backlog: int) -> None:
    """Let as many knocks wait as clients may: none must be lost."""
    theirs.listen(max(backlog, BACKLOG))


def _strangers(place: Place) -> list[int]:
    """Return sockets of other programs that listen at an address: they know no order of ours."""
    host, port = place.name[:2]
    packed = socket.inet_pton(place.family, host.partition("%")[0])
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    local = "".join(f"{word:08X}" for word in words) + f":{port:04X}"
    table = "tcp6" if place.family == socket.AF_INET6 else "tcp"
    with open(f"/proc/self/net/{table}", encoding="ascii") as lines:
        rows = [line.split() for line in lines if local in line]
    found = [int(row[9]) for row in rows if row[1] == local and row[3] == _LISTENS]
    return [each for each in found if next(holders(each), None) is None]


def _beside(theirs: socket.socket, place: Place, inheritance: Inheritance) -> socket.socket:
    """Return a socket that listens where another one does.

    The kernel lets one user's sockets share an address; the program may have another user.
    """
    with as_user(os.fstat(theirs.fileno()).st_uid):
        ours = socket.socket(place.family, socket.SOCK_STREAM)
    try:
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            ours.setsockopt(socket.SOL_SOCKET, option, 1)
        if place.family == socket.AF_INET6:
            ours.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, place.only_v6)
        inheritance.begin(ours, theirs)  # some decide on where it may be bound
        ours.bind(place.name)
        ours.listen(BACKLOG)
    except BaseException:
        ours.close()
        raise
    return ours


@contextlib.contextmanager
def as_user(uid: int) -> Iterator[None]:
    """Make files as another user does (setfsuid(2)).

    Raises:
        PermissionError: we may not.
    """
    before = os.geteuid()
    if uid == before:
        yield
        return
    _set_fsuid(uid)
    try:
        yield
    finally:
        _set_fsuid(before)


def _set_fsuid(uid: int) -> None:
    libc.call("setfsuid", uid)
    if libc.call("setfsuid", uid) != uid:  # it returns the one before, failed or not
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


def _program(ours: int) -> list[tuple[int, int, int, int]]:
    """Write what names a socket of the group for a packet: the knocked one, or ours."""
    (source,) = struct.unpack("!I", _SOURCE)
    loopback = (0, 0, 0, 1)
    of_ipv6 = [
        step
        for at, word in enumerate(loopback)
        for step in (
            (LOAD, 0, 0, _NETWORK + 8 + 4 * at),
            (IF_EQUAL, 1, 0, word),
            (RETURN, 0, 0, ours),
        )
    ]
    of_ipv4 = [
        (LOAD, 0, 0, _NETWORK + 12),
        (MASK, 0, 0, 0xFFFFFF00),
        (IF_EQUAL, 1, 0, source),
        (RETURN, 0, 0, ours),
        (LOAD_BYTE, 0, 0, _NETWORK + 15),
        (RETURN_VALUE, 0, 0, 0),
    ]
    return [
        (LOAD_BYTE, 0, 0, _NETWORK),
        (MASK, 0, 0, 0xF0),
        (IF_EQUAL, 0, len(of_ipv4), _VERSION_4),
        *of_ipv4,
        *of_ipv6,
        (LOAD_BYTE, 0, 0, _NETWORK + 7),
        (UNLESS_BELOW, 1, 0, _HOPS),
        (RETURN, 0, 0, ours),
        (SUBTRACT, 0, 0, _HOPS),
        (RETURN_VALUE, 0, 0, 0),
    ]
