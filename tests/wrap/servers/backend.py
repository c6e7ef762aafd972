"""The server behind a proxy: in a thread, without TLS."""

from __future__ import annotations

import hashlib
import shutil
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """On a path."""

    daemon_threads = True
    root: Path


class _Handler(BaseHTTPRequestHandler):
    """Files, and the digests of uploads."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        """Send a file."""
        path = self.server.root / self.path.lstrip("/")
        self._begin(path.stat().st_size)
        with path.open("rb") as file:
            shutil.copyfileobj(file, self.wfile)

    def do_POST(self) -> None:
        """Digest what comes."""
        data = self.rfile.read(int(self.headers["Content-Length"]))
        body = hashlib.sha256(data).hexdigest().encode()
        self._begin(len(body))
        self.wfile.write(body)

    def _begin(self, size: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()

    def address_string(self) -> str:
        """Return no address: there is none."""
        return ""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Backend:
    """Serves for the length of a block."""

    def __init__(self, place: Path) -> None:
        """Listen in a folder, and serve another one there."""
        self._server = _Server(str(place / "backend"), _Handler)
        self._server.root = place / "root"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
