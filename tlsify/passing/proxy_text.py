"""PROXY protocol, version 1: addresses in a line of text in front of the data."""

from __future__ import annotations

import socket
from typing import Any

from tlsify.passing import proxy_protocol
from tlsify.passing.proxy_protocol import Header

START, END = b"PROXY ", b"\r\n"
LONGEST = 107  # bytes of a line, its end included
_UNKNOWN = "UNKNOWN"
UNKNOWN = f"PROXY {_UNKNOWN}\r\n".encode()  # of a connection of our own
_FAMILIES = {"TCP4": socket.AF_INET, "TCP6": socket.AF_INET6}
_PORTS = 2**16


def encode(header: Header) -> bytes:
    """Write a header; its fields have no place in this version."""
    # Version 2 finds out which family both ends have in common.
    found, _ = proxy_protocol.decode(proxy_protocol.encode(Header(header.peer, header.local)))
    words = [_UNKNOWN]
    if isinstance(found.peer, tuple):
        ends = found.peer, found.local
        family = "TCP6" if ":" in found.peer[0] else "TCP4"
        words = [family, *(end[0] for end in ends), *(str(end[1]) for end in ends)]
    return START + " ".join(words).encode() + END


def decode(line: bytes) -> Header:
    """Read a header.

    Args:
        line: with its end, and nothing behind it.

    Raises:
        ValueError: it is malformed.
    """
    if not line.startswith(START) or not line.endswith(END) or len(line) > LONGEST:
        raise ValueError("no PROXY header of version 1")
    words = line[len(START) : -len(END)].decode("latin-1").split(" ")
    if words[0] == _UNKNOWN:  # whatever follows is to be ignored
        return Header(None, None)
    try:
        name, peer, local, peer_port, local_port = words
        family = _FAMILIES[name]
        return Header(_name(family, peer, peer_port), _name(family, local, local_port))
    except (KeyError, ValueError, OSError):
        raise ValueError(f"malformed PROXY header {line!r}") from None


def _name(family: socket.AddressFamily, host: str, port: str) -> tuple[Any, ...]:
    """Return an address as ``getpeername`` has it.

    Raises:
        ValueError: the port is none.
        OSError: the host is none.
    """
    number = int(port)
    if str(number) != port or not 0 <= number < _PORTS:
        raise ValueError(port)
    spelled = socket.inet_ntop(family, socket.inet_pton(family, host))
    rest = () if family is socket.AF_INET else (0, 0)  # flow and scope
    return spelled, number, *rest
