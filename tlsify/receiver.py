"""The receiving side of ``tlsify forward --pass-fd``: ready connections, with TLS metadata."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
from typing import TYPE_CHECKING, Any, Self, TypeVar

from tlsify.config import ClosePolicy
from tlsify.connection.adoption import adopt
from tlsify.connection.handoff import Handoff, Offload, Reason
from tlsify.connection.stream import TLSSocket
from tlsify.errors import AgentError, ConfigError, TlsifyError, said
from tlsify.keys import wipe
from tlsify.passing.metadata import MAX_MESSAGE, ConnectionInfo
from tlsify.system import scm_rights
from tlsify.system.listening import is_left_over
from tlsify.system.modes import bind
from tlsify.tls.explain import truncated

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
_log = logging.getLogger("tlsify")

_BACKLOG = 1024
# Seconds that a process may take to send a message after connecting.
_PATIENCE = 5.0
_REFUSAL = b"\0"
_NOT_OURS = Reason(
    "carried", "tlsify forward carries the connection", "start it with --aware, and kernel TLS"
)


class Receiver:
    """Receives connections from ``tlsify forward --pass-fd unix:PATH``.

    A process that can connect to the socket can pretend to be any client: the socket's permissions
    must keep others out.
    """

    def __init__(self, where: str | os.PathLike[str] | socket.socket, mode: int = 0o600) -> None:
        """Listen.

        Args:
            where: a path, at which a socket without a listener is replaced; or a listening socket,
                AF_UNIX and SOCK_SEQPACKET.
            mode: the socket's permissions: connecting takes write permission.

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

        Several processes may wait on one socket. Other messages are refused and logged.

        Args:
            closing: meaning of an end of stream without close_notify.

        Returns:
            The connection, which the caller closes, and its metadata.

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
        """Stop listening. The path stays, so that the next receiver may take its place."""
        self.sock.close()

    def __enter__(self) -> Self:
        """Close at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


class PassedSocket(TLSSocket):
    """A passed connection; for a relayed one it also reports truncation."""

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
    """A connection that ``tlsify forward`` relays, seen from here: a `handoff.Carrier`.

    Attributes:
        local_address: the address that clients connect to.
        peer_address: the client's.
        handoff: the connection's.
        is_shut: whether we have ended our direction.
        was_reset: whether the socket has reported a reset.
        dies_with_process: False; the forwarder outlives it.
    """

    handoff: Handoff
    dies_with_process = False

    def __init__(self, told: ConnectionInfo) -> None:
        self.local_address: Any = told.local
        self.peer_address: Any = told.peer
        self.is_shut = self.was_reset = False

    network = None  # only the forwarder has it

    @property
    def failure(self) -> TlsifyError | OSError | None:
        """Return the error that ended the peer's direction: a cut ends both directions.

        Once we have ended our own direction, a cut cannot be distinguished any more.
        """
        is_over = self.join(0) and not self.is_shut
        return truncated() if is_over or self.was_reset else None

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the connection is over; return whether it is."""
        if self.handoff.sock.fileno() == -1:
            return True
        return _is_over(self.handoff.sock, timeout)

    def is_lost(self, program_end: socket.socket) -> bool:  # noqa: ARG002 - `Carrier` has it
        """Return False: `failure` tells of a forwarder that has ended."""
        return False

    def under_way(self) -> int:
        """Return 0: the forwarder delivers sent data."""
        return 0

    def progress(self) -> None:
        """Return None: only the forwarder has the connection itself."""

    def end_in_order(self) -> None:
        """Do nothing: the forwarder treats every end as a clean one."""


def take(channel: socket.socket) -> tuple[Handoff, ConnectionInfo] | None:
    """Receive one connection.

    Args:
        channel: accepted and readable; the caller closes it at once afterwards, which confirms that
            the connection was taken.

    Returns:
        None if no usable message came; that was logged and answered, and the sender keeps its
        connection.
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
        wipe(message)


def _is_over(sock: socket.socket, timeout: float | None = 0) -> bool:
    """Wait until both directions have ended; return whether they have."""
    poller = select.poll()
    poller.register(sock, 0)  # hang-ups are told unasked
    events = poller.poll(None if timeout is None else timeout * 1000)
    return any(event & select.POLLHUP for _, event in events)


def _go_on(sock: socket.socket, told: ConnectionInfo, state: bytearray) -> Handoff:
    if state:
        try:
            return adopt(sock, state)
        finally:
            wipe(state)
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
        with contextlib.suppress(FileNotFoundError):
            if is_left_over(path, socket.SOCK_SEQPACKET):
                os.unlink(path)
        bind(sock, path, mode)
        sock.listen(_BACKLOG)
    except (OSError, ValueError) as exc:
        sock.close()
        reason = said(exc)
        raise ConfigError(
            f"cannot listen at {path}: {reason}",
            hint="name an unused socket, by a path of at most 107 bytes",
        ) from exc
    return sock
