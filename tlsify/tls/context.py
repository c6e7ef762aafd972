"""Configuration -> OpenSSL Contexts, made once per configuration."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

from cryptography import x509
from OpenSSL import SSL, crypto

from tlsify.codepoints import Aead, CipherSuite, NamedGroup, ProtocolVersion
from tlsify.config import ClientConfig, ServerConfig
from tlsify.credentials.pem import as_file, malformed
from tlsify.errors import ConfigError
from tlsify.tls.certificates import digest_of_anchors, load
from tlsify.tls.openssl import log_keys, observe_all, set_groups, share_trust

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from OpenSSL.SSL import _NoOverlappingProtocols

    from tlsify.credentials.anchors import Lookup, TrustAnchors
    from tlsify.credentials.key_pair import KeyPair

_OPENSSL_VERSIONS = {
    ProtocolVersion.TLSv1_2: SSL.TLS1_2_VERSION,
    ProtocolVersion.TLSv1_3: SSL.TLS1_3_VERSION,
}
# Renegotiation cannot be carried out once the kernel has the keys.
_OPTIONS = SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION | SSL.OP_CIPHER_SERVER_PREFERENCE
# How long a server's ticket is good for, in seconds.
TICKET_LIFETIME = 7200
# And an unrequested one, which OpenSSL sends nevertheless.
_UNWANTED_LIFETIME = 1
# A server's ticket key lives as long as its Context: OpenSSL makes it there and hides it. It
# opens every ticket sealed with it, so each period, in seconds, has a Context of its own. Those
# for the periods to come are made before workers are forked, which is how these come to share
# keys; together they last 32 days. One costs 0.35 ms and 22 KiB (measured, pyOpenSSL 26.4), a
# ring of them 22 ms and 1.4 MiB that the workers share. Later periods' keys are each process's own.
PERIOD = 12 * 3600
RING = 64
# How many trust anchors a server names to its clients: each costs 100 bytes in every handshake.
_MAX_AUTHORITIES = 32


class Observer(Protocol):
    """Events of an engine's own connection while OpenSSL works."""

    def on_key_log(self, line: bytes) -> None:
        """Receive one NSS key log line."""

    def on_alert(self, *, sent: bool, description: int) -> None:
        """Receive an alert that was read or written."""

    def on_message(self) -> None:
        """Record that OpenSSL has finished its handshake, or a message after that."""

    def on_certificate(
        self, certificate: crypto.X509, error: int, depth: int, *, valid: bool
    ) -> bool:
        """Check one certificate of the peer's path; return False to end the handshake."""

    def on_alpn(self, offered: list[bytes]) -> bytes | _NoOverlappingProtocols:
        """Choose a protocol, or return NO_OVERLAPPING_PROTOCOLS; it must not raise."""


def _verify(
    connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, valid: int
) -> bool:
    observer: Observer = connection.get_app_data()
    return observer.on_certificate(certificate, error, depth, valid=bool(valid))


def _select_alpn(
    connection: SSL.Connection, offered: list[bytes]
) -> bytes | _NoOverlappingProtocols:
    observer: Observer = connection.get_app_data()
    return observer.on_alpn(offered)


def _new_context(
    config: ClientConfig | ServerConfig, aeads: Iterable[Aead], *, tickets: bool
) -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    restrict(context, config.versions, aeads)
    # Unless told so, a server must not seal resumption state into tickets: silent state that
    # undoes forward secrecy. Resumed or not, TLS 1.3 exchanges fresh keys: that is OpenSSL's
    # default (no ALLOW_NO_DHE_KEX), as is that no early data is taken.
    context.set_options(_OPTIONS if tickets else _OPTIONS | SSL.OP_NO_TICKET)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    observe_all(context)
    log_keys(context, whole=config.key_log is not None)
    _use_groups(context, config.groups)
    return context


def restrict(
    context: SSL.Context, versions: Iterable[ProtocolVersion], aeads: Iterable[Aead]
) -> None:
    """Restrict a Context to these versions and suites, record protection in this order."""
    numbers = [_OPENSSL_VERSIONS[version] for version in versions]
    context.set_min_proto_version(min(numbers))
    context.set_max_proto_version(max(numbers))
    names: dict[ProtocolVersion, list[str]] = {version: [] for version in ProtocolVersion}
    for aead in aeads:
        for suite in CipherSuite:
            if suite.aead is aead:
                names[suite.version].append(suite.openssl_name)
    if names[ProtocolVersion.TLSv1_2]:
        context.set_cipher_list(":".join(names[ProtocolVersion.TLSv1_2]).encode())
    context.set_tls13_ciphersuites(":".join(names[ProtocolVersion.TLSv1_3]).encode())


def _use_groups(context: SSL.Context, wanted: Iterable[str]) -> None:
    names = [group.name for group in map(NamedGroup.parse, wanted) if group is not None]
    if names and not set_groups(context, names):
        known = [group.name for group in NamedGroup if set_groups(context, [group.name])]
        raise ConfigError(
            f"OpenSSL cannot use the groups {', '.join(names)}",
            hint=f"it can use {', '.join(known)}",
        )


