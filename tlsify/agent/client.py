"""Client of the agent: request a handshake, and go on as if it had been done here."""

from __future__ import annotations

import contextlib
import os
import select
import socket
from typing import TYPE_CHECKING, TypeAlias

from tlsify.agent import wire
from tlsify.agent.awaiting import PATIENCE, Watch
from tlsify.agent.errors import revive
from tlsify.connection.setup.plaintext import check_plaintext
from tlsify.errors import SHORTAGES, AgentError, said
from tlsify.keys import wipe
from tlsify.system import scm_rights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tlsify.connection.handoff import Handoff

# A socket's path, or our end of the socketpair whose other end is the agent's.
Place: TypeAlias = "str | Path | int | socket.socket"


def connect(place: Place, sock: socket.socket, request: wire.ClientRequest) -> Handoff:
    """Request a client's handshake, and take over the connection.

    Args:
        place: the agent's socket.
        sock: connected TCP socket, which belongs to tlsify from here on: it is closed after any
            error, except an `AgentError` with ``untouched``.
        request: identities to accept, and when to offload.

    Raises:
        ConfigError: the socket is no connection, or has TLS already, and is left as it was.
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
    check_plaintext(sock)
    message = wire.encode_request(request)
    timeout = sock.gettimeout()
    watch = Watch(sock, request)
    try:
        channel = _ask(place, message, sock)
        try:
            from tlsify.agent import outcome  # noqa: PLC0415 - heavy, and the agent is at work meanwhile

            watch.wait(channel)
            handed = _answer(channel, sock, outcome.handoff)
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
        reason = said(exc)
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


def _answer(
    channel: socket.socket, sock: socket.socket, handoff: Callable[..., Handoff]
) -> Handoff:
    """Receive the reply, and convert it to the result of `establish` (`outcome.handoff`)."""
    message, descriptor = _receive_reply(channel, PATIENCE)
    program_end = None if descriptor is None else scm_rights.as_socket(descriptor)
    try:
        try:
            reply = wire.decode(message, wire.Kernel, wire.Relayed, wire.Failed)
        finally:
            wipe(message)
        if isinstance(reply, wire.Failed):
            raise revive(reply) or AgentError("the agent gives no reason", untouched=False)
        return handoff(channel, sock, program_end, reply)
    except BaseException:
        if program_end is not None:
            program_end.close()
        raise


def _receive_reply(channel: socket.socket, patience: float) -> tuple[bytearray, int | None]:
    channel.settimeout(patience)
    try:
        message, descriptor = scm_rights.receive(channel, wire.MAX_REPLY)
    except ConnectionResetError as exc:
        # AF_UNIX distinguishes an end before the last message was read from one after it
        # (net/unix/af_unix.c unix_release_sock): our socket was not taken.
        raise AgentError("the agent ended before the request was read", untouched=True) from exc
    except OSError as exc:
        what = "does not answer" if isinstance(exc, TimeoutError) else "cannot be heard"
        raise AgentError(f"the agent {what}", untouched=False) from exc
    if not message:
        raise AgentError(
            "the agent ended in the middle of the handshake",
            untouched=False,
            hint="connect again; see the agent's last messages",
        )
    return message, descriptor
