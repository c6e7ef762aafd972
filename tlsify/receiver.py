"""The other side of ``tlsify forward --pass-fd``: connections come ready, with what TLS said."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import socket
import stat
from typing import TYPE_CHECKING, Any, Self, TypeVar

from tlsify.config import ClosePolicy
from tlsify.connection.adoption import adopt
from tlsify.connection.handoff import Handoff, Offload, Reason
from tlsify.connection.stream import TLSSocket
from tlsify.errors import AgentError, ConfigError, TlsifyError
from tlsify.passing import scm_rights
from tlsify.passing.metadata import MAX_MESSAGE, ConnectionInfo
from tlsify.system.modes import bind
from tlsify.tls.explain import truncated

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

T = TypeVar("T")
_log = logging.getLogger("tlsify")

_BACKLOG = 1024
# How long, in seconds, who has connected may take to send something.
_PATIENCE = 5.0
_REFUSAL = b"\0"
_NOT_OURS = Reason(
    "carried", "tlsify forward carries the connection", "start it with --aware, and kernel TLS"
)


class Receiver:
    """Takes connections from ``tlsify forward --pass-fd unix:PATH``.

    Who may connect to the socket may pretend to be any client: its permissions are what guards
    it.
    """

    def __init__(self, where: str | os.PathLike[str] | socket.socket, mode: int = 0o600) -> None:
        """Listen.

        Args:
            where: the path, where a socket that nobody listens on any more is replaced; or a
                listening socket, AF_UNIX and SOCK_SEQPACKET.
            mode: the socket's permissions: who may connect has to have write permission.

        Raises:
            ConfigError: it cannot be listened on, or is no such socket.
        """
        self.sock = where if isinstance(where, socket.socket) else _listen(where, mode)
        if self.sock.family != socket.AF_UNIX or self.sock.type != socket.SOCK_SEQPACKET:
            raise ConfigError(
                "connections cannot be received on this socket",
                hint="make it AF_UNIX and SOCK_SEQPACKET (systemd: ListenSequentialPacket=)",
            )

    def accept(self, closing: ClosePolicy = ClosePolicy.STRICT) -> tuple[TLSSocket, ConnectionInfo]:
        """Wait for the next connection.

        Several processes may wait on one socket. Whatever comes that is no connection is refused,
        and logged.

        Args:
            closing: what an end of stream without close_notify is.

        Returns:
            The connection, which is the caller's to close, and what is told of it.

        Raises:
            OSError: as ``accept``.
        """
        while True:
            channel, _ = self.sock.accept()
            with channel:
                channel.settimeout(_PATIENCE)
                found = take(channel)
            if found is not None:
                handed, told = found
                return PassedSocket(handed, closing), told

    def fileno(self) -> int:
        """Return the listening socket's descriptor, for ``select`` and its like."""
        return self.sock.fileno()

    def close(self) -> None:
        """Listen no more. The path stays, so that the next receiver may take its place."""
        self.sock.close()

    def __enter__(self) -> Self:
        """Close at the end of the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()


class PassedSocket(TLSSocket):
    """A connection that was passed on, which also tells where one that is carried was cut."""

    def shutdown(self, how: int, /) -> None:
        """End as `TLSSocket.shutdown`."""
        carried = self.handoff.relay
        if isinstance(carried, _Carried) and how != socket.SHUT_RD:
            carried.is_shut = True
        super().shutdown(how)

    def _relayed(self, attempt: Callable[[], T], end: T) -> T:
        def tell() -> T:
            try:
                return attempt()
            except ConnectionResetError:
                if isinstance(carried := self.handoff.relay, _Carried):
                    carried.was_reset = True
                raise

        return super()._relayed(tell, end)


class _Carried:
    """A connection that ``tlsify forward`` carries, seen from here: a `handoff.Carrier`.

    Attributes:
        local_address: what clients have connected to.
        peer_address: the client's.
        handoff: the connection's.
        is_shut: whether we have ended our direction.
        was_reset: whether the socket has said so.
        dies_with_process: False; the forwarder outlives it.
    """

    handoff: Handoff
    dies_with_process = False

    def __init__(self, told: ConnectionInfo) -> None:
        self.local_address: Any = told.local
        self.peer_address: Any = told.peer
        self.is_shut = self.was_reset = False

    @property
    def failure(self) -> TlsifyError | OSError | None:
        """What ended the peer's direction: one that was cut takes the other along.

        Once we have ended our own direction nothing tells the two apart any more.
        """
        is_over = self.join(0) and not self.is_shut
        return truncated() if is_over or self.was_reset else None

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the connection is over; tells whether it is."""
        if self.handoff.sock.fileno() == -1:
            return True
        return _is_over(self.handoff.sock, timeout)

    def under_way(self) -> int:
        """Return 0: who carries the connection sees to what was sent."""
        return 0

    def progress(self) -> None:
        """Tell nothing: the connection is its carrier's."""

    def set_option(self, *arguments: Any) -> None:
        """Do nothing: the connection is its carrier's."""

    def end_in_order(self) -> None:
        """Do nothing: who carries the connection takes its end for one."""


