"""Options and addresses of a connection, wherever it is: in the program's socket, or a relay's."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any, NoReturn

from tlsify.connection.ending import forks

if TYPE_CHECKING:
    from tlsify.connection.handoff import Carrier, Handoff

_IPV4_PARTS = 2  # of an address; IPv6 has four
# asm-generic/socket.h: Python has no name for the second.
_OF_CONNECTION = frozenset({socket.SO_KEEPALIVE, socket.SO_DOMAIN, 38, socket.SO_MARK})
_LEVELS = frozenset({socket.IPPROTO_TCP, socket.IPPROTO_IP, socket.IPPROTO_IPV6})


class ConnectionSocket(socket.socket):
    """A socket that describes the connection, also where its own descriptor is a socketpair's."""

    handoff: Handoff

    def _relay(self) -> Carrier | None:
        """Return the relay; None if the descriptor is the connection, or is closed."""
        handoff: Handoff | None = getattr(self, "handoff", None)  # an SSLSocket begins without
        return None if handoff is None or self.fileno() == -1 else handoff.relay

    @property
    def family(self) -> socket.AddressFamily:
        """The family of the addresses that `getpeername` returns."""
        relay = self._relay()
        address = None if relay is None else relay.peer_address or relay.local_address
        if not isinstance(address, tuple):
            return socket.AddressFamily(super().family)
        return socket.AF_INET if len(address) == _IPV4_PARTS else socket.AF_INET6

    @property
    def proto(self) -> int:
        """The connection's protocol: IPPROTO_TCP, except for UNIX domain sockets."""
        own = socket.AddressFamily(super().family)
        return super().proto if self.family == own else socket.IPPROTO_TCP

    def setsockopt(self, level: int, *arguments: Any) -> None:
        """Set an option; those of TCP and IP are the connection's, also where that is a relay's."""
        relay = self._relay()
        if relay is None or not _is_networks(level, *arguments[:1]):
            super().setsockopt(level, *arguments)
        elif relay.network is not None:
            try:
                relay.network.setsockopt(level, *arguments)
            except OSError as exc:
                if exc.errno != errno.EBADF:  # the connection has ended
                    raise

    def getsockopt(self, level: int, *arguments: Any) -> Any:
        """Return an option, likewise."""
        relay = self._relay()
        if relay is not None and relay.network and _is_networks(level, *arguments[:1]):
            return relay.network.getsockopt(level, *arguments)
        return super().getsockopt(level, *arguments)

    def getpeername(self) -> Any:
        """Return the peer's address, also where the connection itself is the relay's."""
        relay = self._relay()
        return super().getpeername() if relay is None else forks.known(relay.peer_address)

    def getsockname(self) -> Any:
        """Return our own address, likewise."""
        relay = self._relay()
        return super().getsockname() if relay is None else forks.known(relay.local_address)

    def setblocking(self, flag: bool, /) -> None:  # noqa: FBT001 - socket's own signature
        """Wait for ever, or never."""
        self.settimeout(None if flag else 0.0)

    @property
    def timeout(self) -> float | None:
        """What `gettimeout` returns."""
        return self.gettimeout()

    def __getstate__(self) -> NoReturn:
        """Refuse: a pickle cannot hold a connection."""
        raise TypeError("a TLSSocket cannot be pickled: see Handoff.detach, or fork")

    def dup(self) -> NoReturn:
        """Refuse: two objects would serve the same control records."""
        raise NotImplementedError("a TLSSocket cannot be duplicated")


def _is_networks(level: int, option: int) -> bool:
    """Return whether an option is one of the connection, wherever that is."""
    return level in _LEVELS or (level == socket.SOL_SOCKET and option in _OF_CONNECTION)
