"""Options of a program's listening sockets, which its connections inherit from them."""

from __future__ import annotations

import logging
import socket
import struct
import time
from typing import TYPE_CHECKING, NamedTuple

from tlsify.connection.setup.keepalive import keep_alive
from tlsify.system.os_errors import explain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_log = logging.getLogger("tlsify")

# Where an option goes: on our listening socket, from which the network's socket has it during the
# handshake and on a relay; and on what the program is given.
_OURS, _GIVEN = 1, 2
_BOTH = _OURS | _GIVEN
_ROOM = 16  # bytes; the longest is the name of a congestion control
_PAUSE = 0.01  # seconds between two looks at a socket that has many clients
_INT = struct.Struct("=i")
# asm-generic/socket.h, where Python has no name for it.
_BUFFER_LOCKS, _FORCE = 72, {socket.SO_SNDBUF: 32, socket.SO_RCVBUF: 33}


class _Option(NamedTuple):
    name: str
    level: int
    number: int
    places: int = _BOTH

    def of(self, sock: socket.socket) -> bytes | None:
        """Return its value; None where there is none."""
        try:
            return sock.getsockopt(self.level, self.number, _ROOM)
        except OSError:
            return None

    def give(self, sock: socket.socket, value: bytes) -> None:
        """Set it.

        Raises:
            OSError: EPERM, this process may not, or EINVAL.
        """
        sock.setsockopt(self.level, self.number, value)


