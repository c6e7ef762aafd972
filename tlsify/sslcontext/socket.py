"""SSLSocket: a TLSSocket with the methods and errors of Python's `ssl.SSLSocket`."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import threading
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, Self

from tlsify.config import ClientConfig, ClosePolicy, ServerConfig
from tlsify.connection.establish import PendingConnection
from tlsify.connection.setup import handshake
from tlsify.connection.setup.dialing import closed_on_error
from tlsify.connection.stream import TLSSocket
from tlsify.errors import TlsifyError
from tlsify.sslcontext.answers import Answers
from tlsify.sslcontext.errors import again, ssl_error, would_block
from tlsify.sslcontext.facts import TLSInfo

if TYPE_CHECKING:
    from socket import _SendableFile

    from _typeshed import ReadableBuffer, WriteableBuffer

    from tlsify.config import KtlsPolicy
    from tlsify.connection.handoff import Handoff

_log = logging.getLogger("tlsify")


class Choices(Protocol):
    """Settings that a socket gets from its context."""

    @property
    def policy(self) -> KtlsPolicy:
        """When to offload."""

    def server_config(self) -> ServerConfig:
        """Return a server's configuration."""

    def client_config(self, server_hostname: str | None) -> ClientConfig:
        """Return the configuration of a client of that server."""


