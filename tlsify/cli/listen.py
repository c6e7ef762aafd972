"""tlsify listen: TLS server that runs a program for each connection."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from tlsify.addresses import Address
from tlsify.aio.outcomes import name_of, outcome
from tlsify.cli.door import Door, DoorLimits
from tlsify.cli.options import addresses, logs, numbers
from tlsify.cli.options import common as shared
from tlsify.cli.options import server as server_options
from tlsify.cli.program import cuts, execute, ucspi, ucspi_tls
from tlsify.cli.program.descriptors import hand_on
from tlsify.config import ClosePolicy
from tlsify.connection.establish import accept
from tlsify.errors import ExitCode, TlsifyError, UsageError
from tlsify.logs import messages
from tlsify.logs.access import PASSED, visiting
from tlsify.serving.configuration import Configuration, leave_holders
from tlsify.serving.warm_up import rehearse
from tlsify.system import listening
from tlsify.system.process import end_with
from tlsify.system.sandbox import Sandboxing

if TYPE_CHECKING:
    import argparse
    import socket

    from tlsify.cli.parser import GlobalOptions
    from tlsify.config import KtlsPolicy, ServerConfig
    from tlsify.connection.handoff import Handoff
    from tlsify.logs.access import AccessLog

_log = logging.getLogger("tlsify")

DESCRIPTION = "Listen for TLS clients, and run a program on each connection."
_LIMIT = 40  # as tcpserver and its successors have it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own options."""
    server_options.add_arguments(parser)
    server_options.add_isolation(parser)
    shared.add_timing(parser, "for each handshake")
    group = parser.add_argument_group("limits")
    group.add_argument(
        "--limit",
        type=numbers.count,
        default=_LIMIT,
        metavar="N",
        help="maximum concurrent connections, each until its program and its keeper have ended; "
        f"further ones wait; default {_LIMIT}",
    )
    group.add_argument(
        "--per-address",
        type=numbers.count,
        metavar="N",
        help="maximum concurrent connections from one IPv4 address or IPv6 /64; further ones "
        "are closed; default: no limit",
    )
    group.add_argument(
        "--backlog",
        type=numbers.count,
        default=listening.BACKLOG,
        metavar="N",
        help=f"maximum length of the queue of waiting connections; default {listening.BACKLOG}",
    )
    logs.add_access_log(parser.add_argument_group("logs"))
    group = parser.add_argument_group("connection hand-over")
    group.add_argument(
        "--aware",
        action="store_true",
        help="PROG implements the contract (tlsify help handoff): pass it the kTLS socket and its "
        "session state",
    )
    group.add_argument(
        "--ucspi-tls",
        action="store_true",
        help="PROG starts in plain text and requests TLS later (UCSPI-TLS)",
    )
    addresses.add_listen(parser, "the sockets that systemd passes")
    parser.add_argument(
        "address", nargs="?", metavar="HOST:PORT", help="address to listen on, as for --listen"
    )
    parser.add_argument(
        "port", nargs="?", metavar="PORT", help="port, if the first operand is HOST alone"
    )
    parser.usage = f"{parser.prog} [OPTION...] [HOST:PORT] -- PROG ARG..."
    parser.epilog = "PROG runs with the connection on descriptors 0 (read) and 1 (write)."
    parser.set_defaults(program=[])


def complete(arguments: argparse.Namespace) -> None:
    """Parse the words that name an address.

    Raises:
        UsageError: they name none.
    """
    if arguments.address is not None:
        found = addresses.address(arguments.address, arguments.port, Address.to_listen)
        arguments.listen = [*arguments.listen, found]


def run(arguments: argparse.Namespace, options: GlobalOptions) -> int:
    """Serve until SIGTERM or SIGINT."""
    _check(arguments)
    policy = shared.policy(options)
    isolation = server_options.isolation(arguments, len(os.sched_getaffinity(0)), Sandboxing.AUTO)
    configuration = Configuration(lambda: server_options.configure(arguments), policy, isolation)
    config = configuration.load()
    access_log = logs.access_log(arguments, options)
    with ExitStack() as stack:
        listeners = [stack.enter_context(sock) for sock in _listeners(arguments, stack)]
        rehearse()  # loads modules that the user may be unable to read
        server_options.become(arguments.user)
        if os.geteuid() == 0 and "TLS_UID" not in os.environ:
            _log.warning("programs run as root: name a user for them (--user)")
        configuration.warn_of_readable_keys()

        reception = _Reception(arguments, policy, access_log)

        def serve(sock: socket.socket, lifeline: int) -> int:
            leave_holders(of_others_than=config)
            return reception.serve(sock, lifeline, config)

        def reload() -> None:
            nonlocal config
            if access_log is not None:
                access_log.reopen()
            config = configuration.load()

        patience = None if arguments.ucspi_tls else arguments.timeout
        limits = DoorLimits(arguments.limit, arguments.per_address, patience)
        door = Door(listeners, serve, reload, limits)
        if access_log is not None:
            door.refused, door.reopen_logs = access_log.refused, access_log.reopen
        door.run()
    return ExitCode.OK


def examine(arguments: argparse.Namespace) -> ServerConfig:
    """Find what is wrong with the arguments, without listening; return the configuration.

    Raises:
        ConfigError: one of them, or a file, is unusable.
    """
    _check(arguments)
    logs.examine(arguments)
    return server_options.configure(arguments)


def _check(arguments: argparse.Namespace) -> None:
    """Check that there is a program, and that the addresses go together.

    Raises:
        UsageError: there is none, or one address is in the way of another.
        ProgramError: it cannot be run.
    """
    execute.check(arguments.program)
    addresses.check_apart([("--listen", address) for address in arguments.listen])


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
                # When its handshake begins, and whether, is the program's affair: a client that
                # has sent something in plain text is none that is silent.
                return ucspi_tls.run(
                    arguments.program, sock, open_connection, closing, partial(_tell_door, lifeline)
                )
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

        def shake_hands(own: socket.socket) -> Handoff:
            try:
                return accept(own, config, self.policy)
            finally:
                leave_holders()  # those of an earlier key need not wait for this connection's end

        try:
            found = ucspi.open_connection(hand_on(sock), shake_hands)
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
        # With UCSPI-TLS the program may greet its client before TLS.
        first = not arguments.ucspi_tls
        made += listening.listen_on(address, arguments.backlog, deferred=first)
        if address.path:
            stack.callback(listening.remove, address.path)
    return made
