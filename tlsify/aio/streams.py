"""Connect, or start TLS, on a running loop, with the names of asyncio's own functions."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from tlsify.aio import dialing
from tlsify.aio.handshake import hand_over
from tlsify.aio.loop_socket import LoopSocket
from tlsify.aio.transport import make_transport
from tlsify.config import ClientConfig, ClosePolicy, KtlsPolicy, ServerConfig
from tlsify.connection.establish import of_role, take
from tlsify.errors import ConfigError
from tlsify.names import to_look_up

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlsify.sslcontext.context import SSLContext

# How much a reader keeps before its peer has to wait, as asyncio has it.
LIMIT = 2**16


class Terms(NamedTuple):
    """Settings of a connection.

    Attributes:
        config: decides the role.
        policy: when to offload.
        context: value of ``get_extra_info("sslcontext")``; None if there is no context.
        closing: what an end of stream without close_notify is.
        timeout: seconds for the handshake; the configuration's own if None.
    """

    config: ClientConfig | ServerConfig
    policy: KtlsPolicy
    context: SSLContext | None
    closing: ClosePolicy = ClosePolicy.RELAXED
    timeout: float | None = None


# Arguments of ``loop.create_connection`` that `dialing.connect` supports.
_DIALLED = {"family", "proto", "flags", "local_addr", "happy_eyeballs_delay"}


class StreamProtocol(asyncio.StreamReaderProtocol):
    """Connects a connection with streams that can be closed one by one.

    asyncio's own closes both where it sees TLS; here a peer that has sent its request and
    close_notify gets its answer.
    """

    def eof_received(self) -> bool:
        """End the reader, and leave the writer."""
        super().eof_received()
        return True


async def open_connection(
    host: str | None = None,
    port: int | str | None = None,
    *,
    limit: int = LIMIT,
    **options: Any,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect, and do a client's handshake.

    Args:
        host: name or address.
        port: number or name.
        limit: bytes that the reader keeps.
        options: as `create_connection` has them.

    Raises:
        As `create_connection`.
    """
    reader = asyncio.StreamReader(limit=limit)
    protocol = StreamProtocol(reader)
    transport, _ = await create_connection(lambda: protocol, host, port, **options)
    writer = asyncio.StreamWriter(transport, protocol, reader, asyncio.get_running_loop())
    return reader, writer


async def create_connection(
    factory: Callable[[], asyncio.BaseProtocol],
    host: str | None = None,
    port: int | str | None = None,
    *,
    config: ClientConfig | None = None,
    ssl: SSLContext | None = None,
    server_hostname: str | None = None,
    policy: KtlsPolicy | None = None,
    closing: ClosePolicy = ClosePolicy.RELAXED,
    timeout: float | None = None,
    sock: socket.socket | None = None,
    **options: Any,
) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
    """Connect, do a client's handshake, and connect a protocol.

    Args:
        factory: makes the protocol.
        host: name or address.
        port: number or name.
        config: identities and trust anchors; without it and ``ssl``, the host, verified by the
            system's trust anchors.
        ssl: instead of ``config``.
        server_hostname: name to verify instead of ``host``; not with ``config``, which has it.
        policy: when to offload; that of ``ssl``, or AUTO if None.
        closing: what an end of stream without close_notify is.
        timeout: seconds for the handshake; the configuration's own if None.
        sock: connected, instead of host and port; belongs to tlsify from here on.
        options: further arguments of ``loop.create_connection``, such as ``family`` or
            ``local_addr``. Addresses of a name are tried as in RFC 8305, 250 ms apart or
            ``happy_eyeballs_delay`` seconds, on any loop.

    Raises:
        ConfigError: the arguments contradict each other; nothing was sent.
        OSError: no answer, or the connection broke; if addresses of a name have failed in several
            ways, the most specific error.
        HandshakeError, IdentityError, DeadlineExceeded, KtlsError: as `establish.connect`.
    """
    name = host if server_hostname is None else server_hostname
    terms = client_terms(config, ssl, name, policy)
    if config is not None and server_hostname is not None:
        raise ConfigError(
            "server_hostname is the configuration's to say",
            hint="see ClientConfig's server_name and identities",
        )
    terms = terms._replace(closing=closing, timeout=timeout)
    return await connect_on(factory, sock or await _connect(host, port, options), terms)