class SSLSocket(Answers, TLSSocket):
    """A TLSSocket for programs written for `ssl.SSLSocket`.

    The handshake is done by `do_handshake`, or by the first call that needs it: `recv`, `send`, or
    a question about the connection. So ``accept`` on a listening socket does not wait for the
    handshake; the thread that serves the connection does. Errors are `ssl.SSLError`, which is an
    OSError, with tlsify's own as ``__cause__``. The descriptor's number stays the same throughout.

    Attributes:
        context: the context that made it.
        do_handshake_on_connect: whether `connect` does the handshake, too.
        server_side: the role.
        server_hostname: name that a client verifies; of a server's connection, the SNI of its
            client once the handshake is done.
    """

    def __init__(
        self,
        sock: socket.socket,
        context: Choices,
        *,
        server_side: bool,
        suppress_ragged_eofs: bool = True,
        server_hostname: str | None = None,
    ) -> None:
        """Take over a socket: a connection, one to be, or a listening one.

        Args:
            sock: of type SOCK_STREAM; it is detached.
            context: has the settings for the handshake.
            server_side: the role.
            suppress_ragged_eofs: accept an end of stream without close_notify as a clean end.
            server_hostname: name that a client verifies.
        """
        timeout = sock.gettimeout()
        socket.socket.__init__(self, fileno=sock.detach())
        self._channel = None
        self._facts: TLSInfo | None = None
        self._failure: OSError | None = None
        self._beginning = threading.RLock()
        self._on_ragged_end = ClosePolicy.RELAXED if suppress_ragged_eofs else ClosePolicy.STRICT
        self.context = context
        self.do_handshake_on_connect = False
        self.server_side = server_side
        self.server_hostname = server_hostname
        self.settimeout(timeout)

    # -- the handshake

    @classmethod
    def established(cls, handed: Handoff, context: Choices) -> Self:
        """Make a server's socket of a connection whose handshake was done elsewhere."""
        made = cls(handed.sock, context, server_side=True)
        made._facts = made._adopt(handed, verified=True)
        return made

    def do_handshake(self, block: bool = False) -> None:
        """Do the handshake, unless it is done; the socket's timeout holds for the whole of it.

        Raises:
            ssl.SSLError: it failed; the peer got its alert, and the connection is over.
            TimeoutError: the handshake took too long.
            ValueError: the socket is non-blocking.
            OSError: the connection broke, or there is none.
        """
        if self.fileno() == -1:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        self._begin()

    def _begin(self) -> TLSInfo:
        """Do the handshake, once; return its outcome."""
        return self._facts or self._establish()

    def _establish(self) -> TLSInfo:
        with self._beginning:
            if self._facts is not None:
                return self._facts
            if self._failure is not None:
                raise again(self._failure)
            self._refuse_unconnected()
            if self.gettimeout() == 0:
                raise ValueError("tlsify's handshake needs a socket that may wait")
            # Until it is done it has failed: whoever begins anew, a signal handler, say, or the
            # program after Ctrl-C, would send a second ClientHello.
            self._failure = _interrupted()
            try:
                facts = self._take(self._hand_over())
            except BaseException as exc:
                # A later call on this object must not send a byte in clear.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self, socket.SHUT_RDWR)
                _log.info("handshake failed: %s", exc or type(exc).__name__)
                if isinstance(exc, OSError):
                    self._failure = again(exc)
                elif isinstance(exc, TlsifyError):
                    self._failure = again(ssl_error(exc))
                    raise again(self._failure) from exc
                raise
            self._failure, self._facts = None, facts
            return facts

    def _refuse_unconnected(self) -> None:
        """Leave a socket alone that has no peer yet, or listens: the call came too early.

        Raises:
            OSError: ENOTCONN, or the error that ended the connection.
        """
        try:
            socket.socket.getpeername(self)
        except OSError as exc:
            if exc.errno != errno.ENOTCONN:
                raise
            number = self.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or errno.ENOTCONN
            raise OSError(number, os.strerror(number)) from exc

    def _hand_over(self) -> Handoff:
        """Do the handshake on a second descriptor, which is the one that closes on errors."""
        self._config = config = self._choose()
        limit = self.gettimeout()
        seconds = config.timeout if limit is None else min(limit, config.timeout)
        raw = socket.socket(fileno=os.dup(self.fileno()))
        with closed_on_error(raw):
            raw.settimeout(limit)
            with PendingConnection(raw, config, self.context.policy) as opening:
                handshake.run(raw, opening.engine, seconds)
                return opening.commit()

    def _choose(self) -> ClientConfig | ServerConfig:
        if self.server_side:
            return self.context.server_config()
        return self.context.client_config(self.server_hostname)

    def _take(self, handed: Handoff) -> TLSInfo:
        """Take over the established connection, under the descriptor's old number."""
        verified = isinstance(self._config, ServerConfig) or self._config.verify
        os.dup2(handed.sock.fileno(), self.fileno(), inheritable=self.get_inheritable())
        handed.sock.close()
        return self._adopt(handed, verified=verified)

    def _adopt(self, handed: Handoff, *, verified: bool) -> TLSInfo:
        """Take over the connection that has our descriptor."""
        readers, closed = self._io_refs, self._closed  # type: ignore[has-type]
        timeout = self.gettimeout()
        handed.sock = socket.socket(fileno=self.detach())
        handed.sock.settimeout(timeout)
        super().__init__(handed, self._on_ragged_end)
        # Files made from this socket before keep it open, even if it was closed itself.
        self._io_refs, self._closed = readers, closed
        facts = TLSInfo(handed, verified=verified)
        if self.server_side:
            self.server_hostname = facts.server_hostname
        return facts

    @property
    def facts(self) -> TLSInfo:
        """Outcome of the handshake, which is done now if necessary."""
        return self._begin()

    def _outcome(self) -> TLSInfo | None:
        """Return the outcome, as `facts`; None if there is no connection yet."""
        try:
            return self._begin()
        except OSError as exc:
            if exc.errno != errno.ENOTCONN:
                raise
            return None

    _finished = _begin

    # -- before the handshake

    def accept(self) -> tuple[SSLSocket, Any]:
        """Accept a connection; its handshake is done in the first call that needs it."""
        sock, address = super().accept()
        suppress = self._on_ragged_end is ClosePolicy.RELAXED
        served = SSLSocket(sock, self.context, server_side=True, suppress_ragged_eofs=suppress)
        return served, address

    def connect(self, address: Any, /) -> None:
        """Connect, and do the handshake if that was wanted."""
        super().connect(address)
        if self.do_handshake_on_connect:
            self.do_handshake()

    def connect_ex(self, address: Any, /) -> int:
        """Connect as `connect`; return the errno of a failure to connect."""
        number = super().connect_ex(address)
        if number == 0 and self.do_handshake_on_connect:
            self.do_handshake()
        return number

    def shutdown(self, how: int, /) -> None:
        """End a direction, with close_notify if there has been a handshake."""
        if self._facts is None:
            socket.socket.shutdown(self, how)
        else:
            super().shutdown(how)

    def detach(self) -> int:
        """Return the descriptor's number, and leave it to the caller."""
        return socket.socket.detach(self) if self._facts is None else super().detach()

    def cut(self) -> None:
        """Make every later end one without close_notify, if there has been a handshake."""
        if self._facts is not None:
            super().cut()

    def _real_close(self, *args: Any) -> None:
        if self._facts is None:
            socket.socket._real_close(self, *args)  # type: ignore[attr-defined]  # noqa: SLF001 - past TLSSocket's
        else:
            super()._real_close(*args)

    # -- data

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """Receive as `TLSSocket.recv`; raises OSError only.

        Where it may not wait, and nothing is there, that is SSLWantReadError.
        """
        self._begin()
        try:
            return super().recv(buflen, flags)
        except BlockingIOError as exc:
            raise self._want(exc, reading=True) from exc
        except TlsifyError as exc:
            raise ssl_error(exc, is_established=True) from exc

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        """Receive as `TLSSocket.recv_into`; raises as `recv`."""
        self._begin()
        try:
            return super().recv_into(buffer, nbytes or 0, flags)
        except BlockingIOError as exc:
            raise self._want(exc, reading=True) from exc
        except TlsifyError as exc:
            raise ssl_error(exc, is_established=True) from exc

    def send(self, data: ReadableBuffer, flags: int = 0) -> int:
        """Send as `TLSSocket.send`; raises OSError only.

        Where it may not wait, and there is no room, that is SSLWantWriteError.
        """
        self._begin()
        try:
            return super().send(data, flags)
        except BlockingIOError as exc:
            raise self._want(exc, reading=False) from exc
        except TlsifyError as exc:
            raise ssl_error(exc, is_established=True) from exc

    def sendall(self, data: ReadableBuffer, flags: int = 0) -> None:
        """Send all, as `send`."""
        self._begin()
        super().sendall(data, flags)

    def _want(self, exc: BlockingIOError, *, reading: bool) -> OSError:
        """Return `ssl`'s error, unless MSG_DONTWAIT was given, which `ssl` does not have."""
        return exc if self.gettimeout() != 0 else would_block(reading=reading)

    def sendfile(self, file: _SendableFile, offset: int = 0, count: int | None = None) -> int:
        """Send as `TLSSocket.sendfile`; raises OSError only."""
        self._begin()
        try:
            return super().sendfile(file, offset, count)
        except TlsifyError as exc:
            raise ssl_error(exc, is_established=True) from exc

    def read(self, len: int = 1024, buffer: WriteableBuffer | None = None) -> bytes | int:
        """Receive as `recv`, or as `recv_into`."""
        return self.recv(len) if buffer is None else self.recv_into(buffer, len)

    def write(self, data: ReadableBuffer) -> int:
        """Send as `send`."""
        return self.send(data)

    def pending(self) -> int:
        """Return 0: no data is buffered that poll does not report."""
        return 0

    def unwrap(self) -> None:
        """Close in both directions, as `TLSSocket.unwrap`; there is no way back to plain text."""
        self._begin()
        try:
            super().unwrap()
        except TlsifyError as exc:
            raise ssl_error(exc, is_established=True) from exc

    def _no_datagrams(self, *_: object, **__: object) -> NoReturn:
        raise NotImplementedError("a TLS connection is a stream: use send and recv")

    sendto = recvfrom = recvfrom_into = sendmsg = recvmsg = recvmsg_into = _no_datagrams


def _interrupted() -> OSError:
    return ConnectionAbortedError(
        errno.ECONNABORTED, "the handshake was interrupted, and cannot go on; hint: connect again"
    )
