"""ASGI: TLS properties in an application's scope, behind servers that do not provide them."""

from __future__ import annotations

import ssl
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tlsify.aio.transport import current
from tlsify.sslcontext.facts import TLSInfo

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tlsify.connection.handoff import Handoff
    from tlsify.tls.negotiated import Negotiated


class TlsExtension:
    """Middleware: puts the ASGI TLS extension into the scope of every TLS connection.

    ``scope["extensions"]["tls"]`` has what the extension's text names, version 0.2: ``server_cert``
    (always None), ``client_cert_chain`` (to the anchor, if it is known), ``client_cert_name``,
    ``client_cert_error``, ``tls_version``, ``cipher_suite``; and of ours ``ktls``, `TLSInfo.ktls`.
    """

    def __init__(self, application: Callable[..., Awaitable[None]]) -> None:
        """Store the wrapped application."""
        self._application = application

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Call the application, with the extension in its scope."""
        handed = current()
        if handed is not None and scope["type"] != "lifespan":
            extensions = {**(scope.get("extensions") or {}), "tls": describe(handed)}
            scope = {**scope, "extensions": extensions}
        await self._application(scope, receive, send)


def describe(handed: Handoff) -> dict[str, Any]:
    """Return the extension's fields for a connection."""
    negotiated = handed.negotiated
    name, chain = _client(negotiated)
    return {
        "server_cert": None,
        "client_cert_chain": chain,
        "client_cert_name": name,
        "client_cert_error": None,
        "tls_version": int(negotiated.version),
        "cipher_suite": negotiated.suite.value.number,
        "ktls": TLSInfo(handed).ktls,
    }


@lru_cache
def _client(negotiated: Negotiated) -> tuple[str | None, tuple[str, ...]]:
    """Return the name in the client's certificate and its chain; parsed once for many requests."""
    if negotiated.certificate is None:
        return None, ()
    chain = negotiated.chain or (negotiated.certificate,)
    return negotiated.peer_subject, tuple(map(ssl.DER_cert_to_PEM_cert, chain))
