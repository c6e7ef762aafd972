"""A configuration's OpenSSL connections: certificates, verification, valid tickets."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from OpenSSL import SSL

from tlsify.config import ServerConfig
from tlsify.credentials.parse import encoded
from tlsify.tls import context as contexts
from tlsify.tls.certificates import digest, digest_of_anchors
from tlsify.tls.openssl import move
from tlsify.tls.showable import check
from tlsify.tls.sni import Choice, Group

if TYPE_CHECKING:
    from tlsify.codepoints import Aead
    from tlsify.config import ClientConfig

# How many of the names are remembered that clients ask for.
_MOST_NAMES = 256


class Connections:
    """Makes the connections of one configuration, in one period of its ticket keys."""

    def __init__(
        self, config: ClientConfig | ServerConfig, aeads: tuple[Aead, ...], now: float = 0.0
    ) -> None:
        """Make what they have in common, as `context.current` takes it.

        Raises:
            ConfigError: OpenSSL refuses a certificate, its key, or the groups.
        """
        self._config = config
        self._aeads = aeads
        shared = contexts.contexts_of(config)
        # First, since an unusable certificate must show before a client does.
        if isinstance(config, ServerConfig):
            shared.shown = shared.shown or _Shown(config)
        elif config.key_pair is not None:
            check(config)
        self._shown: _Shown | None = shared.shown
        self._base = contexts.current(shared, config, aeads, now)

    def make(self, server_name: str | None = None) -> SSL.Connection:
        """Make one; a server's shows its certificate for the name that the client asks for."""
        connection = _Connection(self._base, None)
        # Until it ends: its callbacks are there, and its ticket keys.
        connection.begun_with = self._base
        if self._shown is not None and isinstance(self._config, ServerConfig):
            self._shown.dress(connection, self._config, self._aeads, server_name)
        return connection


class _Connection(SSL.Connection):
    begun_with: SSL.Context


class _Asked(NamedTuple):
    """What there is for a name: certificates, Contexts to show them, what tells tickets apart."""

    group: Group
    idle: list[SSL.Context]
    purpose: bytes


class _Shown:
    """Certificates and client verification of a server's connections."""

    def __init__(self, config: ServerConfig) -> None:
        check(config)
        self._choice = Choice(config.key_pair, config.more_key_pairs)
        self._clients = _digest_of_clients(config)  # before the system's store is read
        self._judging = contexts.judging_clients(config)
        # A thousand certificates need no Context each before a client asks for them. Only a caller
        # that has taken one out of its list may use it (`openssl.move`).
        self._idle: dict[tuple[tuple[Aead, ...], Group], list[SSL.Context]] = {}
        self._asked: dict[tuple[tuple[Aead, ...], str], _Asked] = {}

    def dress(
        self,
        connection: SSL.Connection,
        config: ServerConfig,
        aeads: tuple[Aead, ...],
        server_name: str | None,
    ) -> None:
        """Show the certificate for a name.

        A ticket is good for the name that it was given under (RFC 6066 3), as long as there is a
        certificate for it or has never been one, and for the same demands on clients.
        """
        name = server_name or ""
        found = self._asked.get((aeads, name))
        if found is None:
            group, is_ours = self._choice.find(server_name)
            idle = self._idle.setdefault((aeads, group), [])
            if len(self._asked) >= _MOST_NAMES:
                self._asked.clear()
            found = _Asked(group, idle, _purpose(self._clients, name, is_ours=is_ours))
            self._asked[aeads, name] = found
        group, idle, purpose = found
        try:
            context = idle.pop()
        except IndexError:
            context = contexts.showing(config, aeads, group, self._judging)
        move(connection, context, purpose)
        idle.append(context)


def _purpose(clients: bytes, name: str, *, is_ours: bool) -> bytes:
    """Return a digest that separates the tickets of one name from others."""
    return digest(clients, bytes([is_ours]), name.encode())


def prepare(config: ServerConfig, aeads: tuple[Aead, ...], now: float) -> None:
    """Make the state that forked processes share, as `context.prepare` does.

    Raises:
        ConfigError: OpenSSL refuses a certificate, its key, or the groups.
    """
    contexts.prepare(config, aeads, now)
    Connections(config, aeads, now).make()


def _digest_of_clients(config: ServerConfig) -> bytes:
    """Return a digest of the demands on clients, since a resumption verifies no path."""
    if config.client_trust is None:
        return b""
    return digest(
        bytes([config.client_required, config.crl_check_all]),
        digest_of_anchors(config.client_trust),
        digest(*sorted(str(identity).encode() for identity in config.client_identities)),
        digest(*sorted(map(encoded, config.crls))),
    )
