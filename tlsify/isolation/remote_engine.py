"""A server's side of isolation: a configuration without keys, and handshakes that a holder does."""

from __future__ import annotations

import errno
import os
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, NoReturn, TypeAlias
from weakref import WeakSet

from tlsify.codepoints import AlertDescription
from tlsify.config import ServerConfig
from tlsify.credentials.key_pair import KeyPair
from tlsify.errors import (
    SHORTAGES,
    ConfigError,
    HandshakeError,
    KeyHolderError,
    PeerMisbehaved,
    ResourceError,
    TlsifyError,
)
from tlsify.isolation import wire
from tlsify.system import scm_rights
from tlsify.tls.explain import cut_short
from tlsify.tls.record import (
    CHANGE_CIPHER_SPEC,
    FIRST_FLIGHT,
    SHORTEST_LAST,
    Framer,
    encode_plain_alert,
    split_records,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cryptography import x509

    from tlsify.codepoints import Aead
    from tlsify.keys import Keys
    from tlsify.tls.engine import Stranger
    from tlsify.tls.negotiated import Negotiated

# What a driver of the handshake has to wait for: a socket that becomes readable, or some seconds.
Waiting: TypeAlias = "Iterator[socket.socket | float]"

# Seconds between two attempts to reach a holder, whose queue is full.
_PAUSE = 0.01
# Replies are received here, one at a time, and wiped; room for the longest takes long to clear.
_room = bytearray(wire.MAX_REPLY + 1)
_receiving = threading.Lock()


class _Socket(socket.socket):
    """A socket that closes silently if it is dropped: a handshake may end at any moment."""

    def __del__(self) -> None:
        self.close()


class Rendezvous:
    """The way to the holders of one configuration, for this process and its forks."""

    def __init__(self, descriptor: int) -> None:
        """Take over a descriptor: one end of a socketpair, whose other end the holders have."""
        self._sock = _Socket(fileno=descriptor)
        self._sock.settimeout(0)
        _known.add(self)

    def invite(self, request: bytes) -> socket.socket | None:
        """Make a channel, for one handshake, and send a holder its end with the first request.

        Returns:
            None if the holders have so many of them in their queue that there is no room.

        Raises:
            OSError: no descriptor is to be had, or there are no holders.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        channel = _Socket(fileno=ours.detach())
        channel.settimeout(0)
        with theirs:
            try:
                theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, wire.MAX_REPLY)
                scm_rights.send(self._sock, request, theirs.fileno())
            except OSError as exc:
                channel.close()
                if isinstance(exc, BlockingIOError):
                    return None
                raise
        return channel

    def leave(self) -> None:
        """Close it in this process: holders end once all processes have."""
        self._sock.close()


# Those that this process has, since its forks must not keep holders alive that they do not need.
_known: WeakSet[Rendezvous] = WeakSet()


def keep_only(kept: Rendezvous | None) -> None:
    """Close what a forked process has inherited besides its own way to its holders."""
    for each in list(_known):
        if each is not kept:
            each.leave()


class ShownCertificate(KeyPair):
    """A certificate chain whose private key is in a key holder."""

    __slots__ = ()

    def __init__(self, chain: tuple[x509.Certificate, ...], ocsp: bytes | None) -> None:
        """Store what is no secret."""
        object.__setattr__(self, "chain", chain)
        object.__setattr__(self, "ocsp", ocsp)

    @property
    def key(self) -> NoReturn:
        """Refuse to give the key.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            f"the private key of {self.subject} is in a key holder", hint="have it do the handshake"
        )


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class IsolatedServer(ServerConfig):
    """A server's configuration whose private keys are in key holders.

    Its certificates have no keys, and of clients' certificates it knows nothing: holders verify
    them.

    Attributes:
        rendezvous: the way to the holders.
        choices: the record protection that holders can negotiate.
    """

    rendezvous: Rendezvous
    choices: tuple[tuple[Aead, ...], ...]

    def engine(self, aeads: tuple[Aead, ...]) -> RemoteEngine:
        """Prepare a handshake with one of the choices."""
        return RemoteEngine(self.rendezvous, self.choices.index(aeads))


