"""Handoff: the caller's descriptor that speaks plaintext, and its control methods."""

from __future__ import annotations

import contextlib
import errno
import socket
import weakref
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

from tlsify.connection.ending import forks
from tlsify.connection.ending.calls import Calls, CountedSocket
from tlsify.connection.ending.forks import Share
from tlsify.errors import ConfigError, RekeyUnsupported
from tlsify.tls import serialize
from tlsify.tls.explain import truncated

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from tlsify.connection.control import Channel
    from tlsify.connection.ending.linger import Ending
    from tlsify.connection.ending.patience import Death, Progress
    from tlsify.errors import TlsifyError
    from tlsify.tls.negotiated import Negotiated


class Offload(Enum):
    """Carrier of a connection's records: the kernel or a relay."""

    KERNEL = "kernel"
    RELAY = "relay"


class Reason(NamedTuple):
    """Reason why a connection is relayed.

    Attributes:
        code: short and stable, such as "no-tls-ulp" (docs/cli.md lists them).
        sentence: the same in words.
        hint: a remedy, or None.
    """

    code: str
    sentence: str
    hint: str | None = None


class Carrier(Protocol):
    """Interface of a relay, in this process (`relay.Relay`) or in an agent's."""

    local_address: Any
    peer_address: Any
    dies_with_process: bool  # and whether this process does with it (`forks.is_short_lived`)

    @property
    def network(self) -> socket.socket | None:
        """Return the connection's own socket; None if another process has it."""

    @property
    def failure(self) -> TlsifyError | OSError | None:
        """Return the error that ended the peer's direction; None if there is none."""

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the connection is over; return whether it is."""

    def is_lost(self, program_end: socket.socket) -> bool:
        """Return whether the relay has ended without telling how the connection has."""

    def under_way(self) -> int:
        """Return the number of bytes sent by the program and not acknowledged by the peer."""

    def progress(self) -> Progress | None:
        """Return the connection's progress; None if it is not available here.

        Raises:
            OSError: the connection is over.
        """

    def end_in_order(self) -> None:
        """Make every later end of the program's data a clean one, with close_notify."""


