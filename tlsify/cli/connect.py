"""tlsify connect: TLS client for stdin and stdout, for a program, or for a descriptor."""

from __future__ import annotations

import dataclasses
import errno
import time
from argparse import ArgumentTypeError
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, cast

from tlsify.addresses import Address
from tlsify.cli.options import addresses, numbers
from tlsify.cli.options import client as client_options
from tlsify.cli.options import common as shared
from tlsify.cli.program import cuts, outcome, ucspi
from tlsify.cli.program.descriptors import hand_on, take_socket
from tlsify.connection.setup import dialing
from tlsify.errors import SHORTAGES, DeadlineExceeded, NetworkError, ResourceError
from tlsify.names import canonical
from tlsify.system.os_errors import explain

if TYPE_CHECKING:
    import argparse
    import socket
    from collections.abc import Callable, Iterator

    from tlsify.cli.parser import GlobalOptions
    from tlsify.config import KtlsPolicy
    from tlsify.connection.handoff import Handoff

_UNFINISHED = "the handshake did not finish"
DESCRIPTION = (
    "Connect to a TLS server: send stdin to it and write its data to stdout, or run a program on "
    "the connection."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own options."""
    client_options.add_arguments(parser)
    shared.add_timing(parser, "for name lookup, connection and handshake together")
    parser.add_argument(
        "--fd",
        type=numbers.descriptor,
        metavar="N",
        help="connected socket to use instead of HOST:PORT",
    )
    parser.add_argument(
        "--starttls",
        type=_protocol,
        metavar="PROTOCOL",
        help="ask the server for TLS in its own protocol first: ftp, imap, irc, ldap, lmtp, mysql, "
        "nntp, pop3, postgres, sieve, smtp or xmpp, among others",
    )
    shared.add_agent(parser)
    outcome.add_arguments(parser)
    parser.add_argument(
        "host",
        nargs="?",
        metavar="HOST:PORT",
        help="server, or unix:PATH; a port is a number or a service such as https",
    )
    parser.add_argument(
        "port", nargs="?", metavar="PORT", help="port, if the first operand is HOST alone"
    )
    parser.usage = f"{parser.prog} [OPTION...] HOST:PORT [-- PROG ARG...]"
    parser.epilog = "PROG runs with the connection on descriptors 6 (read) and 7 (write)."


def misuse(arguments: argparse.Namespace) -> str | None:
    """Return the error in the arguments that name the server."""
    if arguments.fd is not None:
        return None if arguments.host is None else "HOST:PORT and --fd exclude each other"
    return None if arguments.host is not None else "HOST:PORT is required, or --fd N"


def complete(arguments: argparse.Namespace) -> None:
    """Parse the words that name the server.

    Raises:
        UsageError: they name none.
    """
    arguments.server = None
    if arguments.fd is None:
        arguments.server = addresses.address(arguments.host, arguments.port, Address.to_connect)


class _Deadline:
    """When a connection has to be ready, counted from its beginning."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._at = 0.0
        self.begin()

    def begin(self) -> None:
        """Count anew."""
        self._at = time.monotonic() + self.timeout

    @contextmanager
    def spend(self, what: str) -> Iterator[float]:
        """Return the block what is left of the time.

        Args:
            what: the first half of the message if that is too little.

        Raises:
            DeadlineExceeded: nothing is left, or the block took too long.
        """
        message = f"{what} within {self.timeout:.3g} seconds"
        left = self._at - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded(message)
        try:
            yield left
        except DeadlineExceeded as exc:  # it names its own part of the time only
            raise DeadlineExceeded(message, hint=exc.hint) from exc


def run(arguments: argparse.Namespace, options: GlobalOptions) -> int:
    """Connect, and see to what is to become of the connection."""
    outcome.check(arguments)
    policy = outcome.policy(arguments, options)
    deadline = _Deadline(arguments.timeout)

    def reach() -> socket.socket:
        deadline.begin()
        if inherited is not None:
            sock = hand_on(inherited)
        else:
            sock = _dial(arguments.server, arguments.timeout)
        if arguments.starttls is not None:
            _ask_for_tls(sock, arguments, deadline)
        return sock

    if arguments.agent is None:
        hand_over = _here(arguments, policy, deadline)
    else:
        again = reach if arguments.fd is None else None
        hand_over = _by_agent(arguments, policy, deadline, again)

    def open_connection() -> ucspi.Connection:
        return ucspi.open_connection(reach(), hand_over)

    with nullcontext() if arguments.fd is None else take_socket(arguments.fd) as inherited:
        named = str(arguments.server) if inherited is None else cuts.peer_of(inherited)
        with cuts.told(named):
            return outcome.run(arguments, open_connection, ucspi.CLIENT_PLACES)


def _here(
    arguments: argparse.Namespace, policy: KtlsPolicy, deadline: _Deadline
) -> Callable[[socket.socket], Handoff]:
    """Configure; return what shakes hands then."""
    from tlsify.connection.establish import connect  # heavy; an agent does without
    from tlsify.connection.setup.eligibility import host_refusal

    config = client_options.configure(arguments, _host(arguments))
    host_refusal(policy)  # found out now, it takes no time of the server's patience

    def shake_hands(sock: socket.socket) -> Handoff:
        with dialing.closed_on_error(sock), deadline.spend(_UNFINISHED) as left:
            return connect(sock, dataclasses.replace(config, timeout=left), policy)

    return shake_hands


def _by_agent(
    arguments: argparse.Namespace,
    policy: KtlsPolicy,
    deadline: _Deadline,
    again: Callable[[], socket.socket] | None,
) -> Callable[[socket.socket], Handoff]:
    from tlsify.cli.program import by_agent  # only where there is an agent

    request = by_agent.client_request(arguments, _host(arguments), policy)

    def alone(sock: socket.socket) -> Handoff:
        return _here(arguments, policy, deadline)(sock)

    def shake_hands(sock: socket.socket) -> Handoff:
        with deadline.spend(_UNFINISHED) as left:
            asked = request.but(timeout=left)
        return by_agent.hand_over(arguments.agent, sock, asked, alone, again)

    return shake_hands


def _protocol(text: str) -> Callable[[socket.socket, str, float], None]:
    """Return what asks for TLS in a protocol, given the server's name and the seconds left."""
    from tlsify.starttls.upgrade import PROTOCOLS, upgrade  # rarely wanted

    if text not in PROTOCOLS:
        raise ArgumentTypeError(f'"{text}" is none of {", ".join(PROTOCOLS)}')
    return lambda sock, name, left: upgrade(sock, text, name, left)


def _ask_for_tls(sock: socket.socket, arguments: argparse.Namespace, deadline: _Deadline) -> None:
    named = arguments.servername or _host(arguments)
    name = canonical(named) if named else ""
    what = "starttls: no go-ahead from the server"
    with dialing.closed_on_error(sock), deadline.spend(what) as left:
        arguments.starttls(sock, name, left)


def _host(arguments: argparse.Namespace) -> str | None:
    """Return the server's name or IP address, if the user has given one."""
    server: Address | None = arguments.server
    return server.host if server is not None and server.host else None


def _dial(server: Address, timeout: float) -> socket.socket:
    what = f"cannot connect to {server}"
    try:
        if server.path:
            return dialing.connect_here(server.path, timeout)
        # Text would be encoded by way of a module whose import takes longer than looking up
        # localhost.
        return dialing.connect(cast("str", server.host.encode("ascii")), server.port, timeout)
    except dialing.Silence as exc:
        raise DeadlineExceeded(
            f"no connection to {server} within {timeout:g} seconds: {exc}",
            hint="the host may be down, or a firewall may drop what is sent to it"
            if exc.is_named
            else "see whether the name servers answer (/etc/resolv.conf)",
        ) from exc
    except (OSError, UnicodeError) as exc:
        if not isinstance(exc, OSError):
            raise NetworkError(f"{what}: {exc}") from exc
        if exc.errno in {*SHORTAGES, errno.EAGAIN}:
            raise ResourceError(exc, what) from exc
        hint = "check the path, and whether the server runs" if server.path else None
        raise NetworkError(f"{what}: {explain(exc)}", hint=hint) from exc
