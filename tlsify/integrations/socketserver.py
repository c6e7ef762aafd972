"""http.server and socketserver: each connection's handshake is done where it is served."""

from __future__ import annotations

import logging
import ssl
import sys
from http.server import HTTPServer, SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from tlsify.sslcontext.socket import SSLSocket

if TYPE_CHECKING:
    from _typeshed import SupportsRead, SupportsWrite

    from tlsify.sslcontext.context import SSLContext

_log = logging.getLogger("tlsify")


class TLSMixIn:
    """For any server of `socketserver`: in front of its class, with ``context=`` to be made.

    With ThreadingMixIn a client that stalls costs its own thread only. Handlers find the
    connection in ``self.request``, and what it agreed on in ``self.request.facts``.
    """

    socket: Any

    def __init__(self, *arguments: Any, context: SSLContext, **options: Any) -> None:
        """Accept the server's arguments, and a server's context.

        Raises:
            ConfigError: the context is unusable.
        """
        self.context = context
        super().__init__(*arguments, **options)

    def server_activate(self) -> None:
        """Listen, for TLS."""
        super().server_activate()  # type: ignore[misc]
        self.socket = self.context.wrap_socket(self.socket, server_side=True)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Do the handshake, then let the handler answer."""
        try:
            request.do_handshake()
        except OSError as exc:
            _log.info("connection refused: %s", exc)
        else:
            super().finish_request(request, client_address)  # type: ignore[misc]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log a connection's end in one line; anything else as the server does.

        An answer that was not finished must not look like one that was.
        """
        error = sys.exception()
        if isinstance(request, SSLSocket):
            request.abort()
        if isinstance(error, ConnectionError | TimeoutError | ssl.SSLError):
            _log.info("connection ended: %s", error)
        else:
            super().handle_error(request, client_address)  # type: ignore[misc]


class HTTPSServer(TLSMixIn, HTTPServer):
    """`http.server.HTTPServer` over TLS, for one client at a time."""


class ThreadingHTTPSServer(TLSMixIn, ThreadingHTTPServer):
    """`http.server.ThreadingHTTPServer` over TLS."""


class FileHandler(SimpleHTTPRequestHandler):
    """`http.server.SimpleHTTPRequestHandler`, whose files are sent with sendfile."""

    def copyfile(self, source: SupportsRead[Any], outputfile: SupportsWrite[Any]) -> None:
        """Send a file, or what stands for one."""
        if isinstance(self.connection, SSLSocket):
            self.wfile.flush()
            self.connection.sendfile(source)  # type: ignore[arg-type]
        else:
            super().copyfile(source, outputfile)
