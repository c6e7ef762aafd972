"""tlsify ssl_client: the TLS helper that busybox's wget runs, with verification."""

from __future__ import annotations

import os
import select
import socket
from typing import TYPE_CHECKING

from tlsify.cli.options import client as client_options
from tlsify.cli.options import common as shared
from tlsify.cli.options import numbers
from tlsify.cli.program import cuts, ucspi
from tlsify.cli.program.descriptors import take_socket
from tlsify.cli.program.pump import pump
from tlsify.config import ClosePolicy
from tlsify.connection.establish import connect
from tlsify.errors import ConfigError, ExitCode, Truncated
from tlsify.system.sandbox import renounce

if TYPE_CHECKING:
    import argparse

    from tlsify.cli.parser import GlobalOptions
    from tlsify.config import ClientConfig, KtlsPolicy
    from tlsify.connection.stream import TLSSocket

DESCRIPTION = (
    "Carry stdin and stdout over TLS on a connected socket, as the helper that busybox's wget runs."
)
_STDOUT, _STREAMS = 1, 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own options: busybox's, -I as Alpine's helper has it, and connect's."""
    parser.add_argument(
        "-s",
        type=numbers.descriptor,
        required=True,
        dest="fd",
        metavar="FD",
        help="the connected socket",
    )
    parser.add_argument(
        "-r", type=numbers.descriptor, dest="read_fd", metavar="FD", help="the same socket again"
    )
    parser.add_argument("-n", dest="host", metavar="NAME", help="name to send (SNI) and to accept")
    parser.add_argument(
        "-e", action="store_true", dest="leave", help="close the connection at the end of stdin"
    )
    parser.add_argument(
        "-I",
        action="store_true",
        dest="insecure",
        help="the same as --no-verify, in wget's spelling",
    )
    client_options.add_arguments(parser)
    shared.add_timing(parser, "for the handshake")
    parser.usage = f"{parser.prog} [-e] -s FD [-r FD] -n NAME [-I] [OPTION...]"


def run(arguments: argparse.Namespace, options: GlobalOptions) -> int:
    """Shake hands, and carry stdin and stdout until the server has closed."""
    arguments.no_verify |= arguments.insecure
    config = client_options.configure(arguments, arguments.host)
    policy = shared.policy(options)
    sock = _take_socket(arguments.fd, arguments.read_fd)
    renounce()
    with cuts.told(cuts.peer_of(sock)):
        return _carry(arguments, sock, config, policy)


def _carry(
    arguments: argparse.Namespace, sock: socket.socket, config: ClientConfig, policy: KtlsPolicy
) -> int:
    connection = ucspi.open_connection(sock, lambda sock: connect(sock, config, policy))
    abandoned = False

    def end(stream: TLSSocket) -> None:
        """Stdin has ended, which wget does behind each request: servers must not hear of it.

        Many of them take close_notify for the end of all interest, and do not answer any more.
        """
        nonlocal abandoned
        if not arguments.leave:
            _nobody_reads(None)
        abandoned = True
        stream.shutdown(socket.SHUT_RDWR)

    try:
        pump(connection.handoff, ClosePolicy(arguments.close), end=end, is_server=False)
    except (Truncated, OSError):
        if not (abandoned or _nobody_reads(0)):
            raise
    return ExitCode.OK


def _take_socket(writing: int, reading: int | None) -> socket.socket:
    """Take over the socket that both descriptors are of."""
    if reading in {None, writing}:
        return take_socket(writing)
    try:
        is_same = os.path.sameopenfile(writing, reading)
    except OSError:
        is_same = False
    if not is_same:
        raise ConfigError(
            f"descriptors {writing} and {reading} are not the same socket",
            hint="leave -r out, and give -s the connected socket",
        )
    sock = take_socket(writing)
    if reading >= _STREAMS:
        os.close(reading)
    return sock


def _nobody_reads(timeout: int | None) -> bool:
    """Return whether our stdout leads nowhere any more, as far as that can be known.

    Args:
        timeout: milliseconds to wait for that; None waits for ever.
    """
    poller = select.poll()
    poller.register(_STDOUT, 0)
    return bool(poller.poll(timeout))
