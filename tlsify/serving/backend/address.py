"""Backends' addresses as users write them, and streams to them."""

from __future__ import annotations

import re
import socket
from typing import NamedTuple

from tlsify.addresses import Address
from tlsify.aio import dialing
from tlsify.errors import ConfigError
from tlsify.starttls.greetings import refusal
from tlsify.starttls.upgrade import PROTOCOLS

# The rest has a port, or is a path: "tls:443" is a host of that name.
_TLS = re.compile(r"tls(?:\+(?P<protocol>[^:]*))?:(?P<address>.*:.*)", re.DOTALL)


class Backend(NamedTuple):
    """An address; whether data or descriptors are sent there is the service's affair.

    Attributes:
        host: as `Address` has it, and so the next two.
        port: likewise.
        path: likewise.
        is_tls: whether it speaks TLS.
        starttls: protocol in which it is asked to change to TLS; empty if it begins with TLS.
    """

    host: str = ""
    port: int = 0
    path: str = ""
    is_tls: bool = False
    starttls: str = ""

    @classmethod
    def to_connect(cls, text: str) -> Backend:
        """Parse an address, perhaps behind ``tls:`` or ``tls+PROTOCOL:``.

        Raises:
            ConfigError: it is none, or TLS cannot be asked for in that protocol.
        """
        found = _TLS.fullmatch(text)
        if found is None:
            return cls(*Address.to_connect(text))
        protocol = found["protocol"]
        if protocol is not None:
            check_protocol(protocol)
        return cls(*Address.to_connect(found["address"]), is_tls=True, starttls=protocol or "")

    def secured(self, starttls: str, *, always: bool) -> Backend:
        """Return the same backend with what is said of all of them.

        Args:
            starttls: protocol in which one with TLS is asked for it, unless it has its own.
            always: whether each speaks TLS, however it is spelled.
        """
        if not (always or self.is_tls):
            return self
        return self._replace(is_tls=True, starttls=self.starttls or starttls)

    @property
    def address(self) -> Address:
        """Where it is."""
        return Address(self.host, self.port, self.path)

    def __str__(self) -> str:
        """Spell it as it was read."""
        scheme = f"tls+{self.starttls}:" if self.starttls else "tls:" if self.is_tls else ""
        return f"{scheme}{self.address}"

    async def connect(self, seconds: float) -> socket.socket:
        """Connect a stream.

        Args:
            seconds: limit for it.

        Returns:
            A non-blocking socket.

        Raises:
            OSError: the backend is absent or overloaded, or it takes too long.
        """
        if self.path:
            return self.connect_here(socket.SOCK_STREAM)
        return await dialing.connect(self.host, self.port, seconds)

    async def look_up(self) -> None:
        """Look its name up, so that it is known when there is no thread for that.

        Raises:
            OSError: there is no such name, or it cannot be looked up now.
        """
        if not self.path:
            await dialing.look_up(self.host, self.port, **dialing.STREAM)

    def connect_here(self, kind: socket.SocketKind) -> socket.socket:
        """Connect to a path.

        Done without the loop: it takes a full queue (EAGAIN), where nothing can be waited for, for
        a connection that is on its way.

        Raises:
            OSError: the backend is absent, or overloaded.
        """
        sock = socket.socket(socket.AF_UNIX, kind)
        try:
            sock.settimeout(0)
            path = self.path
            sock.connect("\0" + path[1:] if path.startswith("@") else path)
        except BaseException:
            sock.close()
            raise
        return sock


def check_protocol(protocol: str) -> str:
    """Return a protocol in which backends are asked for TLS on behalf of others.

    Raises:
        ConfigError: there is none of that name, or what follows TLS in it would not fit.
    """
    if protocol not in PROTOCOLS:
        known = ", ".join(each for each in PROTOCOLS if refusal(each) is None)
        raise ConfigError(
            f'"{protocol}" is no protocol for STARTTLS', hint=f"choose one of {known}"
        )
    if (why := refusal(protocol)) is not None:
        raise ConfigError(
            f"STARTTLS of {protocol} cannot be forwarded: {why.reason}", hint=why.hint
        )
    return protocol


def parse_several(text: str) -> tuple[Backend, ...]:
    """Read backends with commas between them, the most wanted first.

    Raises:
        ConfigError: one of them is none.
    """
    return tuple(Backend.to_connect(each) for each in text.split(","))
