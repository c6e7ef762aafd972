"""A connection, and a program's variables for it, as in UCSPI and s6-tls."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, NamedTuple

from tlsify.logs.text import printable
from tlsify.system import service_manager

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from tlsify.connection.handoff import Handoff
    from tlsify.connection.traffic import Traffic

_log = logging.getLogger("tlsify")
# Where a client's and a server's program finds the connection (cr.yp.to/proto/ucspi.txt).
CLIENT_PLACES, SERVER_PLACES = (6, 7), (0, 1)
# Variables that name keys, or the user to become, are ours and not the program's; so is what the
# service manager has told us.
_OURS = (
    *("KEYFILE", "CERTFILE", "CAFILE", "CADIR", "SSLKEYLOGFILE", "TLS_UID", "TLS_GID"),
    *service_manager.VARIABLES,
)
# What we set, and what must not be left over from another connection.
_SET = (
    *("PROTO", "SSL_PROTOCOL", "SSL_CIPHER", "SSL_SESSION_REUSED", "SSL_ALPN"),
    *("SSL_TLS_SNI_SERVERNAME", "SSL_PEER_CERT_HASH", "SSL_PEER_CERT_SUBJECT"),
    *("TLSIFY_KTLS_TX", "TLSIFY_KTLS_RX", "TLSIFY_KTLS_REASON", "TLSIFY_SESSION_FD"),
)
# Characters of a value. A certificate's subject may be as long as OpenSSL takes: 100 KiB.
_LONGEST = 2**12
_SET_OF_EACH_SIDE = ("TCPLOCAL", "TCPREMOTE", "SSLLOCAL", "SSLREMOTE")


class Connection(NamedTuple):
    """A hand-off, and the TCP connection below it.

    Attributes:
        handoff: the connection.
        local: our end, as ``getsockname`` gives it.
        remote: the peer's, likewise.
        traffic: counts what is carried, if it is to be logged.
    """

    handoff: Handoff
    local: object
    remote: object
    traffic: Traffic | None = None


def open_connection(
    sock: socket.socket, hand_over: Callable[[socket.socket], Handoff]
) -> Connection:
    """Shake hands on a connected socket, and say what came of it.

    Raises:
        As ``hand_over``.
    """
    try:
        local, remote = sock.getsockname(), sock.getpeername()
    except OSError:  # gone already; the handshake will say so
        local = remote = None
    handed = hand_over(sock)
    agreed = handed.negotiated
    carrier = "kernel" if handed.reason is None else f"relay, {': '.join(handed.reason[:2])}"
    how = ", resumed" if agreed.resumed else ""
    _log.info("%s %s%s (%s)", agreed.version.label, agreed.suite.name, how, carrier)
    return Connection(handed, local, remote)


def variables(connection: Connection) -> dict[str, str]:
    """Describe a connection.

    Ends that are no IP addresses are left out, and so is what is longer than an environment may
    well be: a name that was cut would be another host's.

    Returns:
        Printable values only: names may come from the peer.
    """
    handoff = connection.handoff
    agreed = handoff.negotiated
    offload = handoff.offload.value
    found = {
        "PROTO": "SSL",
        "SSL_PROTOCOL": agreed.version.label,
        "SSL_CIPHER": agreed.suite.name,
        "SSL_SESSION_REUSED": "1" if agreed.resumed else "0",
        "TLSIFY_KTLS_TX": offload,
        "TLSIFY_KTLS_RX": offload,
    }
    if agreed.server_name is not None:
        found["SSL_TLS_SNI_SERVERNAME"] = agreed.server_name
    if agreed.alpn is not None:
        found["SSL_ALPN"] = agreed.alpn.decode("latin-1")
    if handoff.reason is not None:
        found["TLSIFY_KTLS_REASON"] = handoff.reason.code
    if agreed.peer_hash is not None:
        found["SSL_PEER_CERT_HASH"] = f"SHA256:{agreed.peer_hash}"
        found["SSL_PEER_CERT_SUBJECT"] = agreed.peer_subject or ""
    for family in ("SSL", "TCP"):
        found |= addresses(family, connection.local, connection.remote)
    shown = {name: printable(value) for name, value in found.items()}
    return {name: value for name, value in shown.items() if len(value) <= _LONGEST}


def addresses(family: str, local: object, remote: object) -> dict[str, str]:
    """Return the variables of both ends, as far as they are IP addresses.

    Args:
        family: "SSL" or "TCP", which their names begin with.
        local: as ``getsockname`` gives it.
        remote: likewise.
    """
    found = {}
    for side, address in (("LOCAL", local), ("REMOTE", remote)):
        if isinstance(address, tuple):
            found[f"{family}{side}IP"] = str(address[0])
            found[f"{family}{side}PORT"] = str(address[1])
    return found


def apply(told: Mapping[str, str]) -> None:
    """Set the variables in this process's environment, and remove those not for the program."""
    for name in list(os.environ):
        # s6-tls has a KEYFILE:NAME for each server name.
        if name.partition(":")[0] in (*_OURS, *_SET) or name.startswith(_SET_OF_EACH_SIDE):
            del os.environ[name]
    os.environ.update(told)


def encode(told: Mapping[str, str]) -> bytes:
    """Spell them as UCSPI-TLS does: NUL behind each, and one at the end."""
    return b"".join(f"{name}={value}\0".encode() for name, value in told.items()) + b"\0"


def decode(block: bytes) -> dict[str, str]:
    """Read what `encode` has made."""
    words = block.removesuffix(b"\0").decode().split("\0")
    return dict(word.split("=", 1) for word in words if word)