@dataclass(slots=True, eq=False)
class Handoff:
    """An established connection for the caller.

    Attributes:
        sock: speaks plaintext. On the kernel path its descriptor is the connection itself, and
            docs/handoff.md says what each call on it may return; on the relay path it is one end
            of a socketpair.
        offload: kernel or relay.
        reason: why it is not the kernel; None if it is.
        negotiated: outcome of the handshake.
        channel: serves control records; None on the relay path.
        relay: None on the kernel path.
        share: this process's share in the connection.
        is_cut: whether every later end is without close_notify.
        death: error that a TLSSocket has met, past its own life; None without one.
        calls: those that threads are in. On the kernel path those of a TLSSocket alone are known.
    """

    _sock: socket.socket
    offload: Offload
    reason: Reason | None
    negotiated: Negotiated
    channel: Channel | None
    relay: Carrier | None
    share: Share = field(default_factory=Share)
    is_cut: bool = False
    death: Death | None = None
    calls: Calls = field(default_factory=Calls)
    _is_parted: bool = False
    _owner: weakref.ref[socket.socket] | None = None

    def __post_init__(self) -> None:
        """Count the calls on a relay's socketpair."""
        if self.relay is not None and self.relay.network is not self._sock:
            self._sock = CountedSocket(self._sock, self.calls)

    @property
    def sock(self) -> socket.socket:
        """Return the program's socket."""
        owner = None if self._owner is None else self._owner()
        return self._sock if owner is None else owner

    @sock.setter
    def sock(self, sock: socket.socket) -> None:
        self._sock, self._owner = sock, None

    def belong_to(self, owner: socket.socket, descriptor: socket.socket) -> None:
        """Have a TLSSocket as ``sock``, without keeping it alive, and its descriptor after it."""
        self._sock, self._owner = descriptor, weakref.ref(owner)

    @property
    def peer_closed(self) -> bool:
        """Whether the peer has ended its direction with close_notify (kernel path)."""
        return self.channel is not None and self.channel.session.peer_closed

    def service(self) -> bool:
        """Serve the record that made a plain read of ``sock`` fail with EIO, or return 0 bytes.

        A KeyUpdate that asks for one in return is answered at once: other threads that write to
        ``sock`` must hold ``channel.writing``, or a record may get in between. If one of them holds
        it just now, the next `service` or `refresh` answers.

        Returns:
            False once the peer has sent close_notify. On the relay path there is nothing to
            serve; False says that the relay has ended.

        Raises:
            Truncated: the stream ended without close_notify.
            HandshakeError: the connection is over; the peer got its alert.
            OSError: as ``recv``; BlockingIOError if nothing is next.
        """
        self._refuse_detached()
        if self.channel is None:
            self.raise_failure()
            return self.relay is not None and not self.relay.join(0)
        self.channel.settle_if_free()
        return self.channel.service()

    def key_update(self, *, request: bool = False) -> None:
        """Send a KeyUpdate, and install a new sending key (RFC 8446 4.6.3).

        Args:
            request: ask the peer to change its own, too.

        Raises:
            RekeyUnsupported: this kernel, TLS 1.2 or the relay cannot; nothing was sent.
            OSError: the connection broke; BlockingIOError if it does not fit now.
        """
        self._refuse_detached()
        if self.channel is None:
            raise RekeyUnsupported(
                "relay",
                0,
                "OpenSSL has the keys, and changes them only if the peer asks for it",
                hint="ask for it where handoff.relay is None",
            )
        with self.channel.writing:
            self.channel.key_update(request=request)

    def refresh(self) -> None:
        """Send the answer to a KeyUpdate if one is due; change the sending key near its limit.

        TLSSocket does both by itself. A program that writes to the bare descriptor must call it
        every few million records: 2**24 of AES-GCM are too many (RFC 8446 5.5). A thread that
        writes while another calls `service` calls it whenever it has released ``channel.writing``.

        Raises:
            RekeyUnsupported: the key is used up and cannot be changed: the connection was ended.
            OSError: as `key_update`.
        """
        if self.channel is not None:
            with self.channel.writing:
                self.channel.settle()
                self.channel.refresh()

    def raise_failure(self) -> None:
        """Raise the error that ended a relayed connection, if it did not end cleanly.

        Raises:
            Truncated: no close_notify came.
            HandshakeError: a record was wrong, or the peer sent an error alert.
            OSError: the connection broke.
        """
        if self.relay is None:
            return
        is_lost = self.relay.is_lost(self.sock)
        if (failure := self.relay.failure) is not None:
            raise failure.with_traceback(None)  # or it would get longer with each call
        if is_lost:
            raise truncated()

    def shutdown(self) -> None:
        """End the sending direction: close_notify, then FIN. Receiving goes on.

        It does not wait for the peer: if the send buffer is full, the rest goes out in the
            background.
        Another thread that is sending, or holds ``channel.writing``, has half a second at most to
        be done; then FIN goes out alone (`tear`).
        """
        self._refuse_detached()
        if not self.calls.finish_sending():
            self.tear()
            return
        if self.channel is not None:
            self.channel.shut_down()
            return
        if self.relay is not None:
            self.relay.end_in_order()
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def tear(self) -> None:
        """End our direction amid another thread's data, without close_notify: it gets EPIPE.

        On the relay the receiving direction ends, too.
        """
        self.is_cut = True
        if self.channel is not None:
            self.channel.abort(None)
            return
        self.calls.refusal = self.calls.refusal or errno.ECONNABORTED
        self._wake()

    def deafen(self) -> None:
        """Have the end of the receiving direction be the program's own, not a cut."""
        self.calls.are_deaf = True
        if self.channel is not None:
            self.channel.is_deaf = True

    def _wake(self) -> None:
        """End both directions for every copy of the descriptor, and for calls under way."""
        is_inline = self.relay is not None and self.relay.network is self.sock
        kind = type(self.sock) if is_inline else socket.socket  # a TLSSocket would say close_notify
        with contextlib.suppress(OSError):
            kind.shutdown(self.sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """End both directions cleanly; the last bytes go out in the background.

        Another thread that is sending has half a second at most to be done; then the end is without
        close_notify. Other threads' calls end.

        That holds in the process that serves the connection, or alone has it. If a fork has shared
        it, and this process has not used it since, only this process's copy is closed. A detached
        connection belongs to another process: nothing happens to it.
        """
        self._close(in_order=True)

    def abort(self) -> None:
        """Close both directions without close_notify, so that the peer sees truncation.

        Use it to relay a stream that was itself cut off. Data sent before still arrives.
        """
        self._close(in_order=False)

    def _close(self, *, in_order: bool) -> None:
        if self.sock.fileno() != -1:
            wait = self.part(in_order=in_order)
            self.sock.close()
            wait(None)

    @property
    def dies_with_process(self) -> bool:
        """Whether this process was forked for the connection, and unsent data is lost with it."""
        if self.channel is not None:
            is_client = self.channel.session.is_client
            return forks.is_short_lived(self.sock, is_client=is_client)
        return self.relay is not None and self.relay.dies_with_process

    def part(
        self, *, in_order: bool, may_wait: bool | None = None
    ) -> Callable[[float | None], bool]:
        """End the directions that this process may end; then the descriptor can be closed.

        Args:
            in_order: whether with close_notify.
            may_wait: whether the caller is going to wait; the default is whether the socket blocks.

        Returns:
            A function to call after closing, with a number of seconds or None. In a process that
            was forked for this connection it waits for data that would be lost with the process,
            and returns whether that is out.
        """
        if self._is_parted:
            return _is_out
        self._is_parted = True
        in_order = in_order and not self.is_cut
        ends = self.share.is_last_or_serving(self.sock)
        if may_wait is None:
            may_wait = self.sock.gettimeout() != 0
        may_wait = may_wait and self.dies_with_process
        if not ends and self.channel is not None:
            self.channel.wipe()
        if ends and (ending := self._part(in_order=in_order)) is not None:
            return ending.wait if may_wait else _is_out
        if may_wait and self.relay is not None and not self.share.is_shared:
            return self.relay.join
        return _is_out

    def _part(self, *, in_order: bool) -> Ending | None:
        """End both directions, of other copies, too; return what goes on in the background."""
        self.calls.refusal = errno.EBADF
        self.deafen()
        if not self.calls.finish_sending():
            self.tear()
            in_order = False
        is_over = self.share.is_shared or bool(self.calls.receives)
        if self.channel is not None:
            is_over |= in_order or self.channel.reading.locked()  # FIN has to follow close_notify
            ending = self.channel.part(self.channel, in_order=in_order)
            if ending is not None:
                return ending
        elif self.relay is not None and in_order:
            self.relay.end_in_order()
        if is_over:  # no fork's copy and no thread's call is a reason to go on
            self._wake()
        return None

    def detach(self) -> tuple[int, bytearray]:
        """Return the descriptor and the state, for another process to `adopt`.

        Returns:
            The descriptor, and the session's state. Both give access to the traffic secrets: pass
            the state through a private pipe or socket, then overwrite it. Here the secrets are
            wiped.

        Raises:
            ConfigError: on the relay path this process must go on relaying: pass the descriptor
                alone, and let this process live. A failed connection has no state.
        """
        if self.channel is None:
            raise ConfigError(
                "a relayed connection cannot move to another process",
                hint="pass its descriptor on, and let this process live",
            )
        self._refuse_detached()
        session = self.channel.session
        if session.failure is not None:
            raise ConfigError(
                "the connection has failed already", hint="see the error it failed with"
            ) from session.failure
        state = serialize.export_secrets(self.negotiated, session)
        self.channel.wipe()
        # A TLSSocket's are the descriptor's own, and would go along with it.
        self.sock.settimeout(None)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        return self.sock.detach(), state

    def _refuse_detached(self) -> None:
        if self.sock.fileno() == -1:
            raise ConfigError(
                "the connection was closed here, or handed away", hint="go on where it is now"
            )

    def __enter__(self) -> Self:
        """Close at the end of the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close; without close_notify after an exception."""
        self._close(in_order=kind is None)


def _is_out(_timeout: float | None) -> bool:
    """Return True: there is nothing to wait for."""
    return True
