"""tlsify wrap: TLS for an unmodified server, which runs under a supervisor."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from tlsify.aio.limits import Limits
from tlsify.cli.options import common as shared
from tlsify.cli.options import logs
from tlsify.cli.options import server as server_options
from tlsify.cli.options import serving as serving_options
from tlsify.cli.options.numbers import whole
from tlsify.cli.program import execute
from tlsify.config import KtlsMode
from tlsify.connection.setup.eligibility import host_refusal
from tlsify.errors import UsageError
from tlsify.http import plain
from tlsify.serving.configuration import Configuration
from tlsify.system import listening
from tlsify.system.sandbox import Sandboxing, renounce
from tlsify.wrap import inherited, supervisor
from tlsify.wrap.filter import Questions
from tlsify.wrap.launch import launch
from tlsify.wrap.numbers import Numbers
from tlsify.wrap.ports import Ports

if TYPE_CHECKING:
    import argparse

    from tlsify.cli.parser import GlobalOptions
    from tlsify.config import ServerConfig

DESCRIPTION = "Run a server that speaks no TLS, and have its clients speak TLS with it."
_ALPN = [b"http/1.1"]
_port = whole(1, 65535)
_HTTP = {b"http/1.1", b"http/1.0", b"h2"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own options."""
    server_options.add_arguments(parser, user=False)
    group = parser.add_argument_group("service")
    group.add_argument(
        "--port",
        action="append",
        type=_port,
        default=[],
        metavar="N",
        help="port of PROG that gets TLS; may be repeated; default: every TCP port it listens on",
    )
    group.add_argument(
        "--plain-port",
        action="append",
        type=_port,
        default=[],
        metavar="N",
        help="port of PROG that stays without TLS; may be repeated",
    )
    group.add_argument(
        "--bare",
        action="store_true",
        help="do not look at what PROG reads: faster uploads, but EIO instead of the end of a "
        "stream (tlsify help handoff)",
    )
    serving_options.add_limits(group, "at each address", "there")
    serving_options.add_reports(group)
    group.add_argument(
        "--redirect-http",
        action="store_true",
        help="redirect clients that speak plain HTTP on a port for TLS to HTTPS; without it they "
        "get status 400",
    )
    parser.usage = f"{parser.prog} [OPTION...] -- PROG ARG..."
    parser.epilog = (
        "PROG listens and speaks as without TLS. The exit status is its own; signals go to it."
    )
    parser.set_defaults(program=[])


def run(arguments: argparse.Namespace, options: GlobalOptions) -> int:
    """Run the program until its last process has ended."""
    path, ports = _check(arguments)
    policy = shared.policy(options)
    refusal = host_refusal(policy)
    if refusal is not None and policy.mode is KtlsMode.REQUIRE:
        raise refusal
    inherited.check(ports.have)
    numbers = Numbers.of_this_process()
    access_log = logs.access_log(arguments, options)
    metrics = [] if arguments.metrics is None else listening.listen_on(arguments.metrics)
    launched = launch(
        partial(execute.become, path, arguments.program),
        numbers.base,
        Questions(
            reads=not arguments.bare,
            stdin=refusal is None,
            names=policy.mode is not KtlsMode.REQUIRE,
        ),
        private=[] if arguments.key_fd is None else [arguments.key_fd],
    )
    renounce(but=["pidfd_getfd"])  # by which it takes the program's listening sockets
    isolation = server_options.isolation(arguments, len(os.sched_getaffinity(0)), Sandboxing.AUTO)
    alpn = arguments.alpn = arguments.alpn or _ALPN
    speaks_http = arguments.redirect_http or bool(_HTTP & set(alpn))
    return supervisor.run(
        supervisor.WrapPlan(
            launch=launched,
            numbers=numbers,
            configuration=Configuration(
                lambda: server_options.configure(arguments), policy, isolation
            ),
            policy=policy,
            limits=Limits(
                arguments.max_connections, arguments.max_handshakes, arguments.per_address
            ),
            ports=ports,
            watch=server_options.watch(arguments),
            metrics=metrics,
            stranger=partial(plain.answer, redirect=arguments.redirect_http)
            if speaks_http
            else None,
            access_log=access_log,
        )
    )


def examine(arguments: argparse.Namespace) -> ServerConfig:
    """Find what is wrong with the arguments, without running; return the configuration.

    Raises:
        ConfigError: one of them, or a file, is unusable.
    """
    _check(arguments)
    logs.examine(arguments)
    return server_options.configure(arguments)


def _check(arguments: argparse.Namespace) -> tuple[str, Ports]:
    """Return the program's path, and which ports get TLS.

    Raises:
        UsageError: there is no program, or a port cannot be both.
        ProgramError: it cannot be run.
    """
    path = execute.check(arguments.program)
    ports = Ports(frozenset(arguments.port), frozenset(arguments.plain_port))
    for port in ports.wrapped & ports.plain:
        raise UsageError(
            f"port {port} cannot both get TLS and stay without it",
            hint="name it with --port or with --plain-port",
        )
    return path, ports
