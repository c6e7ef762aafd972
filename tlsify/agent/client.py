"""Client of the agent: request a handshake, and go on as if it had been done here."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, TypeAlias

from tlsify.agent import wire
from tlsify.agent.awaiting import PATIENCE, Watch
from tlsify.agent.errors import revive
from tlsify.codepoints import CipherSuite
from tlsify.errors import SHORTAGES, AgentError
from tlsify.system import scm_rights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tlsify.connection.handoff import Handoff
    from tlsify.errors import TlsifyError

# A socket's path, or our end of the socketpair whose other end is the agent's.
Place: TypeAlias = "str | Path | int | socket.socket"

# Milliseconds in which an agent that has ended the program's stream, or died, reports it.
_VERDICT = 1000


def connect(place: Place, sock: socket.socket, request: wire.ClientRequest) -> Handoff:
    """Request a client's handshake, and take over the connection.

    Args:
        place: the agent's socket.
        sock: connected TCP socket, which belongs to tlsify from here on: it is closed after any
            error, except an `AgentError` with ``untouched``.
        request: identities to accept, and when to offload.

    Raises:
        AgentError: no agent runs, or it has died; ``untouched`` says whether the handshake may
            still be done on this connection.
        TlsifyError: as `establish.connect`.
        OSError: likewise.
    """
    return _hand_over(place, sock, request)


def accept(place: Place, sock: socket.socket, request: wire.ServerRequest) -> Handoff:
    """Request a server's handshake with the agent's key, and take over the connection.

    Arguments and errors are those of `connect`.
    """
    return _hand_over(place, sock, request)


def _hand_over(place: Place, sock: socket.socket, request: wire.Request) -> Handoff:
    message = wire.encode_request(request)
    timeout = sock.gettimeout()
    watch = Watch(sock, request)
    try:
        channel = _ask(place, message, sock)
        try:
            import tlsify.connection.handoff  # noqa: F401, PLC0415 - while the agent works

            watch.wait(channel)
            handed = _answer(channel, sock)
        except BaseException:
            channel.close()
            raise
        if handed.relay is None:
            channel.close()
            handed.sock.settimeout(timeout)  # the agent has changed the flags that we share
    except AgentError as exc:
        if not exc.untouched:
            _give_up(sock)
        raise
    except BaseException:
        _give_up(sock)
        raise
    return handed


def _give_up(sock: socket.socket) -> None:
    """End a connection for the agent as well, which may still have it."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()


def _ask(place: Place, message: bytes, sock: socket.socket) -> socket.socket:
    """Send the request; return the channel for the reply."""
    channel = None
    try:
        channel = _open(place)
        scm_rights.send(channel, message, sock.fileno())
    except (OSError, ValueError) as exc:
        if channel is not None:
            channel.close()
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else exc
        if isinstance(exc, OSError) and exc.errno in SHORTAGES:
            raise AgentError(
                f"cannot ask the agent at {_name(place)}: {reason}",
                untouched=True,
                hint=SHORTAGES[exc.errno],
            ) from exc
        raise AgentError(
            f"no agent at {_name(place)}: {reason}",
            untouched=True,
            hint="start tlsify agent there, or do without one",
        ) from exc
    return channel


def _open(place: Place) -> socket.socket:
    """Make a channel to the agent.

    Raises:
        AgentError: another user's process listens there.
        OSError: no process listens there.
    """
    if not isinstance(place, (int, socket.socket)):
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            channel.settimeout(PATIENCE)
            channel.connect(os.fspath(place))
            if (uid := scm_rights.peer_uid(channel)) != os.geteuid():
                raise AgentError(
                    f"the agent at {place} is user {uid}'s", untouched=True, hint="use your own"
                )
        except BaseException:
            channel.close()
            raise
        return channel
    number = place if isinstance(place, int) else place.fileno()
    with socket.socket(fileno=os.dup(number)) as pair:
        channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                _invite(pair, theirs)
        except BaseException:
            channel.close()
            raise
    return channel


def _invite(pair: socket.socket, theirs: socket.socket) -> None:
    """Send the agent its end of a channel.

    Raises:
        OSError: no process listens there, or it does not take the message.
    """
    message = wire.encode(wire.Open())
    poller = select.poll()
    poller.register(pair, select.POLLOUT)
    if not poller.poll(PATIENCE * 1000):
        raise TimeoutError("it takes no more sessions")
    scm_rights.send(pair, message, theirs.fileno())


def _name(place: Place) -> str:
    return "the inherited socket" if isinstance(place, (int, socket.socket)) else str(place)


def _answer(channel: socket.socket, sock: socket.socket) -> Handoff:
    """Receive the reply, and convert it to the result of `establish`."""
    message, descriptor = _receive_reply(channel, PATIENCE)
    program_end = None if descriptor is None else scm_rights.as_socket(descriptor)
    try:
        try:
            reply = wire.decode(message, wire.Kernel, wire.Relayed, wire.Failed)
        finally:
            message[:] = bytes(len(message))
        if isinstance(reply, wire.Failed):
            raise revive(reply) or AgentError("the agent gives no reason", untouched=False)
        if isinstance(reply, wire.Kernel) and program_end is None:
            return _adopt(sock, reply)
        if isinstance(reply, wire.Relayed) and program_end is not None:
            return _take_relay(channel, sock, program_end, reply)
        raise AgentError("the agent's reply and its descriptor do not fit", untouched=False)
    except BaseException:
        if program_end is not None:
            program_end.close()
        raise


