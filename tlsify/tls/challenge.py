"""Challenges of ACME authorities by TLS-ALPN-01 (RFC 8737): a handshake, and no connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlsify.codepoints import AlertDescription
from tlsify.config import ClientConfig, ServerConfig
from tlsify.errors import HandshakeError, NoCertificate, PeerMisbehaved
from tlsify.tls.openssl import drain

if TYPE_CHECKING:
    from OpenSSL import SSL

    from tlsify.tls.client_hello import ClientHello

PROTOCOL = b"acme-tls/1"


class ChallengeAnswered(HandshakeError):
    """An ACME authority has looked at a challenge, which is no connection (RFC 8737)."""

    general_hint = "nothing is wrong: the authority goes on"


def answer(config: ClientConfig | ServerConfig, hello: ClientHello) -> ServerConfig | None:
    """Return the configuration that shows a challenge; None if the client wants a connection.

    Raises:
        PeerMisbehaved: it asks for a challenge, and none is pending for that name.
        NoCertificate: it wants a connection, and the certificate is still to come.
    """
    if isinstance(config, ClientConfig):
        return None
    if config.acme_challenge is not None and hello.alpn == (PROTOCOL,):
        name = (hello.server_name or "").removesuffix(".")
        found = config.acme_challenge(name)
        if found is not None:
            return found
        if PROTOCOL not in config.alpn:
            raise PeerMisbehaved(
                f"no ACME challenge is pending for {name or 'a client without a server name'}",
                alert=AlertDescription.no_application_protocol,
            )
    if config.provisional:
        msg = "the server has no certificate yet"
        raise NoCertificate(msg, alert=AlertDescription.internal_error)
    return None


def farewell(connection: SSL.Connection, name: str | None) -> tuple[bytes, ChallengeAnswered]:
    """Return the close_notify that ends a finished handshake, and the error that says so."""
    connection.shutdown()
    return drain(connection), ChallengeAnswered(f"answered an ACME challenge for {name}")