class _Size(_Option):
    """A buffer's size, which is no value to be passed on unless the program has set it."""

    __slots__ = ()

    def of(self, sock: socket.socket) -> bytes | None:
        lock = 1 if self.number == socket.SO_SNDBUF else 2
        if not sock.getsockopt(socket.SOL_SOCKET, _BUFFER_LOCKS) & lock:
            return b""
        size = sock.getsockopt(self.level, self.number)
        return _INT.pack(size // 2)  # the kernel doubles what is set

    def give(self, sock: socket.socket, value: bytes) -> None:
        if not value:
            return
        try:  # beyond the limit for all, as the program may have
            sock.setsockopt(self.level, _FORCE[self.number], value)
        except PermissionError:
            sock.setsockopt(self.level, self.number, value)


_SOCKET, _TCP, _IP, _IP6 = (
    socket.SOL_SOCKET,
    socket.IPPROTO_TCP,
    socket.IPPROTO_IP,
    socket.IPPROTO_IPV6,
)
_ALIVE = _Option("SO_KEEPALIVE", _SOCKET, socket.SO_KEEPALIVE)
_TIMES = (
    _Option("TCP_KEEPIDLE", _TCP, socket.TCP_KEEPIDLE),
    _Option("TCP_KEEPINTVL", _TCP, socket.TCP_KEEPINTVL),
    _Option("TCP_KEEPCNT", _TCP, socket.TCP_KEEPCNT),
)
# Numbers without a name of Python's are from asm-generic/socket.h, linux/tcp.h and linux/in.h.
OPTIONS = (
    _ALIVE,
    *_TIMES,
    _Option("TCP_NODELAY", _TCP, socket.TCP_NODELAY),
    _Option("TCP_CORK", _TCP, socket.TCP_CORK, _GIVEN),
    _Option("TCP_USER_TIMEOUT", _TCP, socket.TCP_USER_TIMEOUT),
    _Option("TCP_NOTSENT_LOWAT", _TCP, socket.TCP_NOTSENT_LOWAT),
    _Option("TCP_CONGESTION", _TCP, socket.TCP_CONGESTION),
    _Option("TCP_LINGER2", _TCP, socket.TCP_LINGER2),
    _Option("TCP_WINDOW_CLAMP", _TCP, socket.TCP_WINDOW_CLAMP, _OURS),
    _Option("TCP_THIN_LINEAR_TIMEOUTS", _TCP, 16),
    _Option("TCP_MAXSEG", _TCP, socket.TCP_MAXSEG, _OURS),
    _Option("TCP_DEFER_ACCEPT", _TCP, socket.TCP_DEFER_ACCEPT, _OURS),
    _Size("SO_SNDBUF", _SOCKET, socket.SO_SNDBUF),
    _Size("SO_RCVBUF", _SOCKET, socket.SO_RCVBUF),
    _Option("SO_RCVTIMEO", _SOCKET, socket.SO_RCVTIMEO, _GIVEN),
    _Option("SO_SNDTIMEO", _SOCKET, socket.SO_SNDTIMEO, _GIVEN),
    _Option("SO_RCVLOWAT", _SOCKET, socket.SO_RCVLOWAT, _GIVEN),
    _Option("SO_LINGER", _SOCKET, socket.SO_LINGER, _GIVEN),
    _Option("SO_OOBINLINE", _SOCKET, socket.SO_OOBINLINE, _GIVEN),
    _Option("SO_MARK", _SOCKET, socket.SO_MARK, _OURS),
    _Option("SO_DONTROUTE", _SOCKET, socket.SO_DONTROUTE, _OURS),
    _Option("SO_BUSY_POLL", _SOCKET, 46, _OURS),
    _Option("SO_MAX_PACING_RATE", _SOCKET, 47, _OURS),
    _Option("SO_ZEROCOPY", _SOCKET, 60, _GIVEN),
    _Option("IP_TOS", _IP, socket.IP_TOS),
    _Option("IP_TTL", _IP, socket.IP_TTL),
    _Option("IP_MTU_DISCOVER", _IP, 10),
    _Option("IP_FREEBIND", _IP, 15, _OURS),
    _Option("IP_TRANSPARENT", _IP, socket.IP_TRANSPARENT, _OURS),
    _Option("IPV6_TCLASS", _IP6, socket.IPV6_TCLASS),
    _Option("IPV6_UNICAST_HOPS", _IP6, socket.IPV6_UNICAST_HOPS),
    _Option("IPV6_MTU_DISCOVER", _IP6, 23),
)


_defaults: dict[tuple[int, int], Mapping[_Option, bytes]] = {}


class _Options:
    """What a program has set on a listening socket: all that a new socket does not have."""

    def __init__(self, sock: socket.socket) -> None:
        """Look at it."""
        self._usual = _usual(sock)
        found = _values(sock, self._usual)
        self.values = {each: value for each, value in found.items() if value != self._usual[each]}
        if _ALIVE in self.values:  # or the times would be ours
            self.values |= {each: found[each] for each in _TIMES if each in found}

    def give(
        self, sock: socket.socket, place: int, before: _Options | None = None
    ) -> set[tuple[str, str]]:
        """Set them.

        Args:
            sock: a listening socket of ours, or what the program is given.
            place: which of both.
            before: what was set there.

        Returns:
            Options that could not be set, each with the reason.
        """
        values = self.values
        if before is not None:
            values = {each: self._usual[each] for each in before.values} | values
        failures: set[tuple[str, str]] = set()
        for each, value in values.items():
            # To set one anew may change others: a buffer's size that of the window, for instance.
            if each.places & place and each.of(sock) != value:
                try:
                    each.give(sock, value)
                except OSError as exc:
                    failures.add((each.name, explain(exc)))
        return failures


def _usual(sock: socket.socket) -> Mapping[_Option, bytes]:
    """Return the options of a new socket of the same kind; those that it has not are left out."""
    kind = sock.family, sock.proto
    if kind not in _defaults:
        with socket.socket(sock.family, socket.SOCK_STREAM, sock.proto) as new:
            _defaults[kind] = _values(new, OPTIONS)
    return _defaults[kind]


def _values(sock: socket.socket, options: Iterable[_Option]) -> dict[_Option, bytes]:
    """Return the options of a socket that it has: MPTCP has some of TCP's on later kernels only."""
    found = ((each, each.of(sock)) for each in options)
    return {each: value for each, value in found if value is not None}


class Inheritance:
    """Passes on the options of a program's sockets at one address, as the kernel would.

    The kernel copies them when a client arrives. Our socket, at which it does arrive, has them for
    what they do before its handshake is over, and on a relay afterwards. What the program is given
    gets them once more: not all are good for a handshake, and the program may have set others
    since. No call tells of that, so there are looks: at each socket when it gives a client away,
    but not at every one of many clients.
    """

    def __init__(self) -> None:
        """Begin without any."""
        self._ours: socket.socket | None = None
        self._known: dict[socket.socket, tuple[_Options, float]] = {}
        self._failures: set[tuple[str, str]] = set()

    def begin(self, ours: socket.socket, theirs: socket.socket) -> None:
        """Give our socket, which is not bound yet, what the program's has."""
        self._ours = ours
        options = self._look(theirs, 0.0)
        self._give(options, ours, _OURS)

    def look(self, theirs: socket.socket) -> _Options:
        """Look at a socket of the program's; return what is set there."""
        before, _ = self._known.get(theirs, (None, 0.0))
        options = self._look(theirs, time.monotonic())
        if before is not None and options.values != before.values and self._ours is not None:
            self._give(options, self._ours, _OURS, before)
            keep_alive(self._ours)
        return options

    def _look(self, theirs: socket.socket, now: float) -> _Options:
        options = _Options(theirs)
        self._known[theirs] = options, now
        return options

    def forget(self, theirs: socket.socket) -> None:
        """Forget a socket that the program has closed."""
        self._known.pop(theirs, None)

    def pass_on(self, theirs: socket.socket, given: socket.socket) -> None:
        """Set what the program has set on one of its sockets.

        Args:
            theirs: where it accepts.
            given: what it is about to be given.
        """
        self._give(self._current(theirs), given, _GIVEN)

    def prepare(self, listener: socket.socket) -> None:
        """Set it on a listening socket whose next connection the program is given."""
        for theirs in list(self._known)[:1]:
            self._give(self._current(theirs), listener, _GIVEN)

    def _current(self, theirs: socket.socket) -> _Options:
        options, looked_at = self._known.get(theirs, (None, 0.0))
        if options is None or looked_at + _PAUSE < time.monotonic():
            return self.look(theirs)
        return options

    def _give(
        self, options: _Options, sock: socket.socket, place: int, before: _Options | None = None
    ) -> None:
        for failure in options.give(sock, place, before) - self._failures:
            self._failures.add(failure)
            _log.warning("connections do not inherit %s from the program's socket: %s", *failure)
