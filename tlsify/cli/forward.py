"""tlsify forward: TLS in front of another server, which gets plaintext or descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

from tlsify.addresses import Address, is_same
from tlsify.cli.options import addresses, logs
from tlsify.cli.options import common as shared
from tlsify.cli.options import server as server_options
from tlsify.cli.options import serving as serving_options
from tlsify.cli.parser import Attached
from tlsify.config import ClosePolicy
from tlsify.connection.setup.eligibility import host_refusal
from tlsify.connection.stillness import Bounds
from tlsify.errors import ExitCode, UsageError
from tlsify.logs.messages import announce
from tlsify.names import is_ip_address
from tlsify.serving import server
from tlsify.serving.backends import Backend, Backends, Rule, parse_several
from tlsify.serving.forward import Forwarding, Passing
from tlsify.system import listening
from tlsify.system.sandbox import Reach, resolvers

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Sequence

    from tlsify.cli.parser import GlobalOptions
    from tlsify.config import ServerConfig
    from tlsify.logs.access import AccessLog

DESCRIPTION = "Accept TLS connections, and pass them to another server: plaintext, or descriptors."
# "LISTEN --proxy-protocol BACKEND" is what people write.
IS_MIXED = True
_PATIENCE = 5.0
_HTTP = {b"http/1.1", b"http/1.0", b"h2"}
_BY_PROTOCOL = "auto"
_DNS = 53


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own options."""
    server_options.add_arguments(parser)
    serving_options.add_arguments(parser, listen=None)
    group = parser.add_argument_group("backends")
    group.add_argument(
        "--pass-fd",
        type=parse_several,
        metavar="unix:PATH",
        help="send each connection to this socket as a descriptor (tlsify help passing), instead "
        "of BACKEND",
    )
    group.add_argument(
        "--aware",
        action="store_true",
        help="the receiver implements the contract (tlsify help handoff): send it the kTLS "
        "socket and its session state",
    )
    group.add_argument(
        "--proxy-protocol",
        action=Attached,
        const="2",
        choices=("1", "2"),
        help="send a PROXY protocol header with the client's address first: of version 2 "
        "(default), or of version 1, which has nothing else",
    )
    group.add_argument(
        "--route",
        action="append",
        type=Rule.parse,
        default=[],
        metavar="PROTOCOL=BACKEND|sni:NAME=BACKEND",
        help="backend for connections with this ALPN protocol or server name; may be repeated; "
        "the first match wins",
    )
    group.add_argument(
        "--connect-timeout",
        type=shared.seconds,
        default=_PATIENCE,
        metavar="S",
        help=f"seconds within which a backend has to accept a connection; default {_PATIENCE:g}",
    )
    group.add_argument(
        "--retry",
        type=shared.seconds,
        metavar="S",
        help="seconds to keep trying while every backend refuses, as during a restart; default "
        "0, with --pass-fd that of --connect-timeout",
    )
    group.add_argument(
        "--idle",
        type=shared.seconds,
        metavar="S",
        help="seconds without a byte in either direction after which a connection is closed "
        "cleanly; default: never",
    )
    group.add_argument(
        "--close",
        choices=[_BY_PROTOCOL, *(policy.value for policy in ClosePolicy)],
        default=_BY_PROTOCOL,
        help="treat a client's end without close_notify as a cut (strict) or as a clean end "
        "(relaxed); auto (default): a clean end with HTTP, a cut otherwise",
    )
    parser.add_argument(
        "addresses",
        nargs="*",
        metavar="LISTEN|BACKEND",
        help="addresses to listen on, as for --listen; the last one is the backend: HOST:PORT or "
        "unix:PATH, or a comma-separated list of these, tried in order",
    )
    parser.usage = f"{parser.prog} [OPTION...] [LISTEN...] BACKEND|--pass-fd unix:PATH"


def misuse(arguments: argparse.Namespace) -> str | None:
    """Return the error in the arguments that name backends."""
    if arguments.pass_fd is not None:
        return (
            "--proxy-protocol and --pass-fd exclude each other"
            if arguments.proxy_protocol
            else None
        )
    if arguments.aware:
        return "--aware needs --pass-fd"
    return None if arguments.addresses else "BACKEND is required, or --pass-fd unix:PATH"


def complete(arguments: argparse.Namespace) -> None:
    """Parse the addresses: where to listen, and where connections go.

    Raises:
        UsageError: one of them is none.
    """
    words = list(arguments.addresses)
    arguments.backends = arguments.pass_fd or addresses.reading(parse_several, words.pop())
    found = [addresses.reading(Address.to_listen, word) for word in words]
    arguments.listen = [*arguments.listen, *found]


