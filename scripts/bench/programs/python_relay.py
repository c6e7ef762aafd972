"""A relay in Python in front of a plain backend, a connection at a time.

Usage: python_relay.py WAY PORT CERTIFICATE KEY BACKEND
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import sys
from pathlib import Path

_PIECE = 2**16


def tlsify(port: int, certificate: str, key: str, backend: int) -> None:
    """The library's relay; a child, whose time is not the relay's, carries on to the backend."""
    from tlsify.config import KtlsMode, KtlsPolicy, ServerConfig
    from tlsify.connection.establish import accept, prepare
    from tlsify.credentials.key_pair import KeyPair
    from tlsify.system import scm_rights

    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if (child := os.fork()) == 0:
        # A descendant's time would be added to the relay's.
        if os.fork():
            os._exit(0)
        here.close()
        while True:
            _, descriptor = scm_rights.receive(there, 1)
            if descriptor is None:
                os._exit(0)
            with contextlib.suppress(OSError), socket.socket(fileno=descriptor) as end:
                _splice(end, backend)
    os.waitpid(child, 0)
    there.close()
    config = ServerConfig(key_pair=KeyPair.load(Path(certificate), Path(key)))
    policy = KtlsPolicy(KtlsMode.OFF)
    prepare(config, policy)
    with socket.create_server(("127.0.0.1", port)) as listener:
        while True:
            sock, _ = listener.accept()
            with contextlib.suppress(Exception):
                handed = accept(sock, config, policy)
                scm_rights.send(here, b"x", handed.sock.fileno())
                handed.sock.close()  # the child has it; the relay goes on


def _splice(end: socket.socket, backend: int) -> None:
    with socket.create_connection(("127.0.0.1", backend)) as sock:
        ends = {end: sock, sock: end}
        while True:
            for source in select.select(list(ends), [], [])[0]:
                data = source.recv(2**18)
                if not data:
                    return
                ends[source].sendall(data)


def cpython(port: int, certificate: str, key: str, backend: int) -> None:
    """CPython's ssl, blocking, in pieces as large as records."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", port))
    while True:
        sock, _ = listener.accept()
        with contextlib.suppress(OSError), context.wrap_socket(sock, server_side=True) as stream:
            _pump(stream, backend)


def _pump(stream: ssl.SSLSocket, backend: int) -> None:
    room = bytearray(_PIECE)
    with socket.create_connection(("127.0.0.1", backend)) as sock, memoryview(room) as view:
        ends: dict[socket.socket, socket.socket] = {stream: sock, sock: stream}
        while True:
            ready = [stream] if stream.pending() else select.select(list(ends), [], [])[0]
            for source in ready:
                size = source.recv_into(room)
                if not size:
                    return
                ends[source].sendall(view[:size])


if __name__ == "__main__":
    name, port, certificate, key, backend = sys.argv[1:]
    globals()[name](int(port), certificate, key, int(backend))
