"""A server in Python that writes its answers itself, piece by piece, a connection at a time.

It says one byte, and takes 8: how large a piece is, and how many there are, big endian.

Usage: python_writer.py WAY PORT CERTIFICATE KEY
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    Wrap = Callable[[socket.socket], socket.socket]

_REQUEST = struct.Struct(">II")


def _tlsify(mode: str, certificate: str, key: str) -> Wrap:
    from tlsify.config import KtlsMode, KtlsPolicy, ServerConfig
    from tlsify.connection.establish import accept, prepare
    from tlsify.connection.stream import TLSSocket
    from tlsify.credentials.key_pair import KeyPair

    config = ServerConfig(key_pair=KeyPair.load(Path(certificate), Path(key)))
    policy = KtlsPolicy(KtlsMode(mode))
    prepare(config, policy)
    return lambda sock: TLSSocket(accept(sock, config, policy))


def _cpython(certificate: str, key: str) -> Wrap:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return lambda sock: context.wrap_socket(sock, server_side=True)


def _wrap(way: str, certificate: str, key: str) -> Wrap:
    if way == "plain":
        return lambda sock: sock
    return _cpython(certificate, key) if way == "cpython" else _tlsify(way, certificate, key)


def _main(way: str, port: int, certificate: str, key: str) -> None:
    wrap = _wrap(way, certificate, key)
    listener = socket.create_server(("127.0.0.1", port))
    while True:
        sock, _ = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(Exception), wrap(sock) as stream:
            stream.sendall(b"!")
            size, count = _REQUEST.unpack(stream.recv(_REQUEST.size))
            piece = bytes(size)
            for _ in range(count):
                stream.sendall(piece)
            stream.recv(1)


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
