"""Outcome of an agent's handshake: its reply, converted to a Handoff."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlsify.agent import wire
from tlsify.agent.remote_relay import RemoteRelay
from tlsify.codepoints import CipherSuite
from tlsify.connection.adoption import adopt
from tlsify.connection.handoff import Handoff, Offload, Reason
from tlsify.errors import AgentError
from tlsify.keys import wipe
from tlsify.tls.negotiated import Negotiated

if TYPE_CHECKING:
    import socket


def handoff(
    channel: socket.socket,
    sock: socket.socket,
    program_end: socket.socket | None,
    reply: wire.Kernel | wire.Relayed,
) -> Handoff:
    """Convert a reply; of a connection that the agent relays, ``sock`` is closed.

    Args:
        channel: on which the agent reports a relayed connection's end.
        sock: the connection.
        program_end: the descriptor that came with the reply.
        reply: the agent's; a session's state in it is wiped.

    Raises:
        AgentError: the reply makes no sense.
    """
    if isinstance(reply, wire.Kernel) and program_end is None:
        try:
            return adopt(sock, reply.state)
        finally:
            wipe(reply.state)
    if isinstance(reply, wire.Relayed) and program_end is not None:
        return _relayed(channel, sock, program_end, reply)
    raise AgentError("the agent's reply and its descriptor do not fit", untouched=False)


def _relayed(
    channel: socket.socket, sock: socket.socket, program_end: socket.socket, reply: wire.Relayed
) -> Handoff:
    try:
        suite = CipherSuite.from_number(reply.suite)
    except KeyError as exc:
        raise AgentError(f"the agent agreed on suite {reply.suite}", untouched=False) from exc
    negotiated = Negotiated(
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
