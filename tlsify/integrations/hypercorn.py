"""hypercorn: its configuration with tlsify's context, and its server on tlsify's loop."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

from hypercorn.asyncio import serve
from hypercorn.config import Config as _Config

from tlsify.aio.loop import EventLoop
from tlsify.config import KtlsPolicy
from tlsify.sslcontext.context import SSLContext


class Config(_Config):
    """hypercorn's configuration, whose certificate is shown by tlsify.

    Attributes:
        policy: when to give the keys to the kernel.
    """

    policy = KtlsPolicy()

    def create_ssl_context(self) -> ssl.SSLContext | None:
        """Make a context of the settings that hypercorn makes its own of.

        Raises:
            ConfigError: a file is unusable.
        """
        if self.certfile is None or self.keyfile is None:
            return None
        context = SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certfile, self.keyfile, self.keyfile_password)
        context.set_ciphers(self.ciphers)
        context.set_alpn_protocols(self.alpn_protocols)
        if self.ca_certs is not None:
            context.load_verify_locations(self.ca_certs)
        if self.verify_mode is not None:
            context.verify_mode = self.verify_mode
        if self.verify_flags is not None:
            context.verify_flags = self.verify_flags
        context.policy = self.policy
        context.server_config()  # whether it all fits together must show now
        return context


def run(application: Any, config: Config, **options: Any) -> None:
    """Serve until SIGTERM or SIGINT; ``options`` are those of ``hypercorn.asyncio.serve``."""
    with asyncio.Runner(loop_factory=EventLoop) as runner:
        runner.run(serve(application, config, **options))
