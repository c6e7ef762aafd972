"""Errors of cut connections: the peer, the cause, and their own exit status."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from tlsify.addresses import Address
from tlsify.errors import CUTS, ConnectionCut, TlsifyError, Truncated

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator


@contextmanager
def told(peer: str = "") -> Iterator[None]:
    """Convert errors of the connection to errors that name its peer.

    An OSError that names a file is that file's. TimeoutError without an errno is a time limit's.

    Args:
        peer: host and port; empty where the error's reporter names them.

    Raises:
        Truncated: as the block raised it.
        ConnectionCut: the block raised an OSError that says that the connection is no more.
    """
    prefix = f"{peer}: " if peer else ""
    try:
        yield
    except Truncated as exc:
        raise Truncated(f"{prefix}{exc}", alert=exc.alert, hint=exc.hint) from exc
    except OSError as exc:
        if isinstance(exc, TlsifyError) or exc.filename is not None or exc.errno not in CUTS:
            raise
        raise ConnectionCut(exc, prefix) from exc


def peer_of(sock: socket.socket) -> str:
    """Return the name of a socket's peer."""
    try:
        address = sock.getpeername()
    except OSError:
        return ""
    return str(Address(*address[:2])) if isinstance(address, tuple) else ""
