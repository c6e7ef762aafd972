"""tlsify listen: TLS server that runs a program for each connection."""

from __future__ import annotations

import gc
import logging
import os
import select
import signal
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tlsify import listening
from tlsify.cli import cuts, execute, guarded, server_options, ucspi, ucspi_tls
from tlsify.cli import options as shared
from tlsify.cli.descriptors import hand_on
from tlsify.config import ClosePolicy
from tlsify.errors import ConfigError, ExitCode, TlsifyError, errno_name
from tlsify.opening import accept
from tlsify.process import StopRequests, await_threads, fork, ignore
from tlsify.rehearsal import rehearse

if TYPE_CHECKING:
    import argparse
    import socket
    from collections.abc import Callable

    from tlsify.cli import GlobalOptions
    from tlsify.config import KtlsPolicy, ServerConfig

DESCRIPTION = "Listen for TLS clients, and run a program on each connection."
_log = logging.getLogger("tlsify")
_LIMIT = 40  # as tcpserver and its successors have it
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SIGNALS = (*_STOP_SIGNALS, signal.SIGHUP, signal.SIGCHLD)
# How long to wait, in seconds, where accepting fails and no connection of ours can end.
_PAUSE = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own options."""
    server_options.add_arguments(parser)
    shared.add_timing(parser, "for each handshake")
    group = parser.add_argument_group("how many")
    group.add_argument(
        "--limit",
        type=shared.count,
        default=_LIMIT,
        metavar="N",
        help=f"connections at once; more of them wait; default {_LIMIT}",
    )
    group.add_argument(
        "--per-address",
        type=shared.count,
        metavar="N",
        help="connections at once from one address; more of them are closed; default: no limit",
    )
    group.add_argument(
        "--backlog",
        type=shared.count,
        default=listening.BACKLOG,
        metavar="N",
        help=f"connections that may wait; default {listening.BACKLOG}",
    )
    group = parser.add_argument_group("what becomes of each connection")
    group.add_argument(
        "--aware",
        action="store_true",
        help="PROG keeps to docs/handoff.md: give it the connection itself, and the session",
    )
    group.add_argument(
        "--ucspi-tls", action="store_true", help="PROG begins in plain text, and asks for TLS"
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
    with ExitStack() as stack:
        listeners = [stack.enter_context(sock) for sock in _listeners(arguments)]
        server_options.prepare(arguments, config, policy)
        rehearse()

        def serve(sock: socket.socket) -> int:
            return _serve(arguments, sock, config, policy)

        def reload() -> None:
            nonlocal config
            renewed = server_options.configure(arguments)
            server_options.prepare(arguments, renewed, policy, config)
            config = renewed

        _Door(listeners, serve, reload, arguments.limit, arguments.per_address).run()
    return ExitCode.OK


def examine(arguments: argparse.Namespace) -> ServerConfig:
    """Find what is wrong with the arguments, without listening; gives the configuration.

    Raises:
        ConfigError: it could not be listened with them.
    """
    if not arguments.program:
        raise _no_program()
    if arguments.address is not None and arguments.port is None:
        raise _no_port()
    return server_options.configure(arguments)


def _no_program() -> ConfigError:
    return ConfigError("there is no program to run", hint="add -- PROG ARG...")


def _no_port() -> ConfigError:
    return ConfigError("ADDR without PORT", hint="give both")


def _serve(
    arguments: argparse.Namespace, sock: socket.socket, config: ServerConfig, policy: KtlsPolicy
) -> int:
    def open_connection() -> ucspi.Connection:
        return ucspi.open_connection(hand_on(sock), lambda own: accept(own, config, policy))

    closing = ClosePolicy(arguments.close)
    with cuts.told():
        if arguments.ucspi_tls:
            return ucspi_tls.run(arguments.program, sock, open_connection, closing)
        return execute.run(
            arguments.program, open_connection, closing, ucspi.SERVER_PLACES, aware=arguments.aware
        )


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


class _Door:
    """Accepts, and forks for each connection.

    One process does it for all, so that limits are exact and nothing is shared; whatever takes
    time is done by the forked ones.
    """

    def __init__(
        self,
        listeners: list[socket.socket],
        serve: Callable[[socket.socket], int],
        reload: Callable[[], None],
        limit: int,
        per_address: int | None,
    ) -> None:
        self._listeners = listeners
        self._serve = serve
        self._reload = reload
        self._limit = limit
        self._per_address = per_address
        self._running: dict[int, str] = {}
        self._from = Counter[str]()
        self._stopping = False
        self._requests = StopRequests()
        self._pausing = False

    def run(self) -> None:
        gc.freeze()  # what is here by now stays: forked processes need not copy its pages
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer)
        for number in _SIGNALS:
            signal.signal(number, lambda *_: None)
        for sock in self._listeners:
            sock.setblocking(False)  # noqa: FBT003 - socket's own signature
        for sock in self._listeners:
            print(f"tlsify: listening on {listening.spell(sock)}", flush=True)
        listening.notify("READY=1")
        while not self._stopping or self._running:
            for ready in self._wait(reader):
                if ready == reader:
                    self._heed(os.read(reader, 2**10))
                for listener in self._listeners:  # none if the signal was to stop
                    if listener.fileno() == ready:
                        self._accept(listener)
        ignore(_STOP_SIGNALS)  # the interpreter, as it ends, would die of one more

    def _wait(self, reader: int) -> list[int]:
        poller = select.poll()
        poller.register(reader, select.POLLIN)
        if len(self._running) < self._limit and not self._pausing:
            for sock in self._listeners:
                poller.register(sock, select.POLLIN)
        found = [number for number, _ in poller.poll(_PAUSE * 1000 if self._pausing else None)]
        self._pausing = False
        return sorted(found, key=lambda number: number != reader)

    def _heed(self, numbers: bytes) -> None:
        if signal.SIGCHLD in numbers:
            self._reap()
        if signal.SIGTERM in numbers or signal.SIGINT in numbers:
            if self._requests.insist():  # those that run go on without us
                self._running.clear()
            self._stop()
        elif signal.SIGHUP in numbers and not self._stopping:
            try:
                self._reload()
                _log.info("certificate and key were read anew")
            except TlsifyError as exc:
                _log.error("they stay as they were: %s", exc)

    def _reap(self) -> None:
        while self._running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            address = self._running.pop(pid, None)
            if address is None:
                continue
            self._from[address] -= 1
            if not self._from[address]:
                del self._from[address]
            code = os.waitstatus_to_exitcode(status)
            _log.debug("%s: process %d ended with status %d", address, pid, code)

    def _stop(self) -> None:
        self._stopping = True
        listening.notify("STOPPING=1")
        while self._listeners:
            self._listeners.pop().close()

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, name = listener.accept()
        except BlockingIOError:
            return  # somebody thought better of it
        except OSError as exc:
            # One that was cut is none of ours; where we lack something, it may be had later.
            if not isinstance(exc, ConnectionError):
                _log.warning("cannot accept: %s: %s", errno_name(exc.errno or 0), exc.strerror)
                self._pausing = True
            return
        address = str(name[0]) if isinstance(name, tuple) else "local"
        with sock:
            if self._per_address is not None and self._from[address] >= self._per_address:
                _log.warning("%s: closed: %d connections at once", address, self._per_address)
                return
            self._fork(sock, address)

    def _fork(self, sock: socket.socket, address: str) -> None:
        try:
            pid = fork()
        except OSError as exc:
            _log.warning("cannot fork: %s: %s", errno_name(exc.errno or 0), exc.strerror)
            self._pausing = True
            return
        if pid:
            self._running[pid] = address
            self._from[address] += 1
            return
        status: int = ExitCode.BUG
        try:
            for listener in self._listeners:
                listener.close()
            sock.setblocking(True)  # noqa: FBT003 - socket's own signature
            status = guarded(lambda: self._serve(sock), f"{address}: ")
            await_threads()
        finally:
            os._exit(status)
