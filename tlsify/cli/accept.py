"""tlsify accept: one TLS server connection on a socket that another program has accepted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlsify.cli.options import common as shared
from tlsify.cli.options import numbers
from tlsify.cli.options import server as server_options
from tlsify.cli.program import cuts, outcome, ucspi
from tlsify.cli.program.descriptors import hand_on, take_socket
from tlsify.connection.establish import accept
from tlsify.errors import UsageError

if TYPE_CHECKING:
    import argparse
    import socket
    from collections.abc import Callable

    from tlsify.cli.parser import GlobalOptions
    from tlsify.config import KtlsPolicy
    from tlsify.connection.handoff import Handoff

DESCRIPTION = "Serve TLS on one connection that inetd or another program has accepted."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own options."""
    server_options.add_arguments(parser)
    shared.add_timing(parser, "for the handshake")
    parser.add_argument(
        "--fd",
        type=numbers.descriptor,
        metavar="N",
        help="connected socket; default 0, as inetd passes it",
    )
    shared.add_agent(parser)
    outcome.add_arguments(parser)
    parser.usage = f"{parser.prog} [OPTION...] [-- PROG ARG...]"
    parser.epilog = "PROG runs with the connection on descriptors 0 (read) and 1 (write)."


def run(arguments: argparse.Namespace, options: GlobalOptions) -> int:
    """Shake hands, and see to what is to become of the connection."""
    outcome.check(arguments)
    if arguments.user is not None:  # another user may not be able to read it
        from tlsify.cli.program import execute  # noqa: F401 - few need it
    if not arguments.fd and not (arguments.program or arguments.send_fd or arguments.aware):
        raise UsageError(
            "stdin is the connection, and there is no program to use it",
            hint="add -- PROG ARG..., or name the connected socket with --fd N",
        )
    policy = outcome.policy(arguments, options)
    hand_over = _by_agent(arguments, policy) if arguments.agent else _here(arguments, policy)
    with take_socket(arguments.fd or 0) as sock:

        def open_connection() -> ucspi.Connection:
            return ucspi.open_connection(hand_on(sock), hand_over)

        with cuts.told(cuts.peer_of(sock)):
            return outcome.run(arguments, open_connection, ucspi.SERVER_PLACES)


def _here(arguments: argparse.Namespace, policy: KtlsPolicy) -> Callable[[socket.socket], Handoff]:
    """Configure, and drop privileges; return what shakes hands then."""
    config = server_options.configure(arguments, quiet=True)
    server_options.prepare(arguments, config, policy)
    return lambda sock: accept(sock, config, policy)


def _by_agent(
    arguments: argparse.Namespace, policy: KtlsPolicy
) -> Callable[[socket.socket], Handoff]:
    from tlsify.cli.program import by_agent  # only where there is an agent

    request = by_agent.server_request(arguments, policy)
    server_options.become(arguments.user)

    def alone(sock: socket.socket) -> Handoff:
        return _here(arguments, policy)(sock)

    return lambda sock: by_agent.hand_over(arguments.agent, sock, request, alone, None)