def take(channel: socket.socket) -> tuple[Handoff, ConnectionInfo] | None:
    """Receive one connection.

    Args:
        channel: accepted, and ready to be received from; to be closed at once afterwards, which
            says that the connection was taken.

    Returns:
        None if nothing usable came, which was logged and is answered: the sender keeps what it
        has sent, or has sent nothing.
    """
    try:
        return _take(channel)
    except (AgentError, ConfigError, ValueError, OSError) as exc:
        _log.warning("no connection was received: %s", exc)
        with contextlib.suppress(OSError):
            channel.send(_REFUSAL, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        return None


def _take(channel: socket.socket) -> tuple[Handoff, ConnectionInfo]:
    message, descriptor = scm_rights.receive(channel, MAX_MESSAGE)
    try:
        if descriptor is None:
            raise ValueError("no descriptor came")
        sock = scm_rights.as_socket(descriptor)
        try:
            told, size = ConnectionInfo.decode(message)
            if _is_over(channel) and _is_over(sock):
                raise ValueError("it came too late: the sender had given it up")
            return _go_on(sock, told, message[size:]), told
        except BaseException:
            sock.close()
            raise
    finally:
        message[:] = bytes(len(message))


def _is_over(sock: socket.socket, timeout: float | None = 0) -> bool:
    """Wait until both directions have ended; tells whether they have."""
    poller = select.poll()
    poller.register(sock, 0)  # hang-ups are told unasked
    events = poller.poll(None if timeout is None else timeout * 1000)
    return any(event & select.POLLHUP for _, event in events)


def _go_on(sock: socket.socket, told: ConnectionInfo, state: bytearray) -> Handoff:
    if state:
        try:
            return adopt(sock, state)
        finally:
            state[:] = bytes(len(state))
    reason = _NOT_OURS
    if told.reason is not None:
        reason = Reason(told.reason, f"tlsify forward relays the connection: {told.reason}")
    carried = _Carried(told)
    handed = Handoff(sock, Offload.RELAY, reason, told.negotiated(), None, carried)
    carried.handoff = handed
    return handed


def _listen(where: str | os.PathLike[str], mode: int) -> socket.socket:
    path = os.fspath(where)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        _clear(path)
        bind(sock, path, mode)
        sock.listen(_BACKLOG)
    except (OSError, ValueError) as exc:
        sock.close()
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        raise ConfigError(
            f"cannot listen at {path}: {reason}",
            hint="name a socket that nobody listens on, by a path of at most 107 bytes",
        ) from exc
    return sock


def _clear(path: str) -> None:
    """Remove a socket that nobody listens on any more."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return  # binding says so
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        probe.settimeout(0)
        if probe.connect_ex(path) == errno.ECONNREFUSED:
            os.unlink(path)
