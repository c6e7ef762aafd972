"""tlsify listen: TLS server that runs a program for each connection."""

from __future__ import annotations

import contextlib
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tlsify.addresses import Address
from tlsify.cli.door import Door
from tlsify.cli.options import common as shared
from tlsify.cli.options import server as server_options
from tlsify.cli.program import cuts, execute, ucspi, ucspi_tls
from tlsify.cli.program.descriptors import hand_on
from tlsify.config import ClosePolicy
from tlsify.connection.establish import accept
from tlsify.errors import ExitCode, UsageError
from tlsify.serving.warm_up import rehearse
from tlsify.system import listening
from tlsify.system.process import end_with

if TYPE_CHECKING:
    import argparse
    import socket

    from tlsify.cli.parser import GlobalOptions
    from tlsify.config import KtlsPolicy, ServerConfig

DESCRIPTION = "Listen for TLS clients, and run a program on each connection."
_LIMIT = 40  # as tcpserver and its successors have it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own options."""
    server_options.add_arguments(parser)
    shared.add_timing(parser, "for each handshake")
    group = parser.add_argument_group("limits")
    group.add_argument(
        "--limit",
        type=shared.count,
        default=_LIMIT,
        metavar="N",
        help="maximum concurrent connections, each until its program and its keeper have ended; "
        f"further ones wait; default {_LIMIT}",
    )
    group.add_argument(
        "--per-address",
        type=shared.count,
        metavar="N",
        help="maximum concurrent connections from one IPv4 address or IPv6 /64; further ones "
        "are closed; default: no limit",
    )
    group.add_argument(
        "--backlog",
        type=shared.count,
        default=listening.BACKLOG,
        metavar="N",
        help=f"maximum length of the queue of waiting connections; default {listening.BACKLOG}",
    )
    group = parser.add_argument_group("connection hand-over")
    group.add_argument(
        "--aware",
        action="store_true",
        help="PROG implements docs/handoff.md: pass it the kTLS socket and its session state",
    )
    group.add_argument(
        "--ucspi-tls",
        action="store_true",
        help="PROG starts in plain text and requests TLS later (UCSPI-TLS)",
    )
    shared.add_listen(parser, "the sockets that systemd passes")
    parser.add_argument(
        "address", nargs="?", metavar="HOST:PORT", help="address to listen on, as for --listen"
    )
    parser.add_argument("port", nargs="?", metavar="PORT", help="port, where HOST stands alone")
    parser.usage = f"{parser.prog} [OPTION...] [HOST:PORT] -- PROG ARG..."
    parser.epilog = "PROG runs with the connection on descriptors 0 (read) and 1 (write)."
    parser.set_defaults(program=[])


def complete(arguments: argparse.Namespace) -> None:
    """Parse the words that name an address.

    Raises:
        UsageError: they name none.
    """
    if arguments.address is not None:
        found = shared.address(arguments.address, arguments.port, Address.to_listen)
        arguments.listen = [*arguments.listen, found]


def run(arguments: argparse.Namespace, options: GlobalOptions) -> int:
    """Serve until SIGTERM or SIGINT."""
    if not arguments.program:
        raise _no_program()
    path = execute.find(arguments.program[0])
    if isinstance(path, ExitCode):
        return path
    policy = shared.policy(options)
    config = server_options.configure(arguments)
    with ExitStack() as stack:
        listeners = [stack.enter_context(sock) for sock in _listeners(arguments, stack)]
        server_options.prepare(arguments, config, policy)
        rehearse()

        def serve(sock: socket.socket, lifeline: int) -> int:
            return _serve(arguments, sock, lifeline, config, policy)

        def reload() -> None:
            nonlocal config
            renewed = server_options.configure(arguments)
            server_options.prepare(arguments, renewed, policy, config)
            config = renewed

        Door(listeners, serve, reload, arguments.limit, arguments.per_address).run()
    return ExitCode.OK


def examine(arguments: argparse.Namespace) -> ServerConfig:
    """Find what is wrong with the arguments, without listening; return the configuration.

    Raises:
        ConfigError: one of them, or a file, is unusable.
    """
    if not arguments.program:
        raise _no_program()
    return server_options.configure(arguments)


def _no_program() -> UsageError:
    return UsageError("there is no program to run", hint="add -- PROG ARG...")


def _serve(
    arguments: argparse.Namespace,
    sock: socket.socket,
    lifeline: int,
    config: ServerConfig,
    policy: KtlsPolicy,
) -> int:
    """Serve a connection, in a process of its own; the door hears when the handshake is done."""
    pid = os.getpid()

    def open_connection() -> ucspi.Connection:
        return ucspi.open_connection(hand_on(sock), lambda own: accept(own, config, policy))

    def open_or_end() -> ucspi.Connection:
        # The keeper. Until there is a program (`execute`, which has SIGTERM ignored from then on)
        # whoever ends the process that waits for it ends both.
        end_with(pid)
        connection = open_connection()
        _tell_door(lifeline)
        return connection

    closing = ClosePolicy(arguments.close)
    with cuts.told():
        if arguments.ucspi_tls:
            _tell_door(lifeline)  # when its handshake begins, and whether, is the program's affair
            return ucspi_tls.run(arguments.program, sock, open_connection, closing)
        return execute.run(
            arguments.program, open_or_end, closing, ucspi.SERVER_PLACES, aware=arguments.aware
        )


def _tell_door(lifeline: int) -> None:
    with contextlib.suppress(OSError):  # it has ended, and the connection goes on without it
        os.write(lifeline, b"\0")


def _listeners(arguments: argparse.Namespace, stack: ExitStack) -> list[socket.socket]:
    """Return the sockets; what we make at a path is removed at the end of the stack."""
    if not arguments.listen:
        if found := listening.inherited():
            return found
        raise UsageError(
            "there is no address to listen on",
            hint="write HOST:PORT, or have systemd open the socket",
        )
    made = []
    for address in dict.fromkeys(arguments.listen):
        made += listening.listen_on(address, arguments.backlog)
        if address.path:
            stack.callback(listening.remove, address.path)
    return made
