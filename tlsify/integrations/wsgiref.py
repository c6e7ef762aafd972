"""wsgiref: make_server over TLS, in threads, with sendfile for wsgi.file_wrapper."""

from __future__ import annotations

import io
import os
from socketserver import ThreadingMixIn
from typing import IO, TYPE_CHECKING, Any, cast
from wsgiref import simple_server

from tlsify.integrations.socketserver import TLSMixIn
from tlsify.integrations.variables import variables

if TYPE_CHECKING:
    from tlsify.sslcontext.context import SSLContext
    from tlsify.sslcontext.socket import SSLSocket

_LONGEST_LINE = 65536


class WSGIServer(TLSMixIn, ThreadingMixIn, simple_server.WSGIServer):
    """wsgiref's server over TLS, with a thread for each connection."""

    daemon_threads = True


class _Responder(simple_server.ServerHandler):
    """Answers one request."""

    wsgi_run_once = False
    connection: SSLSocket
    request_handler: WSGIRequestHandler
    result: Any
    headers: Any
    headers_sent: bool

    def sendfile(self) -> bool:
        """Send the application's file from where it stands, as long as it is said to be."""
        file = self.result.filelike
        try:
            start = file.tell()
            rest = os.fstat(file.fileno()).st_size - start
        except (AttributeError, OSError, io.UnsupportedOperation):
            return False
        headers = self.headers
        if headers is None:  # no start_response yet: the usual way says so
            return False
        headers.setdefault("Content-Length", str(rest))
        count = min(rest, int(headers["Content-Length"] or 0))
        if not self.headers_sent:
            self.send_headers()
        self._flush()
        if count:
            self.connection.sendfile(file, start, count)
        self.bytes_sent = count
        return True


class WSGIRequestHandler(simple_server.WSGIRequestHandler):
    """wsgiref's handler: https, mod_ssl's variables, sendfile."""

    def get_environ(self) -> dict[str, Any]:
        """Return the environment, with the variables of the connection."""
        return super().get_environ() | variables(self.connection.facts)

    def handle(self) -> None:
        """Answer one request.

        Raises:
            ConnectionAbortedError: the answer broke off; the server ends without close_notify.
        """
        self.raw_requestline = self.rfile.readline(_LONGEST_LINE + 1)
        if len(self.raw_requestline) > _LONGEST_LINE:
            self.requestline = self.request_version = self.command = ""
            self.send_error(414)
        elif self.parse_request():
            responder = _Responder(
                cast("IO[bytes]", self.rfile),
                cast("IO[bytes]", self.wfile),
                self.get_stderr(),
                self.get_environ(),
                multithread=True,
            )
            responder.connection = self.connection
            responder.request_handler = self
            responder.run(cast("Any", self.server).get_app())
            if responder.headers_sent:  # reset at the end of an answer; any error is past
                raise ConnectionAbortedError("the answer broke off")


def make_server(host: str, port: int, application: Any, context: SSLContext) -> WSGIServer:
    """Make a server, as ``wsgiref.simple_server.make_server`` does.

    Args:
        host: address to listen on.
        port: TCP port; 0 takes a free one.
        application: WSGI.
        context: a server's.

    Raises:
        ConfigError: the context is unusable.
    """
    server = WSGIServer((host, port), WSGIRequestHandler, context=context)
    server.set_app(application)
    return server
