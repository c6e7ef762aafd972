"""SSLContext: made and used as Python's `ssl.SSLContext`, for connections that tlsify makes."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from tlsify.config import ClientConfig, KtlsPolicy, ServerConfig, check_timeout
from tlsify.connection.establish import prepare
from tlsify.connection.setup.dialing import closed_on_error
from tlsify.connection.stream import TLSSocket
from tlsify.credentials.anchors import TrustAnchors
from tlsify.errors import ConfigError
from tlsify.names import ReferenceIdentifier, canonical
from tlsify.sslcontext.answers import NO_SESSION
from tlsify.sslcontext.errors import setting
from tlsify.sslcontext.object import SSLObject
from tlsify.sslcontext.settings import Settings
from tlsify.sslcontext.socket import SSLSocket

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed import StrOrBytesPath

    from tlsify.sslcontext.object import MemoryBIO

_log = logging.getLogger("tlsify")

# How many servers' configurations a client keeps.
_CLIENTS = 64
_CRL_CHECK = ssl.VERIFY_CRL_CHECK_LEAF | ssl.VERIFY_CRL_CHECK_CHAIN
# All that may be asked for; docs/sslcontext.md says so. VERIFY_X509_TRUSTED_FIRST always holds.
_VERIFY_FLAGS = _CRL_CHECK | ssl.VERIFY_X509_TRUSTED_FIRST | ssl.VERIFY_X509_PARTIAL_CHAIN
_CLIENT_CERT: dict[str, ssl.VerifyMode] = {
    "none": ssl.CERT_NONE,
    "request": ssl.CERT_OPTIONAL,
    "require": ssl.CERT_REQUIRED,
}


class SSLContext(Settings):
    """A context for programs that use Python's own.

    Settings are honoured or refused, never ignored; docs/sslcontext.md has the list. Connections
    are TLS 1.2 or 1.3 with the suites that the kernel knows, and are offloaded where it can.

    Attributes:
        policy: when to offload.
        resumption: whether a server sends tickets (`ServerConfig.resumption`).
        identities: identities to accept: by a client instead of the ``server_hostname``, by a
            server that requests certificates instead of any.
    """

    sslsocket_class = cast("type[ssl.SSLSocket]", SSLSocket)
    sslobject_class = cast("type[ssl.SSLObject]", SSLObject)

    def __init__(self, protocol: int = ssl.PROTOCOL_TLS) -> None:
        """Begin as `Settings` does."""
        super().__init__(protocol)
        self.policy = KtlsPolicy()
        self.handshake_timeout = 30.0
        self.resumption = False
        self.identities: tuple[ReferenceIdentifier, ...] = ()
        self._is_refusing = False
        self._making = threading.Lock()
        self._made_of: object = None
        self._server: ServerConfig | None = None
        self._clients: OrderedDict[str | None, ClientConfig] = OrderedDict()

    @property
    def handshake_timeout(self) -> float:
        """Seconds for the whole handshake, if the socket's own timeout is longer."""
        return self._handshake_timeout

    @handshake_timeout.setter
    @setting(ValueError)
    def handshake_timeout(self, seconds: float) -> None:
        check_timeout(seconds)
        self._handshake_timeout = seconds

    @classmethod
    def for_server(
        cls,
        certfile: StrOrBytesPath,
        keyfile: StrOrBytesPath | None = None,
        *,
        cafile: StrOrBytesPath | None = None,
        alpn: Iterable[str] = (),
        client_cert: Literal["none", "request", "require"] | None = None,
        policy: KtlsPolicy | None = None,
    ) -> Self:
        """Make a server's context from the arguments that servers take.

        Args:
            certfile: PEM chain, leaf first.
            keyfile: PEM key; None if it is in ``certfile``.
            cafile: PEM authorities that issue clients' certificates.
            alpn: protocols, most wanted first.
            client_cert: whether clients have to show one; None requests it if there is ``cafile``.
            policy: when to offload; AUTO if None.

        Raises:
            ConfigError: a file is unusable.
        """
        context = cls(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certfile, keyfile)
        if cafile is not None:
            context._trust_alone(cafile)
        context.verify_mode = _CLIENT_CERT[client_cert or ("request" if cafile else "none")]
        context.set_alpn_protocols(alpn)
        context.policy = policy or context.policy
        context.server_config()  # whether it all fits together must show now
        return context

    @classmethod
    def for_client(
        cls,
        certfile: StrOrBytesPath | None = None,
        keyfile: StrOrBytesPath | None = None,
        *,
        cafile: StrOrBytesPath | None = None,
        alpn: Iterable[str] = (),
        policy: KtlsPolicy | None = None,
    ) -> Self:
        """Make a client's context; it verifies by ``cafile``, or by the system's store.

        Arguments and errors are those of `for_server`.
        """
        context = cls(ssl.PROTOCOL_TLS_CLIENT)
        if certfile is not None:
            context.load_cert_chain(certfile, keyfile)
        if cafile is None:
            context.load_default_certs()
        else:
            context._trust_alone(cafile)
        context.set_alpn_protocols(alpn)
        context.policy = policy or context.policy
        return context

    def _trust_alone(self, cafile: StrOrBytesPath) -> None:
        """Trust each certificate in a file, be it self-signed or not, as elsewhere in tlsify."""
        self.load_verify_locations(cafile)
        self.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN

    # -- configurations

    def server_config(self) -> ServerConfig:
        """Return a server's configuration, the same one until something is set.

        Raises:
            ConfigError: there is no certificate, or settings contradict each other.
        """
        with self._making:
            self._forget_if_changed()
            if self._server is None:
                self._server = self._make_server()
            return self._server

    def client_config(self, server_hostname: str | None) -> ClientConfig:
        """Return the configuration of a client of some server, likewise.

        Raises:
            ConfigError: what is set contradicts itself.
            ValueError: the name is to be checked, and there is none.
        """
        with self._making:
            self._forget_if_changed()
            found = self._clients.get(server_hostname)
            if found is None:
                found = self._clients[server_hostname] = self._make_client(server_hostname)
                if len(self._clients) > _CLIENTS:
                    self._clients.popitem(last=False)
            else:
                self._clients.move_to_end(server_hostname)
            return found

    def _forget_if_changed(self) -> None:
        made_of = (
            (self.verify_mode, self.check_hostname, self.verify_flags),
            (self.options, self.minimum_version, self.maximum_version, self.num_tickets),
            (self.handshake_timeout, self.resumption, self.identities, self.wishes),
        )
        if made_of != self._made_of:
            self._made_of = made_of
            self._server = None
            self._clients.clear()

    def _make_server(self) -> ServerConfig:
        wishes = self.wishes
        if self.protocol == ssl.PROTOCOL_TLS_CLIENT:
            raise ConfigError(
                "a PROTOCOL_TLS_CLIENT context is no server's", hint="use PROTOCOL_TLS_SERVER"
            )
        if not wishes.pairs:
            raise ConfigError("a server needs a certificate", hint="call load_cert_chain")
        asks = self.verify_mode != ssl.CERT_NONE
        first, *rest = wishes.pairs
        return ServerConfig(
            key_pair=first,
            more_key_pairs=(*rest, *wishes.more_pairs),
            client_trust=self.trust() if asks else None,
            client_required=self.verify_mode == ssl.CERT_REQUIRED,
            client_identities=self.identities if asks else (),
            resumption=self.resumption and bool(self.num_tickets),
            **self._both_sides(verify=asks),
        )

    def _make_client(self, server_hostname: str | None) -> ClientConfig:
        if self.protocol == ssl.PROTOCOL_TLS_SERVER:
            raise ConfigError(
                "a PROTOCOL_TLS_SERVER context is no client's", hint="use PROTOCOL_TLS_CLIENT"
            )
        if self.check_hostname and not server_hostname:
            raise ValueError("check_hostname requires server_hostname")
        verify = self.verify_mode != ssl.CERT_NONE
        identities = self.identities
        if verify and not identities:
            if not self.check_hostname:
                raise ConfigError(
                    "certificates are to be verified, and check_hostname is off",
                    hint="set identities to those that are accepted",
                )
            identities = (ReferenceIdentifier.for_host(server_hostname or ""),)
        return ClientConfig(
            server_name=server_hostname or None,
            identities=identities,
            verify=verify,
            trust=self.trust() if verify else TrustAnchors(()),
            key_pair=self.wishes.pairs[0] if self.wishes.pairs else None,
            **self._both_sides(verify=verify),
        )

    def _both_sides(self, *, verify: bool) -> dict[str, Any]:
        if unknown := self.verify_flags & ~_VERIFY_FLAGS:
            raise ConfigError(
                f"{ssl.VerifyFlags(unknown)!r} is not possible with tlsify",
                hint="take it out of verify_flags",
            )
        wishes = self.wishes
        checks = verify and bool(self.verify_flags & _CRL_CHECK)
        if checks and not wishes.crls:
            raise ConfigError(
                "revocation is to be checked, and there is no revocation list",
                hint="load one with load_verify_locations",
            )
        return {
            "crls": wishes.crls if checks else (),
            "crl_check_all": checks and self.verify_flags & _CRL_CHECK == _CRL_CHECK,
            "alpn": wishes.alpn,
            "versions": self.versions(),
            "aeads": wishes.aeads,
            "groups": wishes.groups,
            "timeout": self.handshake_timeout,
            "keep_chain": True,
            "key_log": wishes.key_log,
        }

    # -- sockets

    def wrap_socket(  # type: ignore[override]
        self,
        sock: socket.socket,
        server_side: bool = False,
        do_handshake_on_connect: bool = True,
        suppress_ragged_eofs: bool = True,
        server_hostname: str | bytes | None = None,
        session: None = None,
    ) -> SSLSocket:
        """Take over a socket: a connected one, one that will be connected, or a listening one.

        A connected one has done its handshake afterwards, if ``do_handshake_on_connect``. A
        connection that a listening one accepts does it in the first call that needs it
        (`SSLSocket`).

        Raises:
            ssl.SSLError: the handshake failed; the connection is closed.
            ConfigError: settings contradict each other; the socket is unchanged.
            OSError: the connection broke, or took too long.
        """
        self._check_socket(sock)
        config, name = self._role(server_side, server_hostname, session)
        connected = _is_connected(sock)
        if connected and do_handshake_on_connect and sock.gettimeout() == 0:
            raise ValueError(
                "do_handshake_on_connect should not be specified for non-blocking sockets"
            )
        if isinstance(config, ServerConfig) and not connected:
            prepare(config, self.policy)  # what is wrong with the certificate must show now
        wrapped = cast("type[SSLSocket]", self.sslsocket_class)(
            sock,
            self,
            server_side=server_side,
            suppress_ragged_eofs=suppress_ragged_eofs,
            server_hostname=name,
        )
        wrapped.do_handshake_on_connect = do_handshake_on_connect
        if connected and do_handshake_on_connect:
            with closed_on_error(wrapped):
                wrapped.do_handshake()
        return wrapped

    def wrap_bio(  # type: ignore[override]
        self,
        incoming: MemoryBIO,
        outgoing: MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: None = None,
    ) -> SSLObject:
        """Make a connection between two `ssl.MemoryBIO`, which the kernel does not encrypt.

        Loops and libraries that carry the records themselves call it: asyncio's own loop, uvloop,
        anyio, trio. Where the policy requires the kernel, a server's first error is logged, too,
        since loops drop it along with the connection.

        Raises:
            ssl.SSLError: the policy requires the kernel.
            ConfigError: settings contradict each other.
            ValueError: the name is to be checked, and there is none.
        """
        config, name = self._role(server_side, server_hostname, session)
        try:
            return cast("type[SSLObject]", self.sslobject_class)(
                self, incoming, outgoing, config, self.policy, name
            )
        except ssl.SSLError as exc:
            if server_side and not self._is_refusing:
                self._is_refusing = True
                _log.error("connections are refused: %s", exc.__cause__)
            raise

    def _role(
        self, server_side: bool, server_hostname: str | bytes | None, session: object
    ) -> tuple[ServerConfig | ClientConfig, str | None]:
        """Return the configuration of a connection, and the name as it is verified."""
        if session is not None:
            raise NotImplementedError(NO_SESSION)
        if server_side:
            if server_hostname is not None:
                raise ValueError("server_hostname can only be specified in client mode")
            return self.server_config(), None
        name = server_hostname.decode() if isinstance(server_hostname, bytes) else server_hostname
        return self.client_config(name), canonical(name) if name else name

    @staticmethod
    def _check_socket(sock: socket.socket) -> None:
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) != socket.SOCK_STREAM:
            raise NotImplementedError("only stream sockets are supported")
        if isinstance(sock, TLSSocket | ssl.SSLSocket):
            raise NotImplementedError("a TLS connection cannot be carried by another one")


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True
