"""Addresses as users write them: HOST:PORT, [V6]:PORT, :PORT and unix:PATH, for every verb."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar

from tlsify.errors import ConfigError
from tlsify.names import canonical, is_ip_address, to_look_up, to_unicode

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_UNIX = "unix:"
_MAX_PORT = 65535
_FORMS = "write HOST:PORT, [ADDR]:PORT or unix:PATH"
# What stands for every interface elsewhere.
_ANY = ("*", "0")
# Addresses that stand for every address of this host.
UNSPECIFIED = ("0.0.0.0", "::")  # noqa: S104 - every interface is what was written


class Address(NamedTuple):
    """An address to listen on, or to connect to.

    Attributes:
        host: name or IP address, without brackets; empty for a path, and for every interface.
        port: of TCP; 0 for a path, and to listen on any free one.
        path: of a socket of this host; empty for an address. A first "@" stands for NUL.
    """

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def to_listen(cls, text: str) -> Self:
        """Parse an address to listen on: ``HOST:PORT``, ``[V6]:PORT``, ``:PORT`` or ``unix:PATH``.

        Raises:
            ConfigError: it is none of them; the hint shows what to write.
        """
        found = cls._parse(text, when_alone=":{}")
        if found.host in _ANY:
            raise ConfigError(f'"{text}" is no address', hint=f"write :{found.port}")
        if found.host:
            _check(text, lambda: canonical(found.host))
        if found.path.startswith("@"):
            raise ConfigError(
                f'"{text}" is an abstract socket, which has no permissions',
                hint="write unix:PATH",
            )
        return found

    @classmethod
    def to_connect(cls, text: str) -> Self:
        """Parse an address to connect to: ``HOST:PORT``, ``[V6]:PORT`` or ``unix:PATH``.

        Raises:
            ConfigError: it is none of them; the hint shows what to write.
        """
        found = cls._parse(text, when_alone="127.0.0.1:{}")
        if not found.path and not found.host:
            raise ConfigError(f'"{text}" has no host', hint=f"write 127.0.0.1:{found.port}")
        if not found.path and not found.port:
            raise ConfigError(f'"{text}" has no port', hint="write a port from 1 to 65535")
        return found

    @classmethod
    def _parse(cls, text: str, *, when_alone: str) -> Self:
        if text.startswith(_UNIX):
            path = text.removeprefix(_UNIX)
            if path and "\0" not in path:
                return cls(path=path)
            raise ConfigError(f'"{text}" has no path', hint="write unix:PATH")
        scheme, is_url, where = text.partition("://")
        if is_url:
            where = where.partition("/")[0] or "HOST"
            raise ConfigError(
                f'"{text}" is a URL, where an address is expected',
                hint=f"write {_with_port(where, scheme)}",
            )
        if "/" in text:
            raise ConfigError(f'"{text}" is a path', hint=f"write unix:{text}")
        host, colon, port = text.rpartition(":")
        if not colon and port.isdecimal():
            raise ConfigError(f'"{text}" is a port alone', hint=f"write {when_alone.format(text)}")
        is_bare = ":" in host and not host.startswith("[")
        if is_bare and is_ip_address(host):
            raise ConfigError(
                f'"{text}" is no address: IPv6 addresses stand in brackets',
                hint=f"write [{host}]:{port}",
            )
        is_closed = text.endswith("]")
        if not colon or not port or is_bare or is_closed:
            where = text if is_bare or is_closed else host or port
            hint = f"write {_with_port(where)}" if where else _FORMS
            raise ConfigError(f'"{text}" has no port', hint=hint)
        return _check(text, lambda: cls(to_look_up(host), parse_port(port)))

    def __str__(self) -> str:
        """Spell it as it was read."""
        if self.path:
            return f"{_UNIX}{self.path}"
        host = f"[{self.host}]" if ":" in self.host else to_unicode(self.host)
        return f"{host}:{self.port}"


def is_same(listener: Address, target: Address) -> bool:
    """Return whether connecting to a target leads to a listener of this host.

    Names are not looked up, apart from localhost: they may lead elsewhere tomorrow.
    """
    if listener.path or target.path:
        return bool(target.path) and _real(listener.path) == _real(target.path)
    if listener.port != target.port:
        return False
    host = "127.0.0.1" if target.host == "localhost" else target.host
    if listener.host and listener.host not in UNSPECIFIED:
        return listener.host in {host, target.host} or (
            target.host == "localhost" and listener.host == "::1"
        )
    return is_ip_address(host) and _is_of_this_host(host)


def is_whole(word: str) -> bool:
    """Return whether a word looks like an address with its port, or a path."""
    is_bare = ":" in word and is_ip_address(word)
    return ":" in word and not is_bare and "://" not in word and word[-1] != "]"


def overlap(one: Address, other: Address) -> bool:
    """Return whether two listeners cannot both have their addresses; names are not looked up."""
    if one.path or other.path:
        return bool(one.path and other.path) and _real(one.path) == _real(other.path)
    if one.port != other.port or not one.port:
        return False
    return any(
        here == there or (there in UNSPECIFIED and _is_of_family(here, there))
        for first, second in ((one, other), (other, one))
        for here in _hosts(first.host)
        for there in _hosts(second.host)
    )


def _is_of_family(host: str, address: str) -> bool:
    return is_ip_address(host) and (":" in host) == (":" in address)


def _hosts(host: str) -> tuple[str, ...]:
    """Return what a listener listens on, as far as that needs no look-up."""
    if not host:
        return tuple(UNSPECIFIED)
    return ("127.0.0.1", "::1") if host == "localhost" else (host,)


def _real(path: str) -> str:
    return path if path.startswith("@") else os.path.realpath(path)


def _is_of_this_host(host: str) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True


def _check(text: str, parse: Callable[[], T]) -> T:
    """Parse a part of an address, and name all of it where that fails."""
    try:
        return parse()
    except ConfigError as exc:
        raise ConfigError(f'"{text}" is no address: {exc}', hint=exc.hint) from exc


def parse_port(text: str) -> int:
    """Parse a port: a number up to 65535, or the name of a service (services(5)).

    Raises:
        ConfigError: it is neither.
    """
    if text.isascii() and text.isdecimal():
        if len(text) <= len(str(_MAX_PORT)) and int(text) <= _MAX_PORT:
            return int(text)
        raise ConfigError(f"{text} is no port", hint=f"ports go up to {_MAX_PORT}")
    try:
        return socket.getservbyname(text, "tcp")
    except (OSError, ValueError) as exc:
        raise ConfigError(
            f"{text!r} is no port, nor a service in /etc/services", hint="write a number"
        ) from exc


def _with_port(host: str, scheme: str = "") -> str:
    """Write a host with its port, that of its scheme if it has none."""
    if ":" in host and not host.startswith("["):
        name, _, port = host.rpartition(":")
        if ":" not in name and port.isdecimal():
            return host
        host = f"[{host}]"
    elif host.startswith("[") and "]:" in host:
        return host
    try:
        return f"{host}:{parse_port(scheme)}"
    except ConfigError:
        return f"{host}:PORT"