def client_terms(
    config: ClientConfig | None,
    ssl: SSLContext | None,
    name: str | None,
    policy: KtlsPolicy | None = None,
) -> Terms:
    """Return the settings of a client's arguments.

    Raises:
        ConfigError: they contradict each other, or there is no name to verify.
    """
    if ssl is not None:
        _refuse_other(ssl, config)
        return Terms(ssl.client_config(name), policy or ssl.policy, ssl)
    if config is None:
        if not name:
            raise ConfigError(
                "no server name to verify the certificate against", hint="give host, config or ssl"
            )
        config = ClientConfig.for_host(name)
    return Terms(of_role(config, ClientConfig), policy or KtlsPolicy(), None)


def server_terms(
    config: ServerConfig | None, ssl: SSLContext | None, policy: KtlsPolicy | None = None
) -> Terms:
    """Return the settings of a server's arguments; raises as `client_terms`."""
    if ssl is not None:
        _refuse_other(ssl, config)
        return Terms(ssl.server_config(), policy or ssl.policy, ssl)
    if config is None:
        raise ConfigError("a server needs a certificate", hint="give config or ssl")
    return Terms(of_role(config, ServerConfig), policy or KtlsPolicy(), None)


def _refuse_other(ssl: object, config: object) -> None:
    """Refuse a context that is not tlsify's, and one beside a configuration."""
    if config is not None:
        raise ConfigError("both config and ssl were given", hint="give one of them")
    if not hasattr(ssl, "client_config"):  # its class takes long to import
        raise ConfigError(
            f"ssl requires tlsify's SSLContext, not {type(ssl).__module__}.{type(ssl).__name__}",
            hint="make one of tlsify.sslcontext.context, or give config",
        )


async def connect_on(
    factory: Callable[[], asyncio.BaseProtocol], sock: socket.socket, terms: Terms
) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
    """Do a handshake on a connected socket, which is tlsify's from here on; connect a protocol.

    Raises:
        As `establish.connect`.
    """
    handed = await hand_over(take(sock), terms.config, terms.policy, terms.timeout)
    stream = LoopSocket(handed, terms.closing)
    waiter = asyncio.get_running_loop().create_future()
    role = {"server_side": True}
    if isinstance(terms.config, ClientConfig):
        role = {"server_side": False, "verified": terms.config.verify}
    try:
        protocol = factory()
        transport = make_transport(protocol, stream, terms.context, waiter, **role)
    except BaseException:
        stream.abort()
        raise
    try:
        await waiter
    except BaseException:
        transport.abort()
        raise
    return transport, protocol


class _Waiting(asyncio.Protocol):
    """Holds a transport of the loop's own until its socket can be taken; never reads.

    What the transport says of its flow goes to the protocol that waits behind.
    """

    def __init__(self, behind: asyncio.BaseProtocol | None = None) -> None:
        self.behind = behind or asyncio.Protocol()
        self.drained: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Stop reading: the handshake reads the data."""
        if isinstance(transport, asyncio.ReadTransport):
            transport.pause_reading()

    def pause_writing(self) -> None:
        """Pass it on."""
        self.behind.pause_writing()

    def resume_writing(self) -> None:
        """Everything is out."""
        self.behind.resume_writing()
        if not self.drained.done():
            self.drained.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection broke before TLS began."""
        self.behind.connection_lost(exc)
        if not self.drained.done():
            self.drained.set_exception(exc or ConnectionAbortedError("the connection was closed"))
            self.drained.exception()  # retrieved, so that the loop does not complain


