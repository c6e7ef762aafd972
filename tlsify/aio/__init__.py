"""asyncio: the handshake on the loop, a plain transport afterwards."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tlsify.aio.acceptor import Acceptor as Acceptor
    from tlsify.aio.handshake import hand_over as hand_over
    from tlsify.aio.limits import Limits as Limits
    from tlsify.aio.loop import EventLoop as EventLoop
    from tlsify.aio.loop import new_event_loop as new_event_loop
    from tlsify.aio.server import (
        Server as Server,
    )
    from tlsify.aio.server import (
        create_server as create_server,
    )
    from tlsify.aio.server import (
        start_server as start_server,
    )
    from tlsify.aio.streams import (
        create_connection as create_connection,
    )
    from tlsify.aio.streams import (
        open_connection as open_connection,
    )
    from tlsify.aio.streams import (
        start_tls as start_tls,
    )
    from tlsify.aio.transport import attach as attach
    from tlsify.aio.transport import current as current
    from tlsify.aio.transport import sendfile as sendfile

_HOMES = {
    "streams": ("open_connection", "create_connection", "start_tls"),
    "server": ("start_server", "create_server", "Server"),
    "transport": ("sendfile", "current", "attach"),
    "loop": ("EventLoop", "new_event_loop"),
    "acceptor": ("Acceptor",),
    "limits": ("Limits",),
    "handshake": ("hand_over",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = list(_HOME_OF)


def __getattr__(name: str) -> Any:
    """Import a public name on first use, as the package above does."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'tlsify.aio' has no attribute {name!r}")
    return getattr(import_module(f"tlsify.aio.{_HOME_OF[name]}"), name)
