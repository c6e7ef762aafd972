"""Names and addresses as users type them, in one canonical form."""

from __future__ import annotations

import ipaddress
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Self

from tlsify.errors import ConfigError

if TYPE_CHECKING:
    from types import ModuleType

# What names on networks consist of; the underscore is in no host's name, but in those of services.
_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")
_DIGITS = frozenset("0123456789")
_HEX_DIGITS = _DIGITS | frozenset("abcdef")
_MAX_NAME, _MAX_LABEL = 253, 63  # RFC 1035 2.3.4, without what only stands on the wire
_MOST = 4 * _MAX_NAME  # characters that are worth looking at


class IdKind(Enum):
    """Kinds of reference identifier (RFC 9525); the common name is not one."""

    DNS = "dns"
    IP = "ip"
    SRV = "srv"
    URI = "uri"


class ReferenceIdentifier(NamedTuple):
    """One identity that the caller accepts in the peer's certificate (RFC 9525 6.1)."""

    kind: IdKind
    name: str

    def __str__(self) -> str:
        """Spell it as ``parse`` reads it."""
        return f"{self.kind.value}:{self.name}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``KIND:NAME``, such as ``dns:example.org`` or ``ip:192.0.2.1``.

        Raises:
            ConfigError: unknown kind, or no name.
        """
        kind, separator, name = text.partition(":")
        try:
            parsed = cls(IdKind(kind.lower()), name.strip())
        except ValueError:
            parsed = None
        if parsed is None or not separator or not parsed.name:
            raise ConfigError(
                f'"{text}" is not a reference identifier',
                hint="write dns:NAME, ip:ADDRESS, srv:_SERVICE.NAME or uri:SCHEME:NAME",
            )
        return parsed

    @classmethod
    def for_host(cls, host: str) -> Self:
        """Return an IP-ID for an address and a DNS-ID for anything else.

        Raises:
            ConfigError: as `canonical`.
        """
        name = canonical(host)
        return cls(IdKind.IP if is_ip_address(name) else IdKind.DNS, name)

    def canonical(self) -> Self:
        """Spell the name in it as `canonical` does.

        Raises:
            ConfigError: it is not valid for its kind.
        """
        head, separator, host = self._divide()
        try:
            name = canonical(host)
        except ConfigError as exc:
            raise self._invalid() from exc
        if is_ip_address(name) is not (self.kind is IdKind.IP):
            raise self._invalid()
        return self._replace(name=f"{head}{separator}{name}")

    def _divide(self) -> tuple[str, str, str]:
        """Split the service or scheme from the host's name."""
        head, separator, host = "", "", self.name
        if self.kind is IdKind.SRV:
            head, separator, host = self.name.partition(".")
            if not head.startswith("_") or not _is_label(head.lower()):
                raise self._invalid()
        elif self.kind is IdKind.URI:
            head, separator, host = self.name.partition(":")
            host = host.strip("/")
            if not _is_label(head.lower().translate({ord("+"): "-", ord("."): "-"})):
                raise self._invalid()
        return head, separator, host

    def _invalid(self) -> ConfigError:
        return ConfigError(
            f'"{self}" is not a valid {self.kind.name}-ID',
            hint="write dns:NAME, ip:ADDRESS, srv:_SERVICE.NAME or uri:SCHEME:NAME",
        )


def canonical(host: str) -> str:
    """Return the form of a name, or address, that is sent as SNI and compared with certificates.

    That is a name in A-labels, in lower case and without its final dot; an address without brackets
    and zone, which only say how to get there.

    Raises:
        ConfigError: there can be no such name.

    Source: RFC 5890 to 5893 by way of UTS #46, as browsers do it; RFC 6066 3; RFC 6874.
    """
    bare = _without_brackets(host)
    if ":" in bare:
        bare = bare.partition("%")[0]
    if (address := _address(bare)) is not None:
        return str(address)
    name = to_ascii(bare).lower().removesuffix(".")
    labels = name.split(".")
    if len(name) > _MAX_NAME or not all(map(_is_label, labels)) or _is_number(labels[-1]):
        raise _no_name(host)
    return name


def _no_name(host: str) -> ConfigError:
    return ConfigError(
        f"{host!r} is neither a host's name nor an address",
        hint="write it alone, as example.org or 192.0.2.1: no scheme, port or path",
    )


def to_look_up(host: str) -> str:
    """Return the ASCII name or address to look up for a user's input.

    It means the same host as `canonical`, where that takes it; anything else, such as ``127.1``, is
    the resolver's to judge. A zone says how to get there, and a final dot keeps the resolver from
    trying the name below domains of its own (resolv.conf(5)): both stay. A single label is in no
    domain, but mostly in a file, and without its dot: ``localhost``.

    Raises:
        ConfigError: there can be no such name.
    """
    name = to_ascii(_without_brackets(host))
    labels = name.removesuffix(".").split(".")
    # Python itself refuses these, and by an error that is none of the network's.
    if name and not all(0 < len(label) <= _MAX_LABEL for label in labels):
        raise _no_name(host)
    return name if "." in name[:-1] else name.removesuffix(".")


def to_ascii(name: str) -> str:
    """Spell a name in A-labels; ASCII stays as it is.

    Raises:
        ConfigError: IDNA 2008 knows no such name.
    """
    if name.isascii():
        return name
    try:
        if len(name) > _MOST:
            raise UnicodeError("it is too long")
        return str(_idna().encode(name, uts46=True).decode("ascii"))
    except UnicodeError as exc:
        raise ConfigError(
            f"{name!r} is no internationalized name: {exc}",
            hint='check its spelling; if it exists, write its ASCII form, which begins with "xn--"',
        ) from exc


def to_unicode(name: str) -> str:
    """Spell a canonical name in U-labels, as far as it is one that has them."""
    if "xn--" not in name:
        return name
    try:
        return str(_idna().decode(name))
    except UnicodeError:
        return name


def _idna() -> ModuleType:
    import idna  # noqa: PLC0415 - large tables, for the few names outside of ASCII

    return idna


def is_ip_address(host: str) -> bool:
    """Return whether it is an IPv4 or IPv6 address rather than a name."""
    return _address(host) is not None


def is_loopback(host: str) -> bool:
    """Return whether only this host reaches an address, or a name that stands for it."""
    found = _address(host)
    return host == "localhost" if found is None else found.is_loopback


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    if ":" not in host and not host[-1:].isdigit():
        return None
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _without_brackets(host: str) -> str:
    """Remove the brackets of an IPv6 address in a URL, where "%" is "%25"."""
    if host[:1] != "[" or host[-1:] != "]" or ":" not in host:
        return host
    return host[1:-1].replace("%25", "%", 1)


def _is_label(text: str) -> bool:
    return 0 < len(text) <= _MAX_LABEL and _CHARACTERS.issuperset(text)


def _is_number(label: str) -> bool:
    """Return what only an address ends in, in whatever spelling: ``127.1``, ``0x7f000001``."""
    is_hex = label.startswith("0x")
    return (_HEX_DIGITS if is_hex else _DIGITS).issuperset(label[2:] if is_hex else label)
