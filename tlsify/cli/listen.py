"""tlsify listen: TLS server that runs a program for each connection."""

from __future__ import annotations

import contextlib
import os
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

from tlsify.aio.outcomes import name_of, outcome
from tlsify.cli.door import Door
from tlsify.cli.options import common as shared
from tlsify.cli.options import logs
from tlsify.cli.options import server as server_options
from tlsify.cli.program import cuts, execute, ucspi, ucspi_tls
from tlsify.cli.program.descriptors import hand_on
from tlsify.config import ClosePolicy
from tlsify.connection.establish import accept
from tlsify.errors import ConfigError, ExitCode, TlsifyError
from tlsify.logs import messages
from tlsify.logs.access import PASSED, visiting
from tlsify.serving.warm_up import rehearse
from tlsify.system import listening
from tlsify.system.process import end_with

if TYPE_CHECKING:
    import argparse
    import socket

    from tlsify.cli.parser import GlobalOptions
    from tlsify.config import KtlsPolicy, ServerConfig
    from tlsify.logs.access import AccessLog

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
    logs.add_access_log(parser.add_argument_group("logs"))
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
    parser.add_argument("address", nargs="?", metavar="ADDR", help="name or address")
    parser.add_argument(
        "port", nargs="?", type=shared.port, metavar="PORT", help="TCP port; 0: any"
    )
    parser.usage = f"{parser.prog} [OPTION...] [ADDR PORT] -- PROG ARG..."
    parser.epilog = (
        "PROG runs with the connection on descriptors 0 (read) and 1 (write). Without ADDR and "
        "PORT the sockets are those that systemd has opened."
    )
    parser.set_defaults(program=[])


def run(arguments: argparse.Namespace, options: GlobalOptions) -> int:
    """Serve until SIGTERM or SIGINT."""
    if not arguments.program:
        raise _no_program()
    path = execute.find(arguments.program[0])
    if isinstance(path, ExitCode):
        return path
    policy = shared.policy(options)
    config = server_options.configure(arguments)
    access_log = logs.access_log(arguments, options)
    with ExitStack() as stack:
        listeners = [stack.enter_context(sock) for sock in _listeners(arguments)]
        server_options.prepare(arguments, config, policy)
        rehearse()

        reception = _Reception(arguments, policy, access_log)

        def serve(sock: socket.socket, lifeline: int) -> int:
            return reception.serve(sock, lifeline, config)

        def reload() -> None:
            nonlocal config
            renewed = server_options.configure(arguments)
            server_options.prepare(arguments, renewed, policy, config)
            if access_log is not None:
                access_log.reopen()
            config = renewed

        door = Door(listeners, serve, reload, arguments.limit, arguments.per_address)
        if access_log is not None:
            door.refused = access_log.refused
        door.run()
    return ExitCode.OK


def examine(arguments: argparse.Namespace) -> ServerConfig:
    """Find what is wrong with the arguments, without listening; return the configuration.

    Raises:
        ConfigError: it could not be listened with them.
    """
    if not arguments.program:
        raise _no_program()
    if arguments.address is not None and arguments.port is None:
        raise _no_port()
    logs.examine(arguments)
    return server_options.configure(arguments)


def _no_program() -> ConfigError:
    return ConfigError("there is no program to run", hint="add -- PROG ARG...")


def _no_port() -> ConfigError:
    return ConfigError("ADDR without PORT", hint="give both")


class _Reception(NamedTuple):
    """What all connections have in common."""

    arguments: argparse.Namespace
    policy: KtlsPolicy
    access_log: AccessLog | None

    def serve(self, sock: socket.socket, lifeline: int, config: ServerConfig) -> int:
        """Serve a connection, in a process of its own.

        The door hears when the handshake is done.
        """
        arguments = self.arguments
        pid = os.getpid()
        lines = ExitStack()  # in the keeper, and in what stands for one: the access log's

        def open_connection() -> ucspi.Connection:
            return self._open(sock, config, lines)

        def open_or_end() -> ucspi.Connection:
            # The keeper. Until there is a program (`execute`, which has SIGTERM ignored from then
            # on) whoever ends the process that waits for it ends both.
            end_with(pid)
            connection = open_connection()
            _tell_door(lifeline)
            return connection

        closing = ClosePolicy(arguments.close)
        with cuts.told(), lines:
            if arguments.ucspi_tls:
                # When its handshake begins, and whether, is the program's affair.
                _tell_door(lifeline)
                return ucspi_tls.run(arguments.program, sock, open_connection, closing)
            return execute.run(
                arguments.program,
                open_or_end,
                closing,
                ucspi.SERVER_PLACES,
                aware=arguments.aware,
            )

    def _open(
        self, sock: socket.socket, config: ServerConfig, lines: ExitStack
    ) -> ucspi.Connection:
        began = time.monotonic()
        try:
            found = ucspi.open_connection(
                hand_on(sock), lambda own: accept(own, config, self.policy)
            )
        except (TlsifyError, OSError) as exc:
            if self.access_log is not None:
                end = name_of(outcome(exc))
                seconds = time.monotonic() - began
                self.access_log.refused(messages.peer.get(None), end, exc, seconds)
            raise
        visit = lines.enter_context(visiting(self.access_log, found.handoff))
        if self.arguments.aware:
            visit.traffic = None  # the program's affair
            visit.end = PASSED if found.handoff.channel is not None else visit.end
        return found._replace(traffic=visit.traffic)


def _tell_door(lifeline: int) -> None:
    with contextlib.suppress(OSError):  # it has ended, and the connection goes on without it
        os.write(lifeline, b"\0")


def _listeners(arguments: argparse.Namespace) -> list[socket.socket]:
    if arguments.address is None:
        if found := listening.inherited():
            return found
        raise ConfigError(
            "nothing to listen on", hint="give ADDR and PORT, or have systemd open the socket"
        )
    if arguments.port is None:
        raise _no_port()
    host, _ = shared.address(f"{arguments.address}:{arguments.port}")
    return [listening.listen(host, arguments.port, arguments.backlog)]
