"""Check that a socket is a connection on which TLS can begin."""

from __future__ import annotations

import errno
import socket
import struct
import sys

from tlsify.errors import ConfigError
from tlsify.ktls.ulp import ulp_name

# linux/tcp.h struct tcp_info up to tcpi_segs_out and tcpi_segs_in.
_SEGMENTS = struct.Struct("=136xII")


def check_plaintext(sock: socket.socket) -> None:
    """Check a socket that a handshake is asked for; it stays as it is.

    Raises:
        ConfigError: it is no connection, or has TLS already.
    """
    tls = sys.modules.get("ssl")  # not imported for this: it takes its time
    if tls is not None and isinstance(sock, tls.SSLSocket):
        raise ConfigError(
            "the socket has TLS already", hint="TLS within TLS: see SSLContext.wrap_bio"
        )
    refuse_kernel_tls(sock)
    if not _is_connection(sock):
        raise ConfigError(
            "the socket is no connected stream",
            hint="pass one that connect() or accept() has connected",
        )


def refuse_kernel_tls(sock: socket.socket) -> None:
    """Refuse a socket whose records the kernel protects: a relay would miss control records.

    Raises:
        ConfigError: it is one.
    """
    if ulp_name(sock) == "tls":
        raise ConfigError(
            "the socket has TLS already, in the kernel",
            hint="for TLS within TLS, have the outer one relayed (KtlsMode.OFF)",
        )


def _is_connection(sock: socket.socket) -> bool:
    """Return whether a stream is connected, or was: of that the handshake finds the error."""
    if sock.type != socket.SOCK_STREAM:
        return False
    try:
        sock.getpeername()
    except OSError as exc:
        if exc.errno in {errno.ENOTCONN, errno.EBADF}:
            return _has_had_segments(sock)
    return True


def _has_had_segments(sock: socket.socket) -> bool:
    """Return whether TCP has ever sent or received on a socket."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SEGMENTS.size)
    except OSError:  # no TCP
        return False
    return len(info) < _SEGMENTS.size or any(_SEGMENTS.unpack(info))
