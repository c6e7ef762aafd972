"""waitress: channels on connections whose handshakes its loop does not wait for."""

from __future__ import annotations

import logging
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
    from tlsify.connection.handoff import Handoff
    from tlsify.sslcontext.context import SSLContext


_log = logging.getLogger("tlsify")


class _Task(WSGITask):  # type: ignore[misc]
    """Tells the application of its connection."""

    def get_environment(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environment()
        environ.update(self.channel.variables)
        return environ


class _Channel(HTTPChannel):  # type: ignore[misc]
    """waitress' channel of a connection that is keyed already."""

    task_class = _Task

    def __init__(
        self, handshakes: Handshakes, handed: Handoff, *arguments: Any, **options: Any
    ) -> None:
        self.variables = variables(TLSInfo(handed))
        self._handshakes = handshakes
        server, *rest = arguments
        super().__init__(server, LoopSocket(handed), *rest, **options)

    def del_channel(self, map: dict[int, Any] | None = None) -> None:
        """Leave the poller, and the place to another connection."""
        super().del_channel(map)
        self._handshakes.look_again()


def secure(server: Any, context: SSLContext) -> None:
    """Make a server of ``waitress.create_server(app, url_scheme="https", ...)`` speak TLS.

    Raises:
        ConfigError: the context is unusable.
    """
    is_single = isinstance(server, BaseWSGIServer)
    connections = server._map if is_single else server.map  # noqa: SLF001 - as waitress has it

    def places() -> int:
        """Return how many handshakes waitress' own limit has room for."""
        return int(server.adj.connection_limit) - len(connections)

    handshakes = Handshakes(context, places)
    for each in list(connections.values()):
        if isinstance(each, BaseWSGIServer):
            each.set_socket_options(each.socket)  # which a connection inherits
            each.readable = partial(_begin, each, connections, handshakes)
            each.close = partial(_close, each, handshakes)


def _begin(server: Any, connections: dict[int, Any], handshakes: Handshakes) -> bool:
    """Begin to accept in the background, at the first turn of waitress' loop; return False.

    Newcomers wait as long as there are as many connections as waitress allows.
    """

    def handed_over(address: Any, handed: Handoff) -> None:
        # The loop's own thread makes the channel.
        channel = partial(_Channel, handshakes, handed, server, server.fix_addr(address))
        server.trigger.pull_trigger(partial(channel, server.adj, map=connections))

    try:
        handshakes.listen(server.socket, handed_over)
    except (RuntimeError, OSError) as exc:
        _log.warning("cannot accept, retrying: %s", exc)
        return False
    server.accepting = False  # waitress itself
    del server.readable
    return bool(server.readable())


def _close(server: Any, handshakes: Handshakes) -> None:
    handshakes.close()
    del server.close
    server.close()


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
