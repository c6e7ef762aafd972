"""A running ``tlsify forward``, and clients of it."""

from __future__ import annotations

import re
import socket
import subprocess
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.cli.harness import LOOPBACK, PATIENCE, Running, finish, read_line, start
from tests.doubles import descriptors

if TYPE_CHECKING:
    import ssl

    from tests.cli.conftest import Pki


class Front(Running):
    """A running ``tlsify forward``."""

    def __init__(
        self, pki: Pki, *words: str | Path, carrier: str = "--ktls=off", **how: Any
    ) -> None:
        """Start it, and wait until it is ready."""
        self.process = start(
            carrier, "forward", *self.own(pki), *words, stdin=subprocess.DEVNULL, **how
        )
        self._pki = pki
        self.line = read_line(self.process.stdout)
        found = re.match(r"tlsify: forwarding (.*):(\d+) to ", self.line)
        if found is None:
            raise AssertionError(f"it did not start: {self.line}{finish(self.process).err}")
        self.port = int(found[2])

    def own(self, pki: Pki) -> tuple[str | Path, ...]:
        """Return what it is told in any case."""
        return ("--cert", pki.good.certificate, "--key", pki.good.key)

    def connect(self, name: str = "localhost", alpn: str | None = None) -> ssl.SSLSocket:
        """Connect a client."""
        context = self._pki.client_context()
        context.check_hostname = name == "localhost"
        if alpn is not None:
            context.set_alpn_protocols([alpn])
        sock = socket.create_connection((LOOPBACK, self.port), PATIENCE)
        return context.wrap_socket(sock, server_hostname=name, suppress_ragged_eofs=False)

    def ask(self, path: str = "/", **how: str) -> bytes:
        """Fetch a page; return the body."""
        with self.connect(**how) as client:
            client.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            answer = b"".join(iter(partial(client.recv, 2**16), b""))
        return answer.partition(b"\r\n\r\n")[2]

    def descriptors(self) -> int:
        """Return how many descriptors its workers have open."""
        pid = self.process.pid
        workers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return sum(len(descriptors(int(worker))) for worker in workers)


class Tunnel(Front):
    """A running ``tlsify forward --connect``."""

    def own(self, pki: Pki) -> tuple[str | Path, ...]:
        """Return what it is told in any case."""
        return ("--connect", "--backend-ca", pki.authority)

    def dial(self, port: int | None = None) -> socket.socket:
        """Connect a client, which speaks no TLS."""
        return socket.create_connection((LOOPBACK, port or self.port), PATIENCE)
