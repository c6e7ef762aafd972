"""asyncio: the handshake on the loop, a plain transport afterwards."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tlsify.aio.acceptor import Acceptor, Limits
    from tlsify.aio.handshake import hand_over
    from tlsify.aio.loop import EventLoop, new_event_loop
    from tlsify.aio.server import Server, create_server, start_server
    from tlsify.aio.streams import create_connection, open_connection, start_tls
    from tlsify.aio.transport import attach, current, sendfile

_HOMES = {
    "acceptor": ("Acceptor", "Limits"),
    "loop": ("EventLoop", "new_event_loop"),
    "handshake": ("hand_over",),
    "server": ("Server", "create_server", "start_server"),
    "streams": ("create_connection", "open_connection", "start_tls"),
    "transport": ("attach", "current", "sendfile"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "open_connection",
    "create_connection",
    "start_server",
    "create_server",
    "Server",
    "start_tls",
    "sendfile",
    "current",
    "EventLoop",
    "new_event_loop",
    "Acceptor",
    "Limits",
    "attach",
    "hand_over",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, as the package above does."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'tlsify.aio' has no attribute {name!r}")
    return getattr(import_module(f"tlsify.aio.{_HOME_OF[name]}"), name)