async def _connect(
    host: str | None, port: int | str | None, options: dict[str, Any]
) -> socket.socket:
    """Connect to the first address that answers, or as the loop does; return the socket."""
    host = host and to_look_up(host)
    if (host or port is not None) and options.keys() <= _DIALLED:
        return await dialing.connect(host, port, **options)
    connect: Any = asyncio.get_running_loop().create_connection
    transport, _ = await connect(_Waiting, host, port, **options)
    return await _take_socket(transport)


async def _take_socket(transport: Any, behind: asyncio.BaseProtocol | None = None) -> socket.socket:
    """Take over the connection of a plain transport, once that has sent everything.

    Raises:
        ConfigError: the transport is not plain TCP, or it is closing.
        OSError: the connection broke; ``behind`` has been told.
    """
    carrier = transport.get_extra_info("socket")
    if carrier is None or transport.get_extra_info("sslcontext") is not None:
        raise ConfigError("the transport is no plain connection", hint="start TLS on TCP, and once")
    if transport.is_closing():
        raise ConfigError("the transport is closing", hint="start TLS before it is closed")
    transport.pause_reading()
    waiting = _Waiting(behind)
    transport.set_protocol(waiting)
    try:
        transport.set_write_buffer_limits(high=0)
        if transport.get_write_buffer_size():
            await waiting.drained
        taken = socket.socket(fileno=os.dup(carrier.fileno()))
    except BaseException:
        transport.abort()
        raise
    transport.set_protocol(asyncio.Protocol())
    transport.abort()  # closes its own descriptor; the connection goes on
    return taken


class _Upgraded(asyncio.Protocol):
    """Makes way for a protocol that knows already that it is connected."""

    def __init__(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol
        self.has_transport = False

    def __call__(self) -> Self:
        """Come as the protocol that a factory makes."""
        self.has_transport = True
        return self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Make way; what comes is not to be read before the caller has the transport."""
        if isinstance(transport, asyncio.ReadTransport):
            transport.pause_reading()
        transport.set_protocol(self._protocol)


async def start_tls(
    transport: asyncio.WriteTransport,
    protocol: asyncio.BaseProtocol,
    config: ClientConfig | ServerConfig | SSLContext,
    *,
    server_side: bool = False,
    server_hostname: str | None = None,
    policy: KtlsPolicy | None = None,
    closing: ClosePolicy = ClosePolicy.RELAXED,
    timeout: float | None = None,
) -> asyncio.Transport:
    """Start TLS on a plain connection of the loop, as ``loop.start_tls``.

    Data written before goes out in plain text; the protocol keeps data that it has read before.

    Args:
        transport: plain; unusable from here on.
        protocol: continues on the returned transport, and is notified if that is lost.
        config: decides the role, unless it is an SSLContext.
        server_side: which side we are.
        server_hostname: name to verify, for an SSLContext.
        policy: when to offload; that of the SSLContext, or AUTO if None.
        closing: what an end of stream without close_notify is.
        timeout: seconds for the handshake; the configuration's own if None.

    Raises:
        As `create_connection`; the protocol has been told that the connection is lost, too.
    """
    if isinstance(config, ClientConfig | ServerConfig):
        if server_side:
            of_role(config, ServerConfig)
        terms = Terms(config, policy or KtlsPolicy(), None)
    elif server_side:
        terms = server_terms(None, config, policy)
    else:
        terms = client_terms(None, config, server_hostname, policy)
    terms = terms._replace(closing=closing, timeout=timeout)
    taken = await _take_socket(transport, protocol)
    upgraded = _Upgraded(protocol)
    try:
        made, _ = await connect_on(upgraded, taken, terms)
    except BaseException as exc:
        if not upgraded.has_transport:
            told = exc if isinstance(exc, Exception) else None
            asyncio.get_running_loop().call_soon(protocol.connection_lost, told)
        raise
    asyncio.get_running_loop().call_soon(made.resume_reading)
    if isinstance(protocol, asyncio.StreamReaderProtocol):
        # asyncio leaves the reader with the transport that it has known, whose reading it pauses.
        reader: Any = protocol._stream_reader  # type: ignore[attr-defined]
        if reader is not None:
            reader._transport = made
    return made
