"""SSLObject: TLS between two buffers in memory, as Python's `ssl.SSLObject`."""

from __future__ import annotations

import logging
import ssl
import threading
import time
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast, overload

from tlsify.config import ClientConfig, KtlsMode
from tlsify.connection.handoff import Reason
from tlsify.connection.setup import keylog
from tlsify.connection.setup.eligibility import memory_refusal
from tlsify.errors import ConfigError, RekeyUnsupported, ResourceError, TlsifyError
from tlsify.metrics.counters import Event, count, relayed
from tlsify.sslcontext.answers import Answers
from tlsify.sslcontext.errors import again, both_closed, made, ssl_error, want_read
from tlsify.sslcontext.facts import TLSInfo
from tlsify.tls.engine import Engine
from tlsify.tls.explain import truncated
from tlsify.tls.room import RecordBuffer
from tlsify.tls.tunnel import ROOM_BEYOND, Tunnel

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from tlsify.config import KtlsPolicy, ServerConfig
    from tlsify.tls.negotiated import Negotiated

_log = logging.getLogger("tlsify")

# How many bytes go through OpenSSL at once.
_PIECE = 2**16
_rooms = threading.local()


def _room() -> RecordBuffer:
    """Return this thread's room, which is free again before anything else is called."""
    try:
        room: RecordBuffer = _rooms.room
    except AttributeError:
        room = _rooms.room = RecordBuffer(_PIECE + ROOM_BEYOND)
    return room


class MemoryBIO(Protocol):
    """What is used of `ssl.MemoryBIO`."""

    @property
    def eof(self) -> bool:
        """Whether nothing is there, and nothing will come."""

    def read(self, size: int = -1, /) -> bytes:
        """Return some bytes; none if there are none."""

    def write(self, b: bytes, /) -> int:
        """Append bytes."""


class _Relayed(NamedTuple):
    """The connection, as `TLSInfo` takes it."""

    negotiated: Negotiated
    reason: Reason


