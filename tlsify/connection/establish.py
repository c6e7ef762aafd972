"""Establish a connection: attach before the handshake, commit after it; kernel or relay."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, Self, TypeVar

from tlsify.config import ClientConfig, KtlsPolicy, ServerConfig
from tlsify.connection import commit
from tlsify.connection.relay import threads
from tlsify.connection.setup import handshake, keylog, session_store
from tlsify.connection.setup.dialing import closed_on_error
from tlsify.connection.setup.eligibility import attempt, cipher_refusal, host_refusal, offloadable
from tlsify.connection.setup.keepalive import keep_alive
from tlsify.connection.setup.plaintext import check_plaintext, refuse_kernel_tls
from tlsify.errors import ConfigError, KtlsUnavailable, ReasonCode, ResourceError
from tlsify.isolation import remote_engine
from tlsify.ktls import ulp
from tlsify.tls import connection_factory, context
from tlsify.tls.engine import Engine

if TYPE_CHECKING:
    from tlsify.codepoints import Aead
    from tlsify.connection.handoff import Handoff
    from tlsify.connection.setup.session_store import SessionSlot
    from tlsify.isolation.remote_engine import RemoteEngine

Role = TypeVar("Role", ClientConfig, ServerConfig)

_ROLES: dict[type, tuple[str, str]] = {
    ClientConfig: ("client", "make one of the server's name: ClientConfig.for_host"),
    ServerConfig: ("server", "make a ServerConfig of its certificate and key"),
}


def connect(sock: socket.socket, config: ClientConfig, policy: KtlsPolicy | None = None) -> Handoff:
    """Do a client's handshake and hand the connection over.

    Args:
        sock: connected TCP socket. tlsify takes the descriptor out of it, as `ssl` does: the object
            is closed from here on, and after any error so is the connection.
        config: identities to accept, trust anchors, versions.
        policy: when to offload; AUTO if None.

    Raises:
        ConfigError: the configuration or the socket is unusable; nothing was sent. A socket that is
            no connection, or has TLS already, is left as it was.
        IdentityError: the peer is not one of the accepted identities.
        HandshakeError: the handshake failed.
        DeadlineExceeded: the handshake took longer than ``config.timeout``.
        KtlsUnavailable: the policy requires the kernel, which cannot.
        KtlsCommitError: the kernel took one direction only.
        ResourceError: no thread or descriptor is available for a relay; the connection was cut.
        OSError: the connection broke.
    """
    of_role(config, ClientConfig)
    return hand_over(take(sock), config, policy)


def accept(sock: socket.socket, config: ServerConfig, policy: KtlsPolicy | None = None) -> Handoff:
    """Do a server's handshake on an accepted socket and hand the connection over.

    Arguments and errors are those of `connect`.
    """
    of_role(config, ServerConfig)
    return hand_over(take(sock), config, policy)


def of_role(config: object, wanted: type[Role]) -> Role:
    """Return a configuration that is one of a role.

    Raises:
        ConfigError: it is of the other role, or no configuration.
    """
    if isinstance(config, wanted):
        return config
    role, hint = _ROLES[wanted]
    given = type(config).__name__
    raise ConfigError(f"a {role} requires a {wanted.__name__}, not {given}", hint=hint)


def hand_over(
    sock: socket.socket, config: ClientConfig | ServerConfig, policy: KtlsPolicy | None
) -> Handoff:
    """Do a handshake on a socket of tlsify's own; arguments and errors are those of `connect`."""
    with (
        closed_on_error(sock),
        PendingConnection(sock, config, policy or KtlsPolicy()) as opening,
    ):
        handshake.run(sock, opening.engine, config.timeout)
        return opening.commit()


def take(sock: socket.socket) -> socket.socket:
    """Move the connection out of the caller's object, which the caller may close or drop.

    Raises:
        ConfigError: it is no connection that TLS can begin on.
    """
    check_plaintext(sock)
    timeout = sock.gettimeout()
    taken = socket.socket(fileno=sock.detach())
    taken.settimeout(timeout)
    return taken