class RemoteEngine:
    """One handshake that a holder does, in the place of an `Engine`.

    A driver feeds it what has come, and then does what `attend` asks for.

    Attributes:
        is_client: False.
        is_remote: True.
        keys: as an `Engine` has them.
        stranger: likewise.
        server_name: None: of a handshake that goes on, the holder alone knows it.
    """

    is_client = False
    is_remote: ClassVar[Literal[True]] = True

    def __init__(self, rendezvous: Rendezvous, choice: int) -> None:
        """Prepare: the holder hears of it when the peer has sent its first record."""
        self._rendezvous = rendezvous
        self._choice = choice
        self.stranger: Stranger | None = None
        self.server_name: str | None = None
        self._framer = Framer(FIRST_FLIGHT)
        self._channel: socket.socket | None = None
        self._records: list[bytes] = []
        self._request: wire.Request | None = None
        self._refusal: HandshakeError | None = None
        self._output = b""
        self._is_answered = False
        self._negotiated: Negotiated | None = None
        self.keys: Keys | None = None
        self._key_log = b""

    def need(self) -> int:
        """Return how many bytes may be received now, always 1 or more."""
        return self._framer.need()

    def feed(self, data: bytes) -> None:
        """Store what has come from the peer, as `Engine.feed` does; `attend` processes it.

        No handshake ends with ChangeCipherSpec: one waits for its successor, to save a message.

        Raises:
            Truncated: the stream ended within the handshake.
            PeerMisbehaved: the peer is a stranger, and has its answer.
        """
        if not data:
            raise cut_short()
        self._cut(data)

    def _cut(self, data: bytes) -> None:
        try:
            self._records += split_records(self._framer.feed(data))
        except PeerMisbehaved as error:
            if not self._framer.count and self.stranger is not None:
                self._output = self.stranger(self._framer.pending)
                if self._output:
                    error.is_answered = True
                    raise
            self._refuse(error, self._framer.pending)
        if self._records and (self._records[0] != CHANGE_CIPHER_SPEC or len(self._records) > 1):
            self._request = wire.Request(self._choice, tuple(self._records))
            self._records.clear()

    def _refuse(self, error: HandshakeError, received: bytes) -> None:
        """Store bytes that are no record, as `Engine.refuse` does; `attend` processes them."""
        self._records.clear()
        self._refusal = error
        self._request = wire.Request(self._choice, (), received, error.alert)

    def attend(self) -> Waiting:
        """Make the holder process what has been fed.

        Yields:
            A socket of which the driver waits until it is readable, or seconds to wait.

        Raises:
            HandshakeError: as `Engine.feed`; a KeyHolderError if there is no holder.
            ResourceError: no descriptor is to be had for it.
            ConfigError: OpenSSL refuses the configuration.
        """
        while self._negotiated is None:
            if self._request is None:
                self._cut(b"")  # more may have come at once
            if self._request is None:
                return
            yield from self._ask(wire.encode_request(self._request))
        if self._framer.pending:
            raise TlsifyError("bytes behind the handshake were read")

    def _ask(self, request: bytes) -> Waiting:
        try:
            if self._channel is not None:
                self._channel.send(request, socket.MSG_NOSIGNAL)
            while self._channel is None:
                self._channel = self._rendezvous.invite(request)
                if self._channel is None:
                    yield _PAUSE
            while (reply := self._receive(self._channel)) is None:
                yield self._channel
        except (OSError, ValueError) as exc:
            raise self._lost(exc) from exc
        error = self._take(reply)
        if self._negotiated is not None or error is not None:
            self._channel.close()
        if error is not None:
            raise error

    def _take(self, reply: wire.Reply) -> TlsifyError | None:
        """Process a reply; return the error that ends the handshake."""
        self._request = None
        self._is_answered = True
        output, self._negotiated, self._key_log, error, self.keys = reply
        self._output += output
        if self._output:
            self._framer.ahead = SHORTEST_LAST
        if self._refusal is not None and isinstance(error, HandshakeError):
            self._refusal.alert, self._refusal.server_name = error.alert, error.server_name
            return self._refusal
        return error

    def _receive(self, channel: socket.socket) -> wire.Reply | None:
        """Return the reply, or None as long as there is none.

        Raises:
            ValueError: it is malformed.
            OSError: the holder has ended.
        """
        with _receiving:
            try:
                size = channel.recv_into(_room)
            except BlockingIOError:
                return None
            try:
                if not size:
                    raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
                if size > wire.MAX_REPLY:
                    raise ValueError("its reply is too long")
                return wire.decode_reply(memoryview(_room)[:size])
            finally:
                _room[:size] = bytes(size)

    def _lost(self, exc: OSError | ValueError) -> KeyHolderError | ResourceError:
        """Build the error; the peer is told as long as that needs no keys."""
        if not self._is_answered:
            self._output = encode_plain_alert(AlertDescription.internal_error)
        self.release()
        if isinstance(exc, OSError) and exc.errno in SHORTAGES:
            return ResourceError(exc, "the key holder cannot be reached")
        if self._is_answered:
            return KeyHolderError(f"the key holder ended in the middle of the handshake: {exc}")
        return KeyHolderError(f"no key holder does the handshake: {exc}")

    @property
    def is_asking(self) -> bool:
        """Whether a holder's reply is due."""
        return self._request is not None

    def output(self) -> bytes:
        """Return the bytes to send to the peer now; empty if there are none."""
        output, self._output = self._output, b""
        return output

    def result(self) -> Negotiated | None:
        """Return the outcome, or None while more records are needed."""
        return self._negotiated

    def take_key_log(self) -> bytes:
        """Return the lines that the configuration's ``key_log`` asks for, and forget them."""
        lines, self._key_log = self._key_log, b""
        return lines

    def release(self) -> None:
        """Hang up; the holder forgets the handshake."""
        if self._channel is not None:
            self._channel.close()
