"""Usability of a server certificate: OpenSSL takes it, and a handshake succeeds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from OpenSSL import SSL

from tlsify.codepoints import ProtocolVersion
from tlsify.config import ServerConfig
from tlsify.errors import ConfigError
from tlsify.tls.context import restrict, use_key_pair
from tlsify.tls.openssl import drain

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from tlsify.config import ClientConfig
    from tlsify.credentials.key_pair import KeyPair

_RSA_ENCRYPTION = "1.2.840.113549.1.1.1"
_EDDSA = ("1.3.101.112", "1.3.101.113")  # Ed25519, Ed448
# Those of RFC 8446 4.2.3, by their names in cryptography.
_CURVES = ("secp256r1", "secp384r1", "secp521r1")
_FLIGHTS = 4  # of each side, at most


def check(config: ClientConfig | ServerConfig) -> None:
    """Check every certificate and its key with OpenSSL, by a handshake in memory if in doubt.

    OpenSSL accepts some keys for which no signature can be negotiated; every handshake fails then.

    Raises:
        ConfigError: one of them is unusable.
    """
    more = config.more_key_pairs if isinstance(config, ServerConfig) else ()
    for pair in (config.key_pair, *more):
        if pair is None:
            continue
        server = SSL.Context(SSL.TLS_METHOD)
        use_key_pair(server, pair)
        # Every suite of TLS 1.3 goes with any key of these kinds, which the tests prove.
        if ProtocolVersion.TLSv1_3 in config.versions and _is_usual(pair):
            continue
        client = SSL.Context(SSL.TLS_METHOD)
        for context in (server, client):
            restrict(context, config.versions, config.aeads)
        if not _shake_hands(server, client):
            versions = " or ".join(version.label for version in sorted(config.versions))
            raise ConfigError(
                f"the certificate of {pair.subject} is unusable: {versions}, as configured,"
                f" cannot use its key ({_kind(pair)})",
                hint="use an RSA (2048 bits or more), EC (P-256, P-384 or P-521) or Ed25519 key",
            )


def _is_usual(pair: KeyPair) -> bool:
    oid = _algorithm(pair.chain[0])
    curve = getattr(pair.key, "curve", None)
    return oid == _RSA_ENCRYPTION or oid in _EDDSA or (curve is not None and curve.name in _CURVES)


def _kind(pair: KeyPair) -> str:
    curve = getattr(pair.key, "curve", None)
    if curve is not None:
        return str(curve.name)
    return "RSA" if _algorithm(pair.chain[0]) == _RSA_ENCRYPTION else "RSA-PSS"


def _algorithm(leaf: Certificate) -> str:
    return leaf.public_key_algorithm_oid.dotted_string


def _shake_hands(of_server: SSL.Context, of_client: SSL.Context) -> bool:
    """Do a handshake in memory without verification; return whether it succeeds."""
    server, client = SSL.Connection(of_server, None), SSL.Connection(of_client, None)
    server.set_accept_state()
    client.set_connect_state()
    for _ in range(_FLIGHTS):
        done = True
        for side, other in ((client, server), (server, client)):
            try:
                side.do_handshake()
            except SSL.WantReadError:
                done = False
            except SSL.Error:
                return False
            if said := drain(side):
                other.bio_write(said)
        if done:
            return True
    return False