class PendingConnection:
    """A connection between ``connect``/``accept`` and its hand-over.

    The ULP is attached before the handshake, so that a peer's early FIN cannot prevent it and
    availability is known before the first byte is written. Until the first key is installed any
    refusal leads to the relay; afterwards none does (design note 0003).
    """

    def __init__(
        self,
        sock: socket.socket,
        config: ClientConfig | ServerConfig,
        policy: KtlsPolicy,
        *,
        is_inline: bool = False,
    ) -> None:
        """Attach the ULP if the policy wants it, and start the engine.

        Args:
            sock: connected.
            config: decides the role.
            policy: when to offload.
            is_inline: whether the caller carries the data itself, if it is relayed (`InlineRelay`).

        Raises:
            KtlsUnavailable: the policy requires the kernel, which cannot.
            ConfigError: the configuration or the socket is unusable.
        """
        self._sock = sock
        self._policy = policy
        self._is_inline = is_inline
        self._key_log = config.key_log
        if self._key_log is not None:
            keylog.append(self._key_log, b"")  # whether it can be written must show now
        keep_alive(sock)
        # Of a peer that has ended its direction the handshake finds out what it has got to say.
        put_off = {ReasonCode.NOT_ESTABLISHED}
        self._refusal = attempt(policy, self._attach, config.aeads, put_off=put_off)
        if self._refusal is not None:
            refuse_kernel_tls(sock)  # others, `_attach` has refused
        aeads = config.aeads if self._refusal else offloadable(config.aeads, policy)
        self._slot = _slot(sock, config, aeads) if isinstance(config, ClientConfig) else None
        session = None if self._slot is None else self._slot.session
        # A connection that will be relayed needs no keys outside OpenSSL.
        wanted = self._refusal is None
        self.engine = _isolated(config, aeads) or Engine(
            config, aeads, session, time.monotonic(), keys=wanted
        )

    def __enter__(self) -> Self:
        """Make sure that there will be a thread for a relay.

        Raises:
            ResourceError: none is available, and the peer has heard nothing yet.
        """
        if self._refusal is not None and not self._is_inline:
            try:
                threads.hold(self)
            except ResourceError:
                self.engine.release()
                raise
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        """Let the thread go; wipe the keys of a handshake that has failed in its last flight."""
        threads.let_go(self)
        if failed is not None:
            if self.engine.keys is not None:
                self.engine.keys.wipe()
            self.engine.release()

    def commit(self) -> Handoff:
        """Install the keys, or start the relay (`tlsify.connection.commit`)."""
        ready = commit.Ready(
            self._sock,
            self.engine,
            self._policy,
            self._refusal,
            self._slot,
            self._key_log,
            self._is_inline,
        )
        return commit.commit(ready)

    def _attach(self, wanted: tuple[Aead, ...]) -> None:
        if (refusal := host_refusal(self._policy) or cipher_refusal(wanted)) is not None:
            raise refusal
        try:
            ulp.attach(self._sock)
        except KtlsUnavailable as exc:
            if exc.code == ReasonCode.NOT_ESTABLISHED:
                _raise_end(self._sock)
            raise


def _isolated(config: ClientConfig | ServerConfig, aeads: tuple[Aead, ...]) -> RemoteEngine | None:
    """Return a handshake that a key holder does, if another process has the server's keys."""
    if isinstance(config, ClientConfig):
        return None
    return config.engine(aeads) if isinstance(config, remote_engine.IsolatedServer) else None


def _raise_end(sock: socket.socket) -> None:
    """Raise the error of a reset connection instead of the kernel's refusal of it.

    Raises:
        OSError: the connection's own error.
    """
    if number := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        raise OSError(number, os.strerror(number))
    sock.getpeername()


def prepare(config: ServerConfig, policy: KtlsPolicy, previous: ServerConfig | None = None) -> None:
    """Make state that connections share, above all ticket keys, before workers are forked.

    Args:
        config: the server's.
        policy: when to offload.
        previous: the configuration that it replaces, whose tickets stay valid if possible
            (`context.succeed`).

    Raises:
        ConfigError: OpenSSL refuses a certificate, its key, or the groups; or the key log cannot
            be written.
    """
    if config.key_log is not None:
        keylog.append(config.key_log, b"")
    if previous is not None:
        context.succeed(previous, config)
    for aeads in choices(config, policy):
        connection_factory.prepare(config, aeads, time.monotonic())


def choices(config: ServerConfig, policy: KtlsPolicy) -> tuple[tuple[Aead, ...], ...]:
    """Return the record protection that a server's handshakes may negotiate, most wanted first."""
    if host_refusal(policy) is not None:
        return (config.aeads,)
    return tuple(dict.fromkeys((config.aeads, offloadable(config.aeads, policy))))


def drop_past_keys() -> None:
    """Drop expired ticket keys; for idle processes."""
    context.drop_past_keys(time.monotonic())


def _slot(sock: socket.socket, config: ClientConfig, aeads: tuple[Aead, ...]) -> SessionSlot | None:
    """Return a session to resume from the caller's store, if there is one."""
    if config.session_store is None:
        return None
    store = session_store.SessionStore(config.session_store)
    try:
        address = sock.getpeername()
    except OSError:  # gone already; the handshake will say so
        return None
    return store.slot(session_store.Origin.of(config, address, aeads))
