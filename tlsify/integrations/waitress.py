"""waitress: channels on connections whose handshakes its loop does not wait for."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import waitress
from waitress.channel import HTTPChannel
from waitress.server import BaseWSGIServer
from waitress.task import WSGITask

from tlsify.aio.loop_socket import LoopSocket
from tlsify.integrations.background import Handshakes
from tlsify.integrations.variables import variables
from tlsify.sslcontext.facts import TLSInfo

if TYPE_CHECKING:
    import socket

    from tlsify.connection.handoff import Handoff
    from tlsify.sslcontext.context import SSLContext


class _Task(WSGITask):  # type: ignore[misc]
    """Tells the application of its connection."""

    def get_environment(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environment()
        environ.update(self.channel.variables)
        return environ


class _Channel(HTTPChannel):  # type: ignore[misc]
    """waitress' channel of a connection that is keyed already."""

    task_class = _Task

    def __init__(self, handed: Handoff, *arguments: Any, **options: Any) -> None:
        self.variables = variables(TLSInfo(handed))
        server, *rest = arguments
        super().__init__(server, LoopSocket(handed), *rest, **options)


def secure(server: Any, context: SSLContext) -> None:
    """Make a server of ``waitress.create_server(app, url_scheme="https", ...)`` speak TLS.

    Raises:
        ConfigError: the context is unusable.
    """
    handshakes = Handshakes(context)

    def channel(
        of: Any,
        sock: socket.socket,
        address: Any,
        adj: Any,
        map: dict[int, Any],
    ) -> None:
        def handed_over(handed: Handoff) -> None:
            # The loop's own thread makes the channel.
            of.trigger.pull_trigger(partial(_Channel, handed, of, address, adj, map=map))

        handshakes.begin(sock, handed_over)

    dispatchers = [server] if isinstance(server, BaseWSGIServer) else list(server.map.values())
    for dispatcher in dispatchers:
        if isinstance(dispatcher, BaseWSGIServer):
            dispatcher.channel_class = channel


def serve(application: Any, context: SSLContext, **options: Any) -> None:
    """Serve an application, as ``waitress.serve`` does.

    Args:
        application: WSGI.
        context: a server's.
        options: waitress' own, such as ``listen="*:8443"``.
    """
    server = waitress.create_server(application, url_scheme="https", **options)
    secure(server, context)
    server.run()
