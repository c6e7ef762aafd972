"""uvicorn: a context made of its own settings."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

from tlsify.sslcontext.context import SSLContext

if TYPE_CHECKING:
    from collections.abc import Callable


def ssl_context_factory(config: Any, default: Callable[[], Any]) -> SSLContext:
    """Make tlsify's context in the place of uvicorn's, of ``ssl_certfile`` and the like.

    The loop has to be tlsify's, too: ``loop="tlsify.aio.loop:EventLoop"``.

    Args:
        config: uvicorn's.
        default: what would make uvicorn's own.

    Raises:
        ConfigError: a file is unusable.
    """
    del default
    context = SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(config.ssl_certfile, config.ssl_keyfile, config.ssl_keyfile_password)
    if config.ssl_ca_certs:
        context.load_verify_locations(config.ssl_ca_certs)
    context.verify_mode = ssl.VerifyMode(config.ssl_cert_reqs)
    if config.ssl_ciphers:
        context.set_ciphers(config.ssl_ciphers)
    context.set_alpn_protocols(["http/1.1"])
    context.server_config()  # whether it all fits together must show now
    return context
