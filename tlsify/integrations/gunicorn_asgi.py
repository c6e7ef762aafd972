"""gunicorn: the ASGI worker, on tlsify's loop and with the ASGI TLS extension."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from gunicorn.workers.gasgi import ASGIWorker

from tlsify.aio.loop import EventLoop
from tlsify.integrations.asgi import TlsExtension
from tlsify.integrations.gunicorn import make_context

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlsify.sslcontext.context import SSLContext

_PROTOCOLS = {"h1": "http/1.1", "h2": "h2"}


def ssl_context(conf: Any, default: Callable[[], Any]) -> SSLContext:
    """Make a context of gunicorn's settings; a hook of its configuration.

    Raises:
        ConfigError: a file is unusable, or settings contradict each other.
    """
    del default
    context = make_context(conf)
    wanted = [_PROTOCOLS[name] for name in conf.http_protocols if name in _PROTOCOLS]
    context.set_alpn_protocols(wanted)
    return context


class Worker(ASGIWorker):  # type: ignore[misc]
    """gunicorn's ASGI worker, with kernel TLS."""

    def init_process(self) -> None:
        """Use tlsify's context, unless the configuration has a hook of its own."""
        setting = self.cfg.settings["ssl_context"]
        if setting.get() is setting.default:
            self.cfg.set("ssl_context", ssl_context)
        super().init_process()

    def _setup_event_loop(self) -> None:
        if self.cfg.asgi_loop == "uvloop":
            from tlsify.integrations import uvloop  # noqa: PLC0415 - may not be installed

            self.loop: asyncio.AbstractEventLoop = uvloop.EventLoop()
        else:
            self.loop = EventLoop()
        asyncio.set_event_loop(self.loop)

    def load_wsgi(self) -> None:
        """Load the application, and tell it of its connections."""
        super().load_wsgi()
        application: Any = self.asgi  # type: ignore[has-type]
        self.asgi = TlsExtension(application)