def use_key_pair(context: SSL.Context, key_pair: KeyPair, *, among_others: bool = False) -> None:
    """Add a certificate to a Context, besides certificates of other key types.

    Raises:
        ConfigError: OpenSSL refuses it, or its key.
    """
    leaf, *rest = key_pair.chain
    try:
        if among_others:
            # Only of a file does OpenSSL keep a chain for each certificate.
            with as_file(key_pair.certificate_pem()) as path:
                context.use_certificate_chain_file(path)
        else:
            context.use_certificate(leaf)
            for certificate in rest:
                context.add_extra_chain_cert(certificate)
        context.use_privatekey(key_pair.key)
    except (SSL.Error, crypto.Error) as exc:
        raise ConfigError(
            f"OpenSSL refuses the certificate of {key_pair.subject}, or its key",
            hint="use an RSA (2048 bits or more), EC (P-256, P-384 or P-521) or Ed25519 key",
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
        # For a certificate without its issuer's list, Engine.on_certificate decides.
        store.set_flags(crypto.X509StoreFlags.CRL_CHECK | crypto.X509StoreFlags.CRL_CHECK_ALL)


def _use_lookup(store: crypto.X509Store, lookup: Lookup) -> None:
    for anchor in lookup.anchors:
        try:
            store.add_cert(load(anchor.der))
        except ValueError as exc:
            raise malformed(anchor.source) from exc
    for file in lookup.files:
        try:
            store.load_locations(file)
        except crypto.Error as exc:
            raise malformed(str(file)) from exc
    for folder in lookup.folders:
        store.load_locations(None, folder)


def _name_authorities(context: SSL.Context, trust: TrustAnchors) -> None:
    """Send the authorities' names, by which clients choose a certificate (RFC 8446 4.2.4)."""
    for certificate in (trust.certificates or ())[:_MAX_AUTHORITIES]:
        context.add_client_ca(certificate)
    for anchor in (trust.lookup.anchors if trust.lookup else ())[:_MAX_AUTHORITIES]:
        # What only OpenSSL understands is trusted all the same; its name is a mere hint.
        with contextlib.suppress(ValueError, x509.InvalidVersion):
            context.add_client_ca(x509.load_der_x509_certificate(anchor.der))


def _client_context(config: ClientConfig, aeads: tuple[Aead, ...]) -> SSL.Context:
    context = _new_context(config, aeads, tickets=config.session_store is not None)
    if config.verify:
        if config.session_store is not None:
            digest_of_anchors(config.trust)  # before the system's store is read: sessions keep it
        _use_trust(context, config.trust, config.crls)
    if config.verify or config.pins:
        context.set_verify(SSL.VERIFY_PEER, _verify)
    if config.alpn:
        context.set_alpn_protos(list(config.alpn))
    if config.key_pair is not None:
        use_key_pair(context, config.key_pair)
    return context


def _server_context(config: ServerConfig, aeads: tuple[Aead, ...]) -> SSL.Context:
    """Make a server's Context without certificates and client verification."""
    context = _new_context(config, aeads, tickets=config.resumption)
    if config.client_trust is not None:
        required = SSL.VERIFY_FAIL_IF_NO_PEER_CERT if config.client_required else 0
        context.set_verify(SSL.VERIFY_PEER | required, _verify)
    # Where nothing is resumed OpenSSL makes TLS 1.3 tickets all the same: SSL_CTX_set_num_tickets
    # has no name in pyOpenSSL. Clients are told not to keep them; 0 would be OpenSSL's default.
    context.set_timeout(TICKET_LIFETIME if config.resumption else _UNWANTED_LIFETIME)
    context.set_session_id(b"tlsify")  # of no connection: each gets another one (unbound.move)
    return context


def showing(
    config: ServerConfig,
    aeads: tuple[Aead, ...],
    key_pairs: Sequence[KeyPair],
    clients: SSL.Context | None,
) -> SSL.Context:
    """Make a Context that a server's connections are moved to, to show certificates.

    Args:
        config: the connections' configuration.
        aeads: what they began with.
        key_pairs: one for each kind of key; OpenSSL chooses among them.
        clients: what `judging_clients` gives for the configuration.

    Raises:
        ConfigError: OpenSSL refuses a certificate or its key.
    """
    context = _new_context(config, aeads, tickets=config.resumption)
    for key_pair in key_pairs:
        use_key_pair(context, key_pair, among_others=len(key_pairs) > 1)
    if config.client_trust is not None:
        if clients is None or not share_trust(context, clients):
            _use_trust(context, config.client_trust, config.crls)
        _name_authorities(context, config.client_trust)
    if config.alpn:
        context.set_alpn_select_callback(_select_alpn)
    if any(key_pair.ocsp is not None for key_pair in key_pairs):
        context.set_ocsp_server_callback(_staple, tuple(key_pairs))
    return context


def _staple(connection: SSL.Connection, key_pairs: Sequence[KeyPair] | None) -> bytes:
    """Return the response for the certificate that OpenSSL has chosen; none leaves it out."""
    shown = connection.get_certificate(as_cryptography=True)
    for key_pair in key_pairs or ():
        if key_pair.chain[0] == shown:
            return key_pair.staple() or b""
    return b""


def judging_clients(config: ServerConfig) -> SSL.Context | None:
    """Make a Context that has what clients are verified with; None if they are not asked."""
    if config.client_trust is None:
        return None
    context = SSL.Context(SSL.TLS_METHOD)
    _use_trust(context, config.client_trust, config.crls)
    return context


class Contexts(dict[tuple[tuple[Aead, ...], int], SSL.Context]):
    """Those of a configuration, by record protection and period."""

    oldest = 0  # the first period that there may be one of
    shown: Any = None  # what a server's connections show (`connection_factory`)


_made: WeakKeyDictionary[ClientConfig | ServerConfig, Contexts] = WeakKeyDictionary()


def current(
    contexts: Contexts, config: ClientConfig | ServerConfig, aeads: tuple[Aead, ...], now: float
) -> SSL.Context:
    """Return the Context that connections of a configuration begin with.

    Args:
        contexts: the configuration's (`contexts_of`).
        config: frozen, so that one Context serves all its connections; where a server resumes,
            one serves those of a period, and that of an earlier period is dropped.
        aeads: record protection to negotiate, most wanted first.
        now: seconds on a clock that all processes share and that never goes back.

    Raises:
        ConfigError: OpenSSL refuses a client's certificate or key, or the groups.
    """
    period = 0
    if _rotates(config):
        period = _period(now)
        _drop_before(contexts, period)
    return contexts.get((aeads, period)) or _at(contexts, config, aeads, period)


def prepare(config: ServerConfig, aeads: tuple[Aead, ...], now: float) -> None:
    """Make the Contexts of the periods to come, for the processes about to be forked to share.

    Arguments and errors are those of `current`. Without resumption this makes one Context.
    """
    contexts = contexts_of(config)
    periods = range(_period(now), _period(now) + RING) if _rotates(config) else range(1)
    for period in periods:
        _at(contexts, config, aeads, period)


def succeed(previous: ServerConfig, config: ServerConfig) -> bool:
    """Make a configuration accept the tickets of the one that it replaces.

    Their keys then live on in it for as long as they would have. A single ticket is still refused
    where the name, or what is asked of clients, has changed (`connections`).

    Returns:
        Whether it does: one of the two may not resume at all, or versions or groups, or whether
        clients are asked for a certificate, may have changed.
    """
    is_same = _rotates(previous) and _essence(previous) == _essence(config)
    if is_same:
        contexts = contexts_of(config)
        for key, context in list(contexts_of(previous).items()):
            contexts.oldest = min(contexts.oldest, key[1])
            contexts.setdefault(key, context)
    return is_same


def _essence(config: ServerConfig) -> tuple[object, ...]:
    """Return all that is in the Context that connections begin with, apart from ciphers."""
    asks = config.client_trust is not None, config.client_required
    return config.resumption, config.versions, config.groups, *asks


def drop_past_keys(now: float) -> None:
    """Drop the Contexts of past periods, and so their ticket keys.

    `current` does as much, but a process that only forks and waits, or has no connections, must
    call this now and then, or the keys of a past period live on in it. A connection in userspace
    (`tunnel`) holds on to its own Context until it ends.
    """
    for config, contexts in list(_made.items()):
        if _rotates(config):
            _drop_before(contexts, _period(now))


def _rotates(config: ClientConfig | ServerConfig) -> bool:
    return isinstance(config, ServerConfig) and config.resumption


def _period(now: float) -> int:
    return int(now // PERIOD)


def contexts_of(config: ClientConfig | ServerConfig) -> Contexts:
    """Return what the connections of a configuration share."""
    found = _made.get(config)
    return _made.setdefault(config, Contexts()) if found is None else found


def _drop_before(contexts: Contexts, period: int) -> None:
    if contexts.oldest < period:
        contexts.oldest = period
        for key in list(contexts):
            if key[1] < period:
                contexts.pop(key, None)


def _at(
    contexts: Contexts, config: ClientConfig | ServerConfig, aeads: tuple[Aead, ...], period: int
) -> SSL.Context:
    found = contexts.get((aeads, period))
    if found is None:
        if isinstance(config, ClientConfig):
            found = _client_context(config, aeads)
        else:
            found = _server_context(config, aeads)
        contexts.oldest = min(contexts.oldest, period)
        # Another thread may have been quicker; there is one Context, or tickets would be refused.
        found = contexts.setdefault((aeads, period), found)
    return found
