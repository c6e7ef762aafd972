"""Configuration -> OpenSSL Context, made once per configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast
from weakref import WeakKeyDictionary

from OpenSSL import SSL, crypto

from tlsify.codepoints import Aead, CipherSuite, ProtocolVersion
from tlsify.config import ClientConfig, KeyPair, ServerConfig
from tlsify.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from OpenSSL.SSL import _NoOverlappingProtocols

_OPENSSL_VERSIONS = {
    ProtocolVersion.TLSv1_2: SSL.TLS1_2_VERSION,
    ProtocolVersion.TLSv1_3: SSL.TLS1_3_VERSION,
}
# Renegotiation cannot be carried out once the kernel has the keys. Without OP_NO_TICKET a server
# would seal resumption state into tickets: silent state that undoes forward secrecy.
_OPTIONS = (
    SSL.OP_NO_RENEGOTIATION
    | SSL.OP_NO_COMPRESSION
    | SSL.OP_NO_TICKET
    | SSL.OP_CIPHER_SERVER_PREFERENCE
)


class Observer(Protocol):
    """What an engine wants to hear of its own connection while OpenSSL works."""

    def on_key_log(self, line: bytes) -> None:
        """Take one NSS key log line."""

    def on_alert(self, *, sent: bool, description: int) -> None:
        """Take an alert that was read or written."""

    def on_certificate(
        self, certificate: crypto.X509, error: int, depth: int, *, valid: bool
    ) -> bool:
        """Judge one certificate of the peer's path; False ends the handshake."""

    def on_alpn(self, offered: list[bytes]) -> bytes | _NoOverlappingProtocols:
        """Choose a protocol, or give NO_OVERLAPPING_PROTOCOLS; raising is not allowed."""


def _observer(connection: SSL.Connection) -> Observer:
    return cast("Observer", connection.get_app_data())


def _key_log(connection: SSL.Connection, line: bytes) -> None:
    _observer(connection).on_key_log(line)


def _info(connection: SSL.Connection, where: int, value: int) -> None:
    if where & SSL.SSL_CB_ALERT:
        sent = bool(where & SSL.SSL_CB_WRITE)
        _observer(connection).on_alert(sent=sent, description=value & 0xFF)


def _verify(
    connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, valid: int
) -> bool:
    return _observer(connection).on_certificate(certificate, error, depth, valid=bool(valid))


def _select_alpn(
    connection: SSL.Connection, offered: list[bytes]
) -> bytes | _NoOverlappingProtocols:
    return _observer(connection).on_alpn(offered)


def _new_context(versions: Iterable[ProtocolVersion], aeads: Iterable[Aead]) -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    numbers = [_OPENSSL_VERSIONS[version] for version in versions]
    context.set_min_proto_version(min(numbers))
    context.set_max_proto_version(max(numbers))
    context.set_options(_OPTIONS)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_keylog_callback(_key_log)
    context.set_info_callback(_info)
    names: dict[ProtocolVersion, list[str]] = {version: [] for version in ProtocolVersion}
    for aead in aeads:
        for suite in CipherSuite:
            if suite.aead is aead:
                names[suite.version].append(suite.openssl_name)
    if names[ProtocolVersion.TLSv1_2]:
        context.set_cipher_list(":".join(names[ProtocolVersion.TLSv1_2]).encode())
    context.set_tls13_ciphersuites(":".join(names[ProtocolVersion.TLSv1_3]).encode())
    return context


def _use_key_pair(context: SSL.Context, key_pair: KeyPair) -> None:
    leaf, *rest = key_pair.chain
    try:
        context.use_certificate(leaf)
        for certificate in rest:
            context.add_extra_chain_cert(certificate)
        context.use_privatekey(key_pair.key)
    except SSL.Error as exc:
        raise ConfigError(
            "OpenSSL refuses the certificate or its key",
            hint="use an RSA (2048 bits or more), EC or Ed25519 key",
        ) from exc


def _client_context(config: ClientConfig, aeads: tuple[Aead, ...]) -> SSL.Context:
    context = _new_context(config.versions, aeads)
    if config.verify:
        context.set_verify(SSL.VERIFY_PEER, _verify)
        if config.trust.certificates is None:
            context.set_default_verify_paths()
        else:
            store = context.get_cert_store() or crypto.X509Store()
            # Whatever the caller names is an anchor, be it self-signed or not.
            store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
            for anchor in config.trust.certificates:
                store.add_cert(crypto.X509.from_cryptography(anchor))
    if config.alpn:
        context.set_alpn_protos(list(config.alpn))
    if config.key_pair is not None:
        _use_key_pair(context, config.key_pair)
    return context


def _server_context(config: ServerConfig, aeads: tuple[Aead, ...]) -> SSL.Context:
    context = _new_context(config.versions, aeads)
    _use_key_pair(context, config.key_pair)
    if config.alpn:
        context.set_alpn_select_callback(_select_alpn)
    return context


_made: WeakKeyDictionary[ClientConfig | ServerConfig, dict[tuple[Aead, ...], SSL.Context]] = (
    WeakKeyDictionary()
)


def context_for(config: ClientConfig | ServerConfig, aeads: tuple[Aead, ...]) -> SSL.Context:
    """Give the Context of a configuration.

    Args:
        config: frozen, so that one Context serves all its connections.
        aeads: record protection to negotiate, most wanted first.

    Raises:
        ConfigError: OpenSSL refuses the certificate or key.
    """
    contexts = _made.setdefault(config, {})
    if aeads not in contexts:
        if isinstance(config, ClientConfig):
            contexts[aeads] = _client_context(config, aeads)
        else:
            contexts[aeads] = _server_context(config, aeads)
    return contexts[aeads]
