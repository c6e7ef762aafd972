"""TLS to backends: their configurations, and the handshakes with them."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING

from tlsify.aio.handshake import hand_over
from tlsify.aio.outcomes import FAILURES, name_of, outcome
from tlsify.aio.starttls import upgrade
from tlsify.connection.plain import Plain
from tlsify.connection.setup.dialing import closed_on_error
from tlsify.metrics.counters import Event, backend_handshake
from tlsify.starttls.greetings import greeting

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from tlsify.config import ClientConfig, KtlsPolicy
    from tlsify.connection.handoff import Handoff
    from tlsify.serving.backend.address import Backend


class Security:
    """Does the handshakes with backends that speak TLS."""

    def __init__(self, configs: Mapping[Backend, ClientConfig], policy: KtlsPolicy) -> None:
        """Store the settings.

        Args:
            configs: for each backend with TLS. Where one offers no ALPN protocol, the client's own
                is passed on.
            policy: when to offload.
        """
        self._configs = dict(configs)
        self._policy = policy
        self._with_alpn: dict[tuple[Backend, bytes], ClientConfig] = {}

    async def connect(
        self,
        backend: Backend,
        seconds: float,
        header: bytes = b"",
        alpn: bytes | None = None,
        *,
        is_inline: bool = False,
    ) -> tuple[Handoff | Plain, bytes]:
        """Connect to a backend, with TLS if it speaks it.

        Args:
            backend: which.
            seconds: limit for all of it.
            header: what it gets first, in front of TLS.
            alpn: as for `hand_over`.
            is_inline: likewise.

        Returns:
            The connection, and what the client is to get first.

        Raises:
            As `hand_over`.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        sock = await backend.connect(seconds)
        try:
            await loop.sock_sendall(sock, header)
            if not backend.is_tls:
                return Plain(sock), b""
            left = seconds - (loop.time() - began)
            handed = await self.hand_over(backend, sock, alpn, left, is_inline=is_inline)
        except BaseException:
            sock.close()
            raise
        return handed, greeting(backend.starttls)

    async def hand_over(
        self,
        backend: Backend,
        sock: socket.socket,
        alpn: bytes | None,
        seconds: float,
        *,
        is_inline: bool = False,
    ) -> Handoff:
        """Do the handshake with a backend.

        Args:
            backend: which.
            sock: connected to it; it belongs to this call.
            alpn: protocol that was agreed on with the client, or None.
            seconds: limit for it.
            is_inline: as `aio.handshake.hand_over` has it.

        Raises:
            As `aio.handshake.hand_over`.
        """
        config, loop = self._config(backend, alpn), asyncio.get_running_loop()
        end = loop.time() + seconds
        try:
            if backend.starttls:
                name = config.server_name or backend.host
                with closed_on_error(sock):
                    await upgrade(sock, backend.starttls, name, seconds)
            left = end - loop.time()
            handed = await hand_over(sock, config, self._policy, left, is_inline=is_inline)
        except FAILURES as exc:
            backend_handshake(name_of(outcome(exc)))
            raise
        backend_handshake(name_of(Event.HANDSHAKE_OK))
        return handed

    def _config(self, backend: Backend, alpn: bytes | None) -> ClientConfig:
        """Return a backend's configuration; the same one each time, since it has an OpenSSL one."""
        config = self._configs[backend]
        if alpn is None or config.alpn:
            return config
        if (backend, alpn) not in self._with_alpn:
            made = dataclasses.replace(config, alpn=(alpn,))
            self._with_alpn[backend, alpn] = made
        return self._with_alpn[backend, alpn]
