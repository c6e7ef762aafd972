"""tlsify connect: TLS client on stdin and stdout."""

from __future__ import annotations

import logging
import os
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from tlsify.cli import execute
from tlsify.cli import options as shared
from tlsify.config import (
    ClientConfig,
    ClosePolicy,
    ReferenceIdentifier,
    TrustAnchors,
    is_ip_address,
)
from tlsify.errors import ConfigError, DeadlineExceeded, ExitCode, NetworkError
from tlsify.opening import connect
from tlsify.stream import TLSSocket

if TYPE_CHECKING:
    import argparse

    from tlsify.cli import GlobalOptions
    from tlsify.handoff import Handoff

DESCRIPTION = "Connect to a TLS server; send stdin, write what comes to stdout."
_log = logging.getLogger("tlsify")
_CHUNK = 2**18


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own options."""
    parser.add_argument(
        "--servername", metavar="NAME", help="name to send (SNI) and to accept, default HOST"
    )
    parser.add_argument(
        "--ref-id",
        action="append",
        type=ReferenceIdentifier.parse,
        metavar="KIND:NAME",
        help="accept this identity instead: dns:NAME, ip:ADDRESS, srv:_SERVICE.NAME or "
        "uri:SCHEME:NAME; may be repeated",
    )
    parser.add_argument(
        "--ca",
        type=Path,
        metavar="FILE|DIR",
        help="trust anchors: a PEM file, or a folder of .pem and .crt files; default: the system's",
    )
    parser.add_argument("--no-verify", action="store_true", help="accept any certificate")
    parser.add_argument(
        "--alpn",
        action="append",
        type=os.fsencode,
        default=[],
        metavar="PROTOCOL",
        help="may be repeated",
    )
    parser.add_argument(
        "--session-store",
        type=Path,
        metavar="DIR",
        help="private folder to keep sessions in, for later connections to resume; default: none",
    )
    parser.add_argument(
        "--timeout",
        type=shared.seconds,
        default=30.0,
        metavar="S",
        help="seconds to connect, and again for the handshake; default 30",
    )
    parser.add_argument(
        "--close",
        choices=[policy.value for policy in ClosePolicy],
        default=ClosePolicy.STRICT.value,
        help="relaxed: an end without close_notify is no error; for protocols that tell by "
        "themselves whether a message is complete",
    )
    parser.add_argument(
        "--aware",
        action="store_true",
        help="PROG keeps to docs/handoff.md: give it the connection itself, and the session",
    )
    parser.add_argument("host", metavar="HOST")
    parser.add_argument("port", type=shared.port, metavar="PORT")
    parser.usage = f"{parser.prog} [OPTION...] HOST PORT [-- PROG ARG...]"
    parser.epilog = "PROG runs with the connection on descriptors 6 (read) and 7 (write)."
    parser.set_defaults(program=[])


def run(arguments: argparse.Namespace, options: GlobalOptions) -> int:
    """Connect, and pump until the peer has closed; or leave that to a program."""
    config = _configure(arguments)
    closing = ClosePolicy(arguments.close)

    def open_connection() -> Handoff:
        return _open(arguments, options, config)

    if arguments.program:
        return execute.run(arguments.program, open_connection, closing, aware=arguments.aware)
    if arguments.aware:
        raise ConfigError("--aware is a promise about a program", hint="add -- PROG ARG...")
    _pump(open_connection(), closing)
    return ExitCode.OK


def _open(arguments: argparse.Namespace, options: GlobalOptions, config: ClientConfig) -> Handoff:
    sock = _dial(arguments.host, arguments.port, arguments.timeout)
    handed = connect(sock, config, shared.policy(options))
    agreed = handed.negotiated
    carrier = "kernel" if handed.reason is None else f"relay, {': '.join(handed.reason[:2])}"
    how = ", resumed" if agreed.resumed else ""
    _log.info("%s %s%s (%s)", agreed.version.label, agreed.suite.name, how, carrier)
    return handed


def _configure(arguments: argparse.Namespace) -> ClientConfig:
    name = arguments.servername or arguments.host
    if arguments.no_verify:
        _log.warning("warning: the peer is not verified")
    return ClientConfig(
        server_name=None if is_ip_address(name) else name,
        identities=tuple(arguments.ref_id or [ReferenceIdentifier.for_host(name)]),
        verify=not arguments.no_verify,
        trust=TrustAnchors() if arguments.ca is None else TrustAnchors.load(arguments.ca),
        alpn=tuple(arguments.alpn),
        timeout=arguments.timeout,
        session_store=arguments.session_store,
    )


def _dial(host: str, port: int, timeout: float) -> socket.socket:
    try:
        sock = socket.create_connection((host, port), timeout=timeout)
    except TimeoutError as exc:
        raise DeadlineExceeded(
            f"no connection to {host} port {port} within {timeout:g} seconds",
            hint="the host may be down, or a firewall may drop what is sent to it",
        ) from exc
    except (OSError, UnicodeError) as exc:
        raise NetworkError(f"cannot connect to {host} port {port}: {exc}") from exc
    sock.settimeout(None)
    return sock


def _pump(handed: Handoff, closing: ClosePolicy) -> None:
    unreadable: list[OSError] = []
    with TLSSocket(handed, closing) as stream:
        # Nothing wakes a thread that waits for stdin, so the process does not wait for it either.
        threading.Thread(target=_send_stdin, args=[stream, unreadable], daemon=True).start()
        try:
            while data := stream.recv(_CHUNK):
                _write_stdout(data)
        finally:
            if unreadable:
                raise unreadable[0]


def _send_stdin(stream: TLSSocket, unreadable: list[OSError]) -> None:
    try:
        while data := _read_stdin(stream, unreadable):
            stream.sendall(data)
        if not unreadable:
            stream.shutdown(socket.SHUT_WR)
    except OSError as exc:
        # The receiving side finds out what happened and reports it.
        _log.debug("sending ended: %s", exc)


def _read_stdin(stream: TLSSocket, unreadable: list[OSError]) -> bytes:
    """Read some of stdin; if that fails, which is not its end, wake the receiving side."""
    try:
        return os.read(0, _CHUNK)
    except OSError as exc:
        unreadable.append(OSError(exc.errno, exc.strerror, "stdin"))
        stream.shutdown(socket.SHUT_RD)
        return b""


def _write_stdout(data: bytes) -> None:
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(1, view) :]
    except OSError as exc:
        raise OSError(exc.errno, exc.strerror, "stdout") from exc
