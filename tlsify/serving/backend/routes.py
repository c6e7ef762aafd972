"""Routes: which connections go to which backends."""

from __future__ import annotations

from typing import NamedTuple

from tlsify.addresses import UNSPECIFIED, Address
from tlsify.errors import ConfigError
from tlsify.names import is_ip_address, to_ascii
from tlsify.serving.backend.address import Backend, parse_several

_SNI, _LISTENER = "sni:", "listen:"
_LOOPBACK = {"localhost": ("127.0.0.1", "::1")}


class Traits(NamedTuple):
    """Traits of a client's connection that decide where it goes.

    Attributes:
        alpn: protocol agreed on; None for none.
        server_name: that the client has asked for; None for none.
        local: where it was accepted, as from ``getsockname``; None if that is unknown.
    """

    alpn: bytes | None = None
    server_name: str | None = None
    local: object = None


class Rule(NamedTuple):
    """Which connections go to other backends.

    Attributes:
        alpn: protocol; None for any.
        server_name: in lower case; ``*.`` stands for one label. None for any.
        backends: where they go.
        listener: where they were accepted; None for anywhere.
    """

    alpn: bytes | None
    server_name: str | None
    backends: tuple[Backend, ...]
    listener: Address | None = None

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Read ``PROTOCOL=BACKEND``, ``sni:NAME=BACKEND`` or ``listen:ADDRESS=BACKEND``.

        Raises:
            ConfigError: it is none of them.
        """
        what, equals, where = text.partition("=")
        kind = next((each for each in (_SNI, _LISTENER) if what.startswith(each)), "")
        value = what.removeprefix(kind)
        if not equals or not value:
            raise ConfigError(
                f'"{text}" is not a route',
                hint="write PROTOCOL=BACKEND, sni:NAME=BACKEND or listen:HOST:PORT=BACKEND",
            )
        backends = parse_several(where)
        if kind == _SNI:
            return cls(None, to_ascii(value).lower().removesuffix("."), backends)
        if kind == _LISTENER:
            return cls(None, None, backends, _listener(value))
        return cls(value.encode(errors="surrogateescape"), None, backends)

    def secured(self, starttls: str, *, always: bool) -> Rule:
        """Return the same rule with what is said of all backends, as `Backend.secured`."""
        backends = (backend.secured(starttls, always=always) for backend in self.backends)
        return self._replace(backends=tuple(backends))

    def fits(self, traits: Traits) -> bool:
        """Return whether it is about such a connection."""
        if self.listener is not None:
            return _is_at(self.listener, traits.local)
        if self.alpn is not None:
            return traits.alpn == self.alpn
        if self.server_name is None or traits.server_name is None:
            return self.server_name is None
        name = traits.server_name.lower().removesuffix(".")
        if self.server_name.startswith("*."):
            return name.partition(".")[2] == self.server_name[2:]
        return name == self.server_name


def _listener(text: str) -> Address:
    """Read where connections are accepted, as the connections themselves tell it.

    Raises:
        ConfigError: it is no address, or one that no connection has.
    """
    found = Address.to_listen(text)
    is_told = not found.host or found.host in _LOOPBACK or is_ip_address(found.host)
    if found.path or (found.port and is_told):
        return found
    raise ConfigError(
        f'"{text}" cannot be told by a connection',
        hint="write the IP address and the port of the listener, or its path",
    )


def _is_at(listener: Address, local: object) -> bool:
    """Return whether a connection to a local address has come by a listener."""
    if isinstance(local, tuple):
        host, port = str(local[0]).partition("%")[0].removeprefix("::ffff:"), local[1]
        hosts = _LOOPBACK.get(listener.host, (listener.host,))
        is_any = not listener.host or listener.host in UNSPECIFIED
        return listener.port == port and (is_any or host in hosts)
    return bool(listener.path) and local == listener.path
