"""Hand-over of a connection: to a program, to stdin and stdout, or to another process."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from typing import TYPE_CHECKING

from tlsify.cli import streams
from tlsify.cli.messages import Ended
from tlsify.cli.options import common as shared
from tlsify.cli.options import numbers
from tlsify.cli.program.descriptors import check_unix_socket, let_go
from tlsify.cli.program.ucspi import SERVER_PLACES
from tlsify.config import ClosePolicy, KtlsMode, KtlsPolicy
from tlsify.errors import ExitCode, UsageError
from tlsify.keys import wipe
from tlsify.system.interrupts import interrupting
from tlsify.system.process import THE_PROGRAMS, StopRequests, fork_for, ignore, status_of
from tlsify.system.sandbox import renounce

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from tlsify.cli.parser import GlobalOptions
    from tlsify.cli.program.ucspi import Connection
    from tlsify.connection.handoff import Handoff

_log = logging.getLogger("tlsify")
_DONE = b"d"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    group = parser.add_argument_group("connection hand-over")
    group.add_argument(
        "--send-fd",
        type=numbers.descriptor,
        metavar="N",
        help="send a descriptor of the connection through the AF_UNIX socket N, and exit",
    )
    keeping = group.add_mutually_exclusive_group()
    keeping.add_argument(
        "--keep",
        action="store_true",
        help="the recipient is unaware of TLS, and tlsify stays behind to service the "
        "connection (default)",
    )
    keeping.add_argument(
        "--aware",
        action="store_true",
        help="the recipient implements the contract (tlsify help handoff) and gets the kTLS socket "
        "itself; with --fd alone the recipient is the caller, which keeps its descriptor",
    )
    group.add_argument(
        "--session-fd",
        type=numbers.descriptor,
        metavar="N",
        help="descriptor to write the secret session state to; for --aware without PROG",
    )
    group.add_argument(
        "--ignore-eof",
        action="store_true",
        help="keep the connection open after the end of stdin (do not send close_notify)",
    )
    group.add_argument(
        "--idle",
        type=numbers.seconds,
        metavar="S",
        help="seconds without a byte in either direction after which the connection is closed; "
        "for stdin and stdout; default: never",
    )
    parser.set_defaults(program=[])


def check(arguments: argparse.Namespace) -> None:
    """Check that the options go together.

    Raises:
        ConfigError: they do not.
    """
    if arguments.program and arguments.send_fd is not None:
        raise UsageError("--send-fd and PROG exclude each other", hint="leave one of them out")
    if arguments.aware and not _has_receiver(arguments):
        raise UsageError(
            "--aware describes the recipient of the connection, and there is none",
            hint="add -- PROG ARG..., --send-fd N or --fd N",
        )
    if arguments.session_fd is not None and (arguments.program or not arguments.aware):
        raise UsageError(
            "--session-fd is for --aware without PROG",
            hint="a program finds the state where TLSIFY_SESSION_FD says",
        )
    if arguments.idle is not None and (
        arguments.program or arguments.aware or arguments.send_fd is not None
    ):
        raise UsageError(
            "--idle is for stdin and stdout",
            hint="leave it out: the recipient of the connection closes it when idle",
        )
    if arguments.send_fd is not None:
        check_unix_socket(arguments.send_fd)


def _has_receiver(arguments: argparse.Namespace) -> bool:
    return bool(arguments.program) or arguments.send_fd is not None or arguments.fd is not None


def policy(arguments: argparse.Namespace, options: GlobalOptions) -> KtlsPolicy:
    """Return the offload policy, which depends on the recipient of the connection.

    Raises:
        ConfigError: the kernel is required where it cannot be used.
    """
    wanted = shared.policy(options)
    if arguments.program or (arguments.send_fd is None and not arguments.aware):
        return wanted
    if arguments.send_fd is None:
        # The caller goes on with the descriptor that it has: there is no room for a relay.
        return KtlsPolicy(KtlsMode.REQUIRE, wanted.rekey_required, wanted.any_kernel)
    if arguments.aware or wanted.mode is KtlsMode.OFF:
        return wanted
    if wanted.mode is KtlsMode.REQUIRE:
        raise UsageError(
            "--ktls=require needs a recipient that implements the contract of its descriptor",
            hint="add --aware if the receiver does (tlsify help handoff), or drop --ktls=require",
        )
    _log.debug("relayed: a receiver that knows nothing of records gets a single descriptor")
    return KtlsPolicy(KtlsMode.OFF)


def run(
    arguments: argparse.Namespace,
    open_connection: Callable[[], Connection],
    places: tuple[int, int],
) -> int:
    """Open a connection, and hand it to its recipient; return the exit status.

    Args:
        arguments: checked.
        open_connection: connects, shakes hands and hands over.
        places: where a program finds it.

    Raises:
        TlsifyError: it could not be opened, or ended badly.
        OSError: likewise.
    """
    closing = ClosePolicy(arguments.close)
    if arguments.program:
        from tlsify.cli.program import execute  # most run no program

        return execute.run(
            arguments.program, open_connection, closing, places, aware=arguments.aware
        )
    if arguments.send_fd is not None:
        return _send_away(arguments, open_connection)
    if arguments.aware:
        _leave(open_connection().handoff, arguments)
    else:
        renounce()
        handoff = open_connection().handoff
        from tlsify.cli.program.pump import half_close, pump, stay_silent

        with _signals_as_exceptions():
            pump(
                handoff,
                closing,
                is_server=places == SERVER_PLACES,
                end=stay_silent if arguments.ignore_eof else half_close,
                idle=arguments.idle,
            )
    return ExitCode.OK


def _send_away(arguments: argparse.Namespace, open_connection: Callable[[], Connection]) -> int:
    """Fork: the child opens the connection, sends a descriptor of it and carries what it must.

    This process ends as soon as the descriptor is on its way.
    """
    reader, writer = os.pipe()
    pid = fork_for("the connection")
    if pid == 0:
        os.close(reader)
        renounce()
        let_go(arguments.send_fd, arguments.session_fd)
        handoff = open_connection().handoff
        ignore(THE_PROGRAMS)  # the recipient of the connection is one
        if handoff.relay is None:
            _leave(handoff, arguments)
            os.write(writer, _DONE)
        else:
            handoff.relay.end_in_order()  # the recipient has no other way to end it
            with handoff.sock as end:  # a relay goes on for as long as its end is open
                streams.send_descriptor(arguments.send_fd, end.fileno())
            os.close(arguments.send_fd)
            os.write(writer, _DONE)
            os.close(writer)
            streams.discard(streams.STDERR)  # a reader must not wait for more from it
            handoff.relay.join()
        return ExitCode.OK
    os.close(writer)
    with open(reader, "rb") as told:
        if told.read(1) == _DONE:
            return ExitCode.OK
    return status_of(pid)


@contextlib.contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """End the connection in good order when we are ended, as ssh does with its ProxyCommand.

    More of the same, which may come at once, disturbs nothing; a second request ends us at once.
    What the caller has us ignore stays ignored: SIGHUP under nohup, SIGINT of a background job.
    """
    requests = StopRequests()
    is_ended = False

    def end(number: int, _: object) -> None:
        nonlocal is_ended
        if requests.insist():
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif not is_ended:
            is_ended = True
            raise Ended(number)

    every = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    heeded = [number for number in every if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, end) for number in heeded}
    try:
        with interrupting(heeded, lambda: is_ended):
            yield
    finally:
        if not is_ended:
            for number, handler in before.items():
                signal.signal(number, handler)


def _leave(handoff: Handoff, arguments: argparse.Namespace) -> None:
    """Pass an offloaded connection to a recipient that services it."""
    descriptor, state = handoff.detach()
    try:
        if arguments.session_fd is not None:
            streams.write(arguments.session_fd, state)
        if arguments.send_fd is not None:
            streams.send_descriptor(arguments.send_fd, descriptor)
    finally:
        wipe(state)
        os.close(descriptor)
