"""A wrapped program, in Python, and clients of it."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli.forked import Forked
from tests.cli.harness import PATIENCE
from tlsify.cli import main
from tlsify.serving import changes
from tlsify.wrap import supervisor

if TYPE_CHECKING:
    import ssl

    from tests.cli.conftest import Pki

RELAY, KERNEL = "--ktls=auto", "--ktls=require"
# The quick lane's kernel has no seccomp.
needs_seccomp = pytest.mark.skipif(
    "Seccomp:" not in Path("/proc/self/status").read_text(), reason="no seccomp here"
)
CARRIERS = pytest.mark.parametrize(
    "carrier",
    [
        pytest.param(RELAY, id="relay", marks=needs_seccomp),
        pytest.param(
            KERNEL,
            id="kernel",
            marks=[pytest.mark.ktls, pytest.mark.each_kernel, needs_seccomp],
        ),
    ],
)
# Listens on a free port, and prints it.
LISTEN = """
import os, signal, socket, sys
def listen(host="127.0.0.1", port=0, backlog=8):
    listener = socket.create_server((host, port), backlog=backlog,
        family=socket.AF_INET6 if ":" in host else socket.AF_INET, dualstack_ipv6=host == "::")
    print(listener.getsockname()[1], flush=True)
    return listener
"""
# Serves one client with its own words and address; then two.
SERVE = """
def serve(sock, name):
    sock.sendall(sock.recv(100) + b" from %s %d" % (name[0].encode(), name[1]))
    sock.close()
"""
ECHO_TWICE = (
    SERVE
    + """
with listen() as listener:
    for _ in range(2):
        serve(*listener.accept())
"""
)


def quickly(words: list[str]) -> int:
    """Run the command, which looks more often at what no call tells of."""
    supervisor._DOORS = supervisor._CONNECTIONS = 0.05
    changes._INTERVAL = changes._SETTLE = 0.05
    return main(words)


class Wrapped(Forked):
    """A program under ``tlsify wrap``.

    Attributes:
        port: where it listens.
    """

    def __init__(
        self,
        pki: Pki,
        carrier: str,
        source: str,
        *words: str,
        credentials: tuple[object, ...] = (),
    ) -> None:
        """Start it, and wait until it listens; its descriptor 0 is a pipe."""
        usual = ("--cert", pki.good.certificate, "--key", pki.good.key)
        given = map(str, credentials or usual)
        program = ("--", sys.executable, "-I", "-S", "-c", LISTEN + source)
        super().__init__(carrier, "wrap", *given, *words, *program, command=quickly)
        self._pki = pki
        line = self.line()
        if not line.strip().isdigit():
            raise AssertionError(f"it did not start: {line}{self.said()}")
        self.port = int(line)

    @property
    def server(self) -> tuple[str, int]:
        """Where it is."""
        return ("127.0.0.1", self.port)

    def connect(self, host: str = "127.0.0.1") -> ssl.SSLSocket:
        """Connect a client, for which truncation is an error."""
        return connect(self._pki, host, self.port)

    def ask(self, host: str = "127.0.0.1") -> None:
        """Be a client of a program that has `SERVE`."""
        with self.connect(host) as client:
            client.sendall(b"hello")
            own, port, *_ = client.getsockname()
            found = read_all(client).decode()
            assert found.replace("::ffff:", "") == f"hello from {own} {port}"


def connect(pki: Pki, host: str, port: int) -> ssl.SSLSocket:
    """Connect a client, for which truncation is an error."""
    sock = socket.create_connection((host, port), PATIENCE)
    return pki.client_context().wrap_socket(
        sock, server_hostname="localhost", suppress_ragged_eofs=False
    )


def read_all(client: ssl.SSLSocket) -> bytes:
    """Receive until close_notify."""
    return b"".join(iter(lambda: client.recv(2**16), b""))
