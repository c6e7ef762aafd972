"""Configuration -> OpenSSL Context, made once per configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias, cast
from weakref import WeakKeyDictionary

from OpenSSL import SSL, crypto

from tlsify.codepoints import Aead, CipherSuite, ProtocolVersion
from tlsify.config import ClientConfig, KeyPair, Lookup, ServerConfig, TrustAnchors
from tlsify.credentials import no_certificate
from tlsify.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cryptography import x509
    from OpenSSL.SSL import _NoOverlappingProtocols

_OPENSSL_VERSIONS = {
    ProtocolVersion.TLSv1_2: SSL.TLS1_2_VERSION,
    ProtocolVersion.TLSv1_3: SSL.TLS1_3_VERSION,
}
# Renegotiation cannot be carried out once the kernel has the keys.
_OPTIONS = SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION | SSL.OP_CIPHER_SERVER_PREFERENCE
# How long a server's ticket is good for, in seconds.
TICKET_LIFETIME = 7200
# A server's ticket key lives as long as its Context: OpenSSL makes it there and tells nobody. It
# opens every ticket sealed with it, so each period, in seconds, has a Context of its own. Those
# for the periods to come are made before workers are forked, which is how these come to share
# keys; together they last 32 days. One costs 0.35 ms and 22 KiB (measured, pyOpenSSL 26.4), a
# ring of them 22 ms and 1.4 MiB that the workers share. Later periods' keys are each process's own.
PERIOD = 12 * 3600
RING = 64
# How many trust anchors a server names to its clients, which may do without: each costs some 100
# bytes in every handshake.
_MAX_AUTHORITIES = 32


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


def _new_context(
    versions: Iterable[ProtocolVersion], aeads: Iterable[Aead], *, tickets: bool
) -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    numbers = [_OPENSSL_VERSIONS[version] for version in versions]
    context.set_min_proto_version(min(numbers))
    context.set_max_proto_version(max(numbers))
    # Unless told so, a server must not seal resumption state into tickets: silent state that
    # undoes forward secrecy. Resumed or not, TLS 1.3 exchanges fresh keys: that is OpenSSL's
    # default (no ALLOW_NO_DHE_KEX), as is that no early data is taken.
    context.set_options(_OPTIONS if tickets else _OPTIONS | SSL.OP_NO_TICKET)
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


def _use_trust(
    context: SSL.Context, trust: TrustAnchors, crls: Iterable[x509.CertificateRevocationList]
) -> None:
    store = context.get_cert_store() or crypto.X509Store()
    if trust.certificates is not None:
        for anchor in trust.certificates:
            store.add_cert(crypto.X509.from_cryptography(anchor))
    elif trust.lookup is not None:
        _use_lookup(store, trust.lookup)
    else:
        context.set_default_verify_paths()
    if trust.certificates is not None or (trust.lookup is not None and trust.lookup.chosen):
        # Whatever the caller names is an anchor, be it self-signed or not.
        store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    for crl in crls:
        store.add_crl(crl)
        # Where nobody has issued a list, Engine.on_certificate decides.
        store.set_flags(crypto.X509StoreFlags.CRL_CHECK | crypto.X509StoreFlags.CRL_CHECK_ALL)


def _use_lookup(store: crypto.X509Store, lookup: Lookup) -> None:
    for file in lookup.files:
        try:
            store.load_locations(file)
        except crypto.Error as exc:
            raise no_certificate(str(file)) from exc
    for folder in lookup.folders:
        store.load_locations(None, folder)


def _name_authorities(context: SSL.Context, trust: TrustAnchors) -> None:
    """Tell clients, which may have several certificates, whom to choose for (RFC 8446 4.2.4)."""
    for anchor in (trust.certificates or ())[:_MAX_AUTHORITIES]:
        context.add_client_ca(anchor)


def _client_context(config: ClientConfig, aeads: tuple[Aead, ...]) -> SSL.Context:
    context = _new_context(config.versions, aeads, tickets=config.session_store is not None)
    if config.verify:
        _use_trust(context, config.trust, config.crls)
    if config.verify or config.pins:
        context.set_verify(SSL.VERIFY_PEER, _verify)
    if config.alpn:
        context.set_alpn_protos(list(config.alpn))
    if config.key_pair is not None:
        _use_key_pair(context, config.key_pair)
    return context


def _server_context(config: ServerConfig, aeads: tuple[Aead, ...]) -> SSL.Context:
    context = _new_context(config.versions, aeads, tickets=config.resumption)
    _use_key_pair(context, config.key_pair)
    if config.client_trust is not None:
        required = SSL.VERIFY_FAIL_IF_NO_PEER_CERT if config.client_required else 0
        context.set_verify(SSL.VERIFY_PEER | required, _verify)
        _use_trust(context, config.client_trust, config.crls)
        _name_authorities(context, config.client_trust)
    if config.resumption:
        context.set_session_id(b"tlsify")  # OpenSSL wants one; its value matters to shared caches
        context.set_timeout(TICKET_LIFETIME)
    if config.alpn:
        context.set_alpn_select_callback(_select_alpn)
    return context


_Contexts: TypeAlias = dict[tuple[tuple[Aead, ...], int], SSL.Context]
_made: WeakKeyDictionary[ClientConfig | ServerConfig, _Contexts] = WeakKeyDictionary()


def context_for(
    config: ClientConfig | ServerConfig, aeads: tuple[Aead, ...], now: float = 0.0
) -> SSL.Context:
    """Give the Context of a configuration.

    Args:
        config: frozen, so that one Context serves all its connections; where a server resumes,
            one serves those of a period, and that of an earlier period is dropped.
        aeads: record protection to negotiate, most wanted first.
        now: seconds on a clock that all processes share and nobody sets back.

    Raises:
        ConfigError: OpenSSL refuses the certificate or key.
    """
    contexts = _made.setdefault(config, {})
    period = 0
    if _rotates(config):
        period = _period(now)
        _drop_before(contexts, period)
    return _at(contexts, config, aeads, period)


def prepare(config: ServerConfig, aeads: tuple[Aead, ...], now: float) -> None:
    """Make the Contexts of the periods to come, for the processes about to be forked to share.

    Arguments and errors are those of `context_for`. Where the server does not resume, this makes
    its one Context.
    """
    contexts = _made.setdefault(config, {})
    periods = range(_period(now), _period(now) + RING) if _rotates(config) else range(1)
    for period in periods:
        _at(contexts, config, aeads, period)


def drop_past_keys(now: float) -> None:
    """Drop the Contexts of past periods, and so their ticket keys.

    `context_for` does as much, but a process that only forks and waits, or that nobody connects
    to, must call this now and then, or the keys of a past period live on in it. A connection in
    userspace (`tunnel`) holds on to its own Context until it ends.
    """
    for config, contexts in list(_made.items()):
        if _rotates(config):
            _drop_before(contexts, _period(now))


def _rotates(config: ClientConfig | ServerConfig) -> bool:
    return isinstance(config, ServerConfig) and config.resumption


def _period(now: float) -> int:
    return int(now // PERIOD)


def _drop_before(contexts: _Contexts, period: int) -> None:
    for key in list(contexts):
        if key[1] < period:
            contexts.pop(key, None)


def _at(
    contexts: _Contexts, config: ClientConfig | ServerConfig, aeads: tuple[Aead, ...], period: int
) -> SSL.Context:
    found = contexts.get((aeads, period))
    if found is None:
        if isinstance(config, ClientConfig):
            found = _client_context(config, aeads)
        else:
            found = _server_context(config, aeads)
        # Another thread may have been quicker; there is one Context, or tickets would be refused.
        found = contexts.setdefault((aeads, period), found)
    return found
