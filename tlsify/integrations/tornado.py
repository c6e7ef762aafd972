"""Tornado: an HTTPServer whose handshakes are done on its loop."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from tornado.httpserver import HTTPServer as BaseServer
from tornado.iostream import IOStream

from tlsify.aio.handshake import hand_over
from tlsify.aio.loop_socket import LoopSocket
from tlsify.errors import TlsifyError
from tlsify.sslcontext.facts import TLSInfo

if TYPE_CHECKING:
    from socket import socket

    from tlsify.connection.handoff import Handoff
    from tlsify.sslcontext.context import SSLContext

_log = logging.getLogger("tlsify")

# Limit on simultaneous handshakes; further connections are refused.
_LIMIT = 1000


class _Socket(LoopSocket):
    """Answers what requests ask of a connection, such as ``request.get_ssl_certificate()``."""

    def __init__(self, handed: Handoff) -> None:
        super().__init__(handed)
        self.facts = TLSInfo(handed)
        self.getpeercert = self.facts.getpeercert
        self.selected_alpn_protocol = self.facts.selected_alpn_protocol


class HTTPServer(BaseServer):
    """Tornado's HTTPServer, with an `SSLContext` of tlsify as its ``ssl_options``.

    What the handshake agreed on is in ``request.connection.stream.socket.facts``.
    """

    ssl_options: SSLContext

    def initialize(self, application: Any, *, ssl_options: SSLContext, **options: Any) -> None:  # type: ignore[override]
        """Accept the arguments of Tornado's own.

        Raises:
            ConfigError: the context is unusable.
        """
        ssl_options.server_config()
        self._openings: set[asyncio.Task[None]] = set()
        options = {"protocol": "https", **options}
        super().initialize(application, ssl_options=ssl_options, **options)

    def _handle_connection(self, connection: socket, address: Any) -> None:
        if len(self._openings) >= _LIMIT:
            _log.warning("connection refused: %d handshakes are under way", _LIMIT)
            connection.close()
            return
        task = asyncio.get_running_loop().create_task(self._open(connection, address))
        self._openings.add(task)
        task.add_done_callback(self._openings.discard)

    async def _open(self, connection: socket, address: Any) -> None:
        context = self.ssl_options
        try:
            handed = await hand_over(connection, context.server_config(), context.policy)
        except (TlsifyError, OSError) as exc:
            _log.info("connection refused: %s", exc)
            return
        stream = IOStream(
            _Socket(handed),
            max_buffer_size=self.max_buffer_size,
            read_chunk_size=self.read_chunk_size,
        )
        self.handle_stream(stream, address)

    def stop(self) -> None:
        """Accept no more; handshakes under way are given up."""
        super().stop()
        for task in self._openings:
            task.cancel()