def _receive_reply(channel: socket.socket, patience: float) -> tuple[bytearray, int | None]:
    channel.settimeout(patience)
    try:
        message, descriptor = scm_rights.receive(channel, wire.MAX_REPLY)
    except ConnectionResetError as exc:
        # AF_UNIX tells an end before the last message was read from one after it
        # (net/unix/af_unix.c unix_release_sock): our socket was not taken.
        raise AgentError("the agent ended before the request was read", untouched=True) from exc
    except OSError as exc:
        what = "does not answer" if isinstance(exc, TimeoutError) else "cannot be heard"
        raise AgentError(f"the agent {what}", untouched=False) from exc
    if not message:
        raise AgentError(
            "the agent ended in the middle of the handshake",
            untouched=False,
            hint="connect again; see what the agent said last",
        )
    return message, descriptor


def _adopt(sock: socket.socket, reply: wire.Kernel) -> Handoff:
    from tlsify.connection.adoption import adopt  # noqa: PLC0415 - see `_hand_over`

    try:
        return adopt(sock, reply.state)
    finally:
        reply.state[:] = bytes(len(reply.state))


def _take_relay(
    channel: socket.socket, sock: socket.socket, program_end: socket.socket, reply: wire.Relayed
) -> Handoff:
    from tlsify.connection.handoff import Handoff, Offload, Reason  # noqa: PLC0415 - see `_hand_over`
    from tlsify.tls.negotiated import Negotiated  # noqa: PLC0415 - likewise

    try:
        suite = CipherSuite.from_number(reply.suite)
    except KeyError as exc:
        raise AgentError(f"the agent agreed on suite {reply.suite}", untouched=False) from exc
    negotiated = Negotiated.without_keys(
        suite,
        alpn=reply.alpn,
        server_name=reply.server_name,
        certificate=reply.certificate,
        group=reply.group,
        resumed=reply.resumed,
        max_fragment_length=reply.max_fragment_length,
    )
    reason = Reason(reply.code, reply.sentence, reply.hint)
    relay = RemoteRelay(channel, sock)
    sock.close()  # the agent has it
    return Handoff(program_end, Offload.RELAY, reason, negotiated, None, relay)


class _Channel(socket.socket):
    """Channel that closes silently if its end is not needed: the connection goes on without it."""

    def __del__(self) -> None:
        self.close()


class RemoteRelay:
    """A connection that the agent relays, seen from here: a `handoff.Carrier`.

    Attributes:
        local_address: the connection's; None if it was already broken.
        peer_address: likewise.
        dies_with_process: False; the agent outlives it.
    """

    dies_with_process = False

    def __init__(self, channel: socket.socket, sock: socket.socket) -> None:
        """Store the channel on which the agent reports the end, and the connection's socket."""
        self._channel = _Channel(fileno=channel.detach())
        self._lock = threading.Lock()
        self._told = self._is_over = False
        self._failure: TlsifyError | OSError | None = None
        self.local_address = _address(sock.getsockname)
        self.peer_address = _address(sock.getpeername)

    @property
    def failure(self) -> TlsifyError | OSError | None:
        """Return the error that ended the peer's direction: call it after the end of the stream.

        A live agent has reported it by then, or does at once. If the agent was killed, the stream
        may end first.
        """
        self._wait(_VERDICT, lambda: self._told)
        return self._failure

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the connection is over; return whether it is."""
        self._wait(None if timeout is None else timeout * 1000, lambda: self._is_over)
        return self._is_over

    def under_way(self) -> int:
        """Return 0: the agent delivers sent data, whether or not this process waits."""
        return 0

    def progress(self) -> None:
        """Return None: only the agent has the connection itself."""

    def set_option(self, *arguments: Any) -> None:
        """Do nothing: only the agent has the connection itself."""

    def end_in_order(self) -> None:
        """Notify the agent; otherwise it treats the program's end as a cut."""
        with contextlib.suppress(OSError):
            self._channel.send(wire.IN_ORDER, socket.MSG_DONTWAIT)

    def _wait(self, milliseconds: float | None, enough: Callable[[], bool]) -> None:
        """Receive the agent's messages, until the end is known or the time is over."""
        deadline = None if milliseconds is None else time.monotonic() + milliseconds / 1000
        while not enough() and not self._is_over:
            poller = select.poll()
            poller.register(self._channel, select.POLLIN)
            left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
            if not poller.poll(left):
                return
            with self._lock:
                if not self._is_over:
                    self._take()

    def _take(self) -> None:
        """Receive one message, or the end; another thread may have been quicker."""
        message, descriptor = bytearray(), None
        try:
            self._channel.settimeout(0)
            message, descriptor = scm_rights.receive(self._channel, wire.MAX_REPLY)
            if message:
                self._failure = revive(wire.decode(message, wire.Ended))
                self._told = True
        except (BlockingIOError, ConnectionResetError):
            # The agent need not read all messages. Its own message is still queued behind that
            # error.
            return
        except AgentError as exc:
            self._failure, self._told = exc, True
        except OSError:  # it has ended, too
            message.clear()
        finally:
            if descriptor is not None:
                os.close(descriptor)
        if not message:
            self._is_over = True
            self._channel.close()
            if not self._told:
                self._told = True
                self._failure = AgentError(
                    "the agent ended while it carried the connection",
                    untouched=False,
                    hint="what was received may be incomplete; connect again",
                )


def _address(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except OSError:
        return None