class SSLObject(Answers, ssl.SSLObject):
    """A connection without a socket: the caller carries its records between buffers and network.

    It behaves as `ssl.SSLObject`: what needs more from the peer raises SSLWantReadError, after
    which the caller sends what is in ``outgoing``, and puts what it receives into ``incoming``.
    Plaintext that came before an end, or before an error, is read first. Errors are `ssl`'s, with
    tlsify's own as ``__cause__``; the alert that the peer has to get is in ``outgoing`` then.

    Attributes:
        context: the context that made it.
        server_side: the role.
        server_hostname: name that a client verifies; of a server's connection, the SNI of its
            client once the handshake is done.
    """

    # In the place of properties of ssl's.
    context: ssl.SSLContext = cast("ssl.SSLContext", None)
    server_side = False
    server_hostname: str | None = None

    def __init__(
        self,
        context: ssl.SSLContext,
        incoming: MemoryBIO,
        outgoing: MemoryBIO,
        config: ClientConfig | ServerConfig,
        policy: KtlsPolicy,
        server_hostname: str | None = None,
    ) -> None:
        """Prepare a handshake; nothing is written yet.

        Args:
            context: the context that makes it.
            incoming: records from the peer.
            outgoing: records for the peer.
            config: decides the role.
            policy: whether there may be a connection without the kernel.
            server_hostname: name that a client verifies.

        Raises:
            ssl.SSLError: the policy requires the kernel.
            ConfigError: the configuration is unusable.
        """
        self._tunnel: Tunnel | None = None
        self._engine: Engine | None = None
        self._facts: TLSInfo | None = None
        self._failure: OSError | None = None
        self._plain, self._read = b"", 0  # plaintext, and how much of it the caller has
        self._is_closed = self._is_end_due = False
        self.context, self.server_hostname = context, server_hostname
        self.server_side = not isinstance(config, ClientConfig)
        self._incoming, self._outgoing, self._config = incoming, outgoing, config
        refusal = memory_refusal(policy)
        if policy.mode is KtlsMode.REQUIRE:
            raise ssl_error(refusal) from refusal
        self._reason = Reason(refusal.code, refusal.sentence, refusal.hint)
        if config.key_log is not None:
            keylog.append(config.key_log, b"")  # whether it can be written must show now
        self._engine = Engine(config, now=time.monotonic(), keys=False)

    def __del__(self) -> None:
        """Free OpenSSL's memory, which is in a circle of references."""
        if self._engine is not None:
            self._engine.release()
        if self._tunnel is not None:
            self._tunnel.release()

    def _outcome(self) -> TLSInfo | None:
        return self._facts

    # -- the handshake

    def do_handshake(self) -> None:
        """Go on with the handshake, unless it is finished.

        Raises:
            ssl.SSLWantReadError: it needs more from the peer.
            ssl.SSLError: it failed.
        """
        self._established()

    def _established(self) -> Tunnel:
        """Return the tunnel, after the handshake."""
        if self._tunnel is None:
            if self._failure is not None:
                raise again(self._failure)
            try:
                self._tunnel = self._finish()
            except TlsifyError as exc:
                self._release_engine()
                _log.info("handshake failed: %s", exc)
                self._failure = again(ssl_error(exc))
                raise again(self._failure) from exc
            self._flush(self._tunnel)  # tickets
        return self._tunnel

    def _finish(self) -> Tunnel:
        engine = cast("Engine", self._engine)
        try:
            while engine.result() is None:
                self._outgoing.write(engine.output())
                received = self._incoming.read(engine.need())
                if not received and not self._incoming.eof:
                    raise want_read()
                engine.feed(received)
        finally:
            self._outgoing.write(engine.output())
        return self._conclude()

    def _conclude(self) -> Tunnel:
        engine = cast("Engine", self._engine)
        negotiated = cast("Negotiated", engine.result())
        self._log_keys(engine)
        tunnel = Tunnel(engine, time.monotonic)
        self._release_engine()
        verified = not isinstance(self._config, ClientConfig) or self._config.verify
        self._facts = TLSInfo(_Relayed(negotiated, self._reason), verified=verified)
        if self.server_side:
            self.server_hostname = self._facts.server_hostname
        _log.debug("relayed: %s: %s", self._reason.code, self._reason.sentence)
        relayed(self._reason.code)
        if negotiated.resumed:
            count(Event.RESUMED)
        return tunnel

    def _log_keys(self, engine: Engine) -> None:
        if self._config.key_log is not None:
            try:
                keylog.append(self._config.key_log, engine.take_key_log())
            except (ConfigError, ResourceError) as exc:  # no reason to lose the connection
                _log.warning("no secrets logged: %s", exc)

    def _release_engine(self) -> None:
        if self._engine is not None:
            self._engine.release()
            self._engine = None

    # -- data

    def pending(self) -> int:
        """Return how many bytes of plaintext are there, without a look at ``incoming``.

        It is 1 where an end or an error has come right behind plaintext that was read: uvloop
        reads no more if there is neither this nor anything in ``incoming``.
        """
        return len(self._plain) - self._read or int(self._is_end_due)

    @overload  # type: ignore[override] # `ssl`'s own stub forgets the number
    def read(self, len: int = 1024, buffer: None = None) -> bytes: ...
    @overload
    def read(self, len: int, buffer: WriteableBuffer) -> int: ...
    def read(self, len: int = 1024, buffer: WriteableBuffer | None = None) -> bytes | int:
        """Return plaintext, or write it to a buffer and return the number of bytes.

        Args:
            len: how many bytes at most; with a buffer, 0 or less means as many as it has room for.
            buffer: writable.

        Raises:
            ssl.SSLWantReadError: there is none yet.
            ssl.SSLEOFError: ``incoming`` has ended without close_notify.
            ssl.SSLZeroReturnError: both sides have closed.
            ssl.SSLError: the connection failed.
        """
        if buffer is None:
            if len < 0:
                raise ValueError("size should not be negative")
            return self._take(len) if len else b""
        room = memoryview(buffer).cast("B")
        if room.readonly:  # before anything is taken for it
            raise TypeError("read() argument 2 must be a read-write bytes-like object")
        found = memoryview(self._take(min(len, room.nbytes) if len > 0 else room.nbytes))
        room[: found.nbytes] = found
        return found.nbytes

    def _take(self, most: int) -> bytes:
        tunnel = self._established()
        if not self._plain and most:
            self._is_end_due = False
            self._plain = self._open(tunnel)
            if not self._plain and self._is_closed:
                raise both_closed()
        start, self._read = self._read, min(self._read + most, len(self._plain))
        found = self._plain[start : self._read]
        if self._read == len(self._plain):
            self._plain, self._read = b"", 0
        return found

    def _open(self, tunnel: Tunnel) -> bytes:
        """Return more plaintext; none at the peer's close_notify."""
        while not tunnel.peer_closed:
            self._check(tunnel)
            records = self._incoming.read(_PIECE)
            if not records:
                if self._incoming.eof:
                    cut = truncated()
                    raise ssl_error(cut) from cut
                raise want_read()
            room = _room()
            plain = bytes(room.view[: tunnel.receive(records, room)])
            self._flush(tunnel)
            if plain:
                self._is_end_due = tunnel.peer_closed or tunnel.failure is not None
                return plain
        return b""

    def write(self, data: ReadableBuffer) -> int:
        """Protect plaintext, all of it; return the number of bytes.

        Raises:
            ssl.SSLWantReadError: the handshake, or a message of the peer's, is not complete;
                nothing was taken.
            ssl.SSLError: the connection failed, or `unwrap` has been called.
        """
        tunnel = self._established()
        if self._is_closed:
            raise made(
                ssl.SSLError, ssl.SSL_ERROR_SSL, "PROTOCOL_IS_SHUTDOWN", "protocol is shutdown"
            )
        self._check(tunnel)
        if tunnel.is_waiting:
            raise want_read()
        plain = memoryview(data).cast("B")
        for start in range(0, plain.nbytes, _PIECE):
            room = _room()
            size = tunnel.send_into(plain[start : start + _PIECE], room)
            self._outgoing.write(bytes(room.view[:size]))
            if size == len(room.view):  # there may be more
                self._flush(tunnel)
        if isinstance(tunnel.failure, RekeyUnsupported):
            count(Event.KEY_LIMIT_REACHED)
        self._check(tunnel)
        return plain.nbytes

    def unwrap(self) -> None:
        """Send close_notify, and wait for the peer's.

        Raises:
            ssl.SSLWantReadError: it has not come yet; ours is in ``outgoing``.
            ssl.SSLEOFError: ``incoming`` has ended without it.
            ssl.SSLError: the connection failed; or there is plaintext, which can still be read.
        """
        tunnel = self._tunnel
        if tunnel is None:
            said = "shutdown while in init"
            raise made(ssl.SSLError, ssl.SSL_ERROR_SSL, "SHUTDOWN_WHILE_IN_INIT", said)
        if not self._is_closed:
            tunnel.close()
            self._is_closed = True
            self._flush(tunnel)
        if not self._plain:
            self._plain = self._open(tunnel)
        if self._plain:
            said = "application data after close notify"
            reason = "APPLICATION_DATA_AFTER_CLOSE_NOTIFY"
            raise made(ssl.SSLError, ssl.SSL_ERROR_SSL, reason, said)

    def _flush(self, tunnel: Tunnel) -> None:
        room = _room()
        while size := tunnel.output_into(room):
            self._outgoing.write(bytes(room.view[:size]))

    @staticmethod
    def _check(tunnel: Tunnel) -> None:
        if tunnel.failure is not None:
            raise ssl_error(tunnel.failure, is_established=True) from tunnel.failure