def run(arguments: argparse.Namespace, options: GlobalOptions) -> int:
    """Forward until SIGTERM or SIGINT."""
    access_log = logs.access_log(arguments, options)
    service = _service(arguments, access_log)
    policy = shared.policy(options)
    target = ",".join(map(str, arguments.backends))

    def tell() -> None:
        refusal = host_refusal(policy)
        carrier = "kernel TLS" if refusal is None else f"relay: {refusal.code}"
        for place in dict.fromkeys(listening.spell(sock) for sock in plan.listeners):
            announce(f"forwarding {place} to {target} ({carrier})")

    rules = _rules(arguments)
    _check_loops(rules, arguments.listen)
    reach = _reach(rules)
    plan = serving_options.plan(
        arguments,
        options,
        service,
        reach=lambda: reach,
        on_ready=tell,
        access_log=access_log,
        speaks_http=bool(arguments.redirect_http or _HTTP & set(arguments.alpn)),
    )
    with plan.estate:
        _check_loops(rules, map(_address, plan.listeners))  # of systemd
        for sock in plan.listeners:
            # What is accepted inherits it: pieces are as large as the backend's; none has to wait.
            with contextlib.suppress(OSError):  # systemd's may be of another family
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server.run(plan)
    return ExitCode.OK


def examine(arguments: argparse.Namespace) -> ServerConfig:
    """Find what is wrong with the arguments, without forwarding; return the configuration.

    Raises:
        ConfigError: it could not be forwarded with them.
    """
    _service(arguments, None)
    _check_loops(_rules(arguments), arguments.listen)
    return serving_options.examine(arguments)


def reach_backends(arguments: argparse.Namespace) -> dict[Backend, OSError | None]:
    """Connect to each backend, all at once; return the errors of those that take no connection."""
    kind = socket.SOCK_STREAM if arguments.pass_fd is None else socket.SOCK_SEQPACKET
    backends = [backend for rule in _rules(arguments) for backend in rule.backends]

    async def reach(backend: Backend) -> OSError | None:
        try:
            if backend.path:
                backend.connect_here(kind).close()
            else:
                (await backend.connect(arguments.connect_timeout)).close()
        except OSError as exc:
            return exc
        return None

    async def reach_all() -> dict[Backend, OSError | None]:
        failures = await asyncio.gather(*map(reach, backends))
        return dict(zip(backends, failures, strict=True))

    return asyncio.run(reach_all())


def _rules(arguments: argparse.Namespace) -> list[Rule]:
    return [*arguments.route, Rule(None, None, arguments.backends)]


def _address(sock: socket.socket) -> Address:
    name = sock.getsockname()
    return Address(*name[:2]) if isinstance(name, tuple) else Address(path=str(name))


def _check_loops(rules: Sequence[Rule], listeners: Iterable[Address]) -> None:
    """Refuse a backend where this server itself listens: each connection would beget another.

    Raises:
        ConfigError: there is one.
    """
    for address in listeners:
        for backend in (backend for rule in rules for backend in rule.backends):
            if is_same(address, backend):
                raise UsageError(
                    f"the backend {backend} is where this server itself listens",
                    hint="name the address of the other server",
                )


def _reach(rules: Sequence[Rule]) -> Reach:
    """Return what workers need for their backends."""
    backends = [backend for rule in rules for backend in rule.backends]
    ports = {backend.port for backend in backends if backend.port}
    abstract = any(backend.path.startswith("@") for backend in backends)
    if all(backend.path or is_ip_address(backend.host) for backend in backends):
        return Reach(ports=tuple(ports), abstract=abstract)
    return Reach(read=resolvers(), ports=(*ports, _DNS), abstract=abstract)


def _service(
    arguments: argparse.Namespace, access_log: AccessLog | None
) -> Callable[[], Forwarding | Passing]:
    """Return what makes a worker's service; each knows by itself which backends are down."""
    rules = _rules(arguments)
    for rule in arguments.route:
        if rule.alpn is not None and rule.alpn not in arguments.alpn:
            name = rule.alpn.decode(errors="backslashreplace")
            raise UsageError(
                f'the route for ALPN "{name}" can never match: {name} is not offered',
                hint=f"add --alpn {name}",
            )
    closing = None if arguments.close == _BY_PROTOCOL else ClosePolicy(arguments.close)
    bounds = Bounds(arguments.idle, arguments.send_timeout)
    patience, retry = arguments.connect_timeout, arguments.retry
    if arguments.pass_fd is None:
        return lambda: Forwarding(
            Backends(rules, patience, retry or 0),
            closing,
            bounds,
            access_log,
            proxy_protocol=arguments.proxy_protocol,
        )
    for backend in (backend for rule in rules for backend in rule.backends):
        if not backend.path:
            raise UsageError(f"a descriptor cannot be sent to {backend}", hint="write unix:PATH")
    # Workers come and go, and a connection loses nothing by waiting for one.
    retry = patience if retry is None else retry
    return lambda: Passing(
        Backends(rules, patience, retry), closing, bounds, access_log, aware=arguments.aware
    )
