"""Proxies in front of a server: whose PROXY headers are believed, and what such a header told."""

from __future__ import annotations

import ipaddress
from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple, Self, TypeAlias

from tlsify.errors import ConfigError

if TYPE_CHECKING:
    from tlsify.passing.proxy_protocol import Header

    _Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_LOCAL = "unix:"
_MAPPED = 96  # bits in front of an IPv4 address

# What a proxy has told of the connection that the calling code serves.
told: ContextVar[Header | None] = ContextVar("tlsify_told_by_proxy", default=None)


class Proxies(NamedTuple):
    """The sources of connections that begin with a PROXY header.

    Attributes:
        networks: of their addresses.
        local: whether clients of local sockets are among them.
    """

    networks: tuple[_Network, ...]
    local: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse addresses and networks with commas between them; ``unix:`` is every local socket.

        Raises:
            ConfigError: one of them is neither.
        """
        words = text.split(",")
        networks = []
        for word in words:
            if word == _LOCAL:
                continue
            try:
                networks.append(_network(word.strip("[]")))
            except ValueError as exc:
                raise ConfigError(
                    f'"{word}" is no address or network of a proxy: {exc}',
                    hint="write such as 192.0.2.1 and 10.0.0.0/8, with commas between them",
                ) from exc
        return cls(tuple(networks), _LOCAL in words)

    def has(self, name: object) -> bool:
        """Return whether a connection comes from one of them.

        Args:
            name: the client's address, as ``accept`` gives it.
        """
        if not isinstance(name, tuple):
            return self.local
        address = ipaddress.ip_address(str(name[0]).partition("%")[0])
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self.networks)


def _network(word: str) -> _Network:
    """Parse an address or a network; an IPv4 one is itself, also as IPv6 sockets spell it.

    Raises:
        ValueError: it is neither.
    """
    found = ipaddress.ip_network(word)
    if isinstance(found, ipaddress.IPv4Network) or found.prefixlen < _MAPPED:
        return found
    mapped = found.network_address.ipv4_mapped
    if mapped is None:
        return found
    return ipaddress.IPv4Network((mapped, found.prefixlen - _MAPPED))
