"""A web server that answers whatever a test has it answer."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

    import trustme


class Answering:
    """Answers each request with bytes of a function's own; what it asks for is kept.

    Attributes:
        url: of its root.
        requests: their bytes.
    """

    def __init__(
        self, answer: Callable[[bytes], bytes | None], leaf: trustme.LeafCert | None = None
    ) -> None:
        """Listen.

        Args:
            answer: gives all that is sent for a request, and then the connection is closed; None
                sends nothing, and leaves it open.
            leaf: for HTTPS.
        """
        self.requests: list[bytes] = []
        self._answer = answer
        self._context: ssl.SSLContext | None = None
        if leaf is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            leaf.configure_cert(self._context)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        scheme = "http" if leaf is None else "https"
        self.url = f"{scheme}://localhost:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        """Begin to answer."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        for sock in self._open:
            sock.close()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with suppress(OSError):
                self._converse(sock)

    def _converse(self, sock: socket.socket) -> None:
        if self._context is not None:
            sock = self._context.wrap_socket(sock, server_side=True)
        request = b""
        while not _is_whole(request) and (more := sock.recv(2**16)):
            request += more
        if not request:
            sock.close()
            return
        self.requests.append(request)
        answer = self._answer(request)
        if answer is None:
            self._open.append(sock)
            return
        with sock, suppress(OSError):
            sock.sendall(answer)
            if isinstance(sock, ssl.SSLSocket) and not answer.endswith(CUT):
                sock = sock.unwrap()


# At the end of an answer over TLS: the connection is cut there.
CUT = b"<cut>"


def _is_whole(request: bytes) -> bool:
    head, end, content = request.partition(b"\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return bool(end) and len(content) >= int(length or 0)


def reply(content: bytes, *fields: str, status: str = "200 OK") -> bytes:
    """Spell an answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(content)}", *fields, "", ""]
    return "\r\n".join(lines).encode() + content
