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
                networks.append(ipaddress.ip_network(word.strip("[]")))
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
