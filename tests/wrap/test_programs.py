"""Servers of others under wrap, on kernel TLS: pages, uploads, ends, reload."""

from __future__ import annotations

import signal
import socket
from http.client import HTTPSConnection
from typing import TYPE_CHECKING

import pytest

from tests.cli.forked import Forked
from tests.doubles import until
from tests.interop.programs import free_port
from tests.provision import find
from tests.wrap.wrapped import needs_seccomp
from tlsify.ktls.diag import tls_stat

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Pki

pytestmark = [needs_seccomp, pytest.mark.ktls, pytest.mark.interop]

_PAGE = bytes(range(256)) * 2**12
_NGINX = """
user root; daemon off; worker_processes 2; pid {place}/pid; error_log {place}/errors info;
events {{ worker_connections 64; }}
http {{
    access_log off; sendfile on; client_body_temp_path {place}/a; proxy_temp_path {place}/b;
    fastcgi_temp_path {place}/c; uwsgi_temp_path {place}/d; scgi_temp_path {place}/e;
    server {{ listen 127.0.0.1:{port} {options}; root {place}; }}
}}
"""


class _Server(Forked):
    """A server under wrap."""

    def __init__(self, pki: Pki, port: int, *words: str | Path) -> None:
        """Start it, and wait until it listens."""
        credentials = ("--cert", pki.good.certificate, "--key", pki.good.key)
        super().__init__("--ktls=require", "wrap", *credentials, "--", *words)
        self._port, self._pki = port, pki
        until(lambda: "TLS on" in self.said())

    def open(self) -> HTTPSConnection:
        """Open a connection that is kept."""
        return HTTPSConnection(
            "localhost",
            self._port,
            context=self._pki.client_context(),
            timeout=60,
            source_address=("127.0.0.1", 0),
        )

    def fetch(self, connection: HTTPSConnection) -> None:
        """Fetch the page."""
        connection.request("GET", "/page")
        assert connection.getresponse().read() == _PAGE


@pytest.mark.each_kernel
@pytest.mark.parametrize("options", ["", "reuseport deferred"])
def test_nginx(pki: Pki, tmp_path: Path, options: str) -> None:
    """Keep-alive, two workers, reload, graceful end; its log knows of no odd record."""
    (tmp_path / "page").write_bytes(_PAGE)
    port, before = free_port(), tls_stat()["TlsTxSw"]
    config = tmp_path / "nginx.conf"
    config.write_text(_NGINX.format(place=tmp_path, port=port, options=options))
    with _Server(pki, port, find("nginx"), "-p", tmp_path, "-c", config) as server:
        kept = server.open()
        for _ in range(2):
            server.fetch(kept)
        for _ in range(4):
            other = server.open()
            server.fetch(other)
            other.close()
        server.signal(signal.SIGHUP)
        until(lambda: "reconfiguring" in (tmp_path / "errors").read_text())
        last = server.open()
        server.fetch(last)
        last.close()
        kept.close()
        server.signal(signal.SIGQUIT)
        assert server.end() == 0
    errors = (tmp_path / "errors").read_text()
    assert not [line for line in errors.splitlines() if "[alert]" in line or "(5:" in line]
    assert tls_stat()["TlsTxSw"] - before >= 6


def test_busybox_httpd(pki: Pki, tmp_path: Path) -> None:
    """A server that forks for each connection."""
    (tmp_path / "page").write_bytes(_PAGE)
    port = free_port()
    words = ("httpd", "-f", "-p", f"127.0.0.1:{port}", "-h", tmp_path)
    with _Server(pki, port, find("busybox"), *words) as server:
        for _ in range(2):
            connection = server.open()
            server.fetch(connection)
            connection.close()
        server.ask_to_end()
        assert server.end() == 128 + signal.SIGTERM


def test_socat(pki: Pki) -> None:
    """A program on each connection, which answers after the client has ended its side."""
    port = free_port()
    listen = f"TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork"
    with _Server(pki, port, find("socat"), listen, "EXEC:cat") as server:
        for _ in range(2):
            sock = socket.create_connection(("127.0.0.1", port), 60)
            with pki.client_context().wrap_socket(sock, server_hostname="localhost") as client:
                client.sendall(b"hello")
                assert client.recv(5) == b"hello"
                client.unwrap().close()
        server.ask_to_end()
        assert server.end() == 128 + signal.SIGTERM
