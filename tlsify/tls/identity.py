"""RFC 9525: reference identifiers against a certificate."""

from __future__ import annotations

import functools
import ipaddress
from typing import TYPE_CHECKING

from tlsify.credentials.presented import Presented, read
from tlsify.errors import ConfigError
from tlsify.names import IdKind, ReferenceIdentifier

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_ADDRESS_LENGTHS = (4, 16)


@functools.lru_cache(256)  # names take 50 µs to read, and a program meets the same peers again
def presents(certificate: bytes, accepted: tuple[ReferenceIdentifier, ...]) -> bool:
    """Return whether a certificate presents at least one of the accepted identifiers.

    Args:
        certificate: in DER; OpenSSL has parsed it.
        accepted: in their canonical form, in which no name looks like an address or has a wildcard.
    """
    return not _spelled(accepted).isdisjoint(map(_folded, read(certificate)))


def presented(certificate: bytes) -> tuple[str, ...]:
    """Return a certificate's identifiers, for messages, with a remark on unusable ones."""
    return tuple(
        f"{name.kind.value}:{name.text}{'' if _is_usable(name) else ' (unusable)'}"
        for name in read(certificate)
    )


def _spelled(accepted: Iterable[ReferenceIdentifier]) -> set[Presented]:
    return {spelling for identity in accepted for spelling in _spellings(identity)}


def _spellings(identity: ReferenceIdentifier) -> Iterator[Presented]:
    """Yield each entry that presents an identity, in lower case (RFC 9525 6.3 to 6.5)."""
    kind, name = identity
    if kind is IdKind.IP:
        yield Presented(kind, ipaddress.ip_address(name).packed)
        return
    yield _folded(Presented(kind, name.encode("ascii")))
    domain = name.partition(".")[2]
    if kind is IdKind.DNS and "." in domain:  # a wildcard is not for all names of a top level
        yield _folded(Presented(kind, b"*." + domain.encode("ascii")))


def _folded(name: Presented) -> Presented:
    """Spell an entry in lower case, and a URI of a host without what only separates.

    A URI with a user, port or path stays whole, and so is no host's: it names something there.
    """
    if name.kind is IdKind.IP:
        return name
    value = name.value.lower()
    if name.kind is IdKind.URI:
        scheme, colon, rest = value.partition(b":")
        if rest.startswith(b"//"):  # RFC 3986 3.2
            value = scheme + colon + rest.removeprefix(b"//").removesuffix(b"/")
    return name._replace(value=value)


def _is_usable(name: Presented) -> bool:
    """Return whether there is an identifier that an entry presents."""
    kind, value = _folded(name)
    if kind is IdKind.IP:
        return len(value) in _ADDRESS_LENGTHS
    if kind is IdKind.DNS and value.startswith(b"*."):
        value = b"a" + value[1:]  # a label that the wildcard stands for
    try:
        meant = ReferenceIdentifier(kind, value.decode("ascii")).canonical()
    except (ConfigError, UnicodeError):
        return False
    return _folded(name) in _spelled([meant])
