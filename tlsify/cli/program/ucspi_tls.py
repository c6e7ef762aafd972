"""UCSPI-TLS: a program begins in plain text, and says when TLS is to start."""

from __future__ import annotations

import logging
import os
import select
import socket
from typing import TYPE_CHECKING

from tlsify.cli import streams
from tlsify.cli.program import execute, ucspi
from tlsify.cli.program.descriptors import let_go
from tlsify.cli.program.pump import pump
from tlsify.connection.ending.patience import progress_if_tcp
from tlsify.connection.setup.keepalive import keep_alive
from tlsify.errors import ExitCode
from tlsify.system.process import THE_PROGRAMS, fork
from tlsify.system.sandbox import renounce

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlsify.config import ClosePolicy

_log = logging.getLogger("tlsify")
# What a program asks with: for TLS; for TLS, and to be told of it.
_START, _START_AND_TELL = b"y", b"Y"
# Milliseconds between two looks at whether a silent client has sent something.
_LOOK = 250


def run(
    program: list[str],
    sock: socket.socket,
    open_connection: Callable[[], ucspi.Connection],
    closing: ClosePolicy,
    told: Callable[[], None],
) -> int:
    """Fork: the parent becomes the program, the child waits for it to ask for TLS.

    The program has the plain connection on 0 and 1, and its addresses in TCP's variables. It finds
    in SSLCTLFD where to ask, and in SSLREADFD and SSLWRITEFD where to go on afterwards. It writes
    ``y``, or ``Y`` to read there the variables that describe the connection, each with a NUL
    behind it and one more at the end.

    Args:
        program: its name, looked up in PATH, and its arguments.
        sock: connected.
        open_connection: shakes hands on ``sock`` and hands over.
        closing: what an end of stream without close_notify is.
        told: called in the child once the client has sent something in plain text, or has shaken
            hands: it may be called twice.

    Returns:
        In the parent, why there is no program; in the child, once the connection is over.

    Raises:
        TlsifyError: in the child: the connection failed, or ended badly.
        OSError: likewise.

    Source: https://www.fehcom.de/ipnet/ucspi-ssl/ucspi-tls.html.
    """
    path = execute.find(program[0])
    keep_alive(sock)  # also in plain text
    asked, asking = socket.socketpair()
    reading, feeding = os.pipe()
    draining, writing = os.pipe()
    if fork(ignored=THE_PROGRAMS) == 0:
        asking.close()
        os.close(reading)
        os.close(writing)
        renounce()  # the program is the other process's
        let_go()
        with asked:
            order = _receive_order(asked, sock, told)
            if order not in {_START, _START_AND_TELL}:
                return ExitCode.OK  # it has done without
            connection = open_connection()
            told()
            if order == _START_AND_TELL:
                streams.write(asked.fileno(), ucspi.encode(ucspi.variables(connection)))
            try:
                pump(
                    connection.handoff,
                    closing,
                    draining,
                    feeding,
                    is_server=True,
                    traffic=connection.traffic,
                )
            except BrokenPipeError as exc:
                if exc.filename is None:
                    raise
                _log.debug("the program has not read all that came")
        return ExitCode.OK
    ucspi.apply({"PROTO": "TCP"} | _addresses(sock))
    for name, number in (
        ("SSLCTLFD", asking.detach()),
        ("SSLREADFD", reading),
        ("SSLWRITEFD", writing),
    ):
        os.environ[name] = str(number)
        os.set_inheritable(number, True)
    for place in ucspi.SERVER_PLACES:
        os.dup2(sock.fileno(), place)
    return execute.become(path, program)


def _receive_order(asked: socket.socket, sock: socket.socket, told: Callable[[], None]) -> bytes:
    """Receive the program's order; notice meanwhile when the client has sent something.

    The program reads it at once, so that there may be nothing to poll for: TCP counts it.
    """
    poller = select.poll()
    poller.register(asked, select.POLLIN)
    while not poller.poll(_LOOK):
        if _has_spoken(sock):
            told()
            break
    return asked.recv(1)


def _has_spoken(sock: socket.socket) -> bool:
    """Return whether the client has sent something, or has gone, or is none of TCP's."""
    try:
        progress = progress_if_tcp(sock)
    except OSError:
        return True
    return progress is None or progress.received > 0


def _addresses(sock: socket.socket) -> dict[str, str]:
    try:
        return ucspi.addresses("TCP", sock.getsockname(), sock.getpeername())
    except OSError:  # gone already, as the program will find out
        return {}
