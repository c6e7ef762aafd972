"""tlsify forward: TLS in front of another server, or on the way to one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import TYPE_CHECKING, TypeAlias

from tlsify.addresses import Address, is_same
from tlsify.aio.outcomes import FAILURES
from tlsify.cli.options import addresses, balancing, logs, numbers
from tlsify.cli.options import backend as backend_options
from tlsify.cli.options import common as shared
from tlsify.cli.options import server as server_options
from tlsify.cli.options import serving as serving_options
from tlsify.cli.parser import Attached
from tlsify.config import ClosePolicy, KtlsMode, KtlsPolicy
from tlsify.connection.setup.eligibility import host_refusal
from tlsify.connection.stillness import Bounds
from tlsify.errors import ExitCode, UsageError
from tlsify.logs.messages import announce
from tlsify.names import is_ip_address, is_loopback
from tlsify.serving import server
from tlsify.serving.backend.address import Backend, parse_several
from tlsify.serving.backend.choice import Backends
from tlsify.serving.backend.order import Balance
from tlsify.serving.backend.routes import Rule, Traits
from tlsify.serving.backend.security import Security
from tlsify.serving.forward import Forwarding, Passing
from tlsify.serving.plan import Provision
from tlsify.system import listening
from tlsify.system.sandbox import Reach, resolvers

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from tlsify.cli.parser import GlobalOptions
    from tlsify.config import ClientConfig, ServerConfig
    from tlsify.logs.access import AccessLog
    from tlsify.serving.plan import Service

    _Maker: TypeAlias = Callable[[Mapping[Backend, ClientConfig]], Service]

DESCRIPTION = (
    "Accept TLS connections, and pass them to another server: plaintext, TLS, or descriptors. Or "
    "accept plaintext, and pass it on by TLS (--connect)."
)
# "LISTEN --proxy-protocol BACKEND" is what people write.
IS_MIXED = True
_log = logging.getLogger("tlsify")
_PATIENCE = 5.0
_HTTP = {b"http/1.1", b"http/1.0", b"h2"}
_BY_PROTOCOL = "auto"
_DNS = 53


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own options."""
    server_options.add_arguments(parser)
    serving_options.add_arguments(parser, listen=None)
    backend_options.add_arguments(parser)
    group = parser.add_argument_group("backends")
    group.add_argument(
        "--connect",
        action="store_true",
        help="be a TLS client: accept connections without TLS, and speak TLS to every backend",
    )
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
        metavar="PROTOCOL=BACKEND|sni:NAME=BACKEND|listen:HOST:PORT=BACKEND",
        help="backend for connections with this ALPN protocol or server name, or accepted at this "
        "address, which is then listened on; may be repeated; the first match wins",
    )
    balancing.add_arguments(group)
    group.add_argument(
        "--connect-timeout",
        type=numbers.seconds,
        default=_PATIENCE,
        metavar="S",
        help="seconds within which a backend has to accept a connection, TLS included; default "
        f"{_PATIENCE:g}",
    )
    group.add_argument(
        "--retry",
        type=numbers.seconds_or_0,
        metavar="S",
        help="seconds to keep trying while every backend refuses, as during a restart; default "
        "0, with --pass-fd that of --connect-timeout",
    )
    group.add_argument(
        "--idle",
        type=numbers.seconds,
        metavar="S",
        help="seconds without a byte in either direction after which a connection is closed "
        "cleanly; default: never",
    )
    group.add_argument(
        "--close",
        choices=[_BY_PROTOCOL, *(policy.value for policy in ClosePolicy)],
        default=_BY_PROTOCOL,
        help="treat an end without close_notify as a cut (strict) or as a clean end (relaxed); "
        "auto (default): a client's is a clean end with HTTP, and any other a cut",
    )
    parser.add_argument(
        "addresses",
        nargs="*",
        metavar="LISTEN|BACKEND",
        help="addresses to listen on, as for --listen; the last one is the backend: HOST:PORT or "
        "unix:PATH, with TLS tls:HOST:PORT, or tls+PROTOCOL:HOST:PORT for STARTTLS; or a "
        "comma-separated list of these (--balance)",
    )
    parser.usage = f"{parser.prog} [OPTION...] [LISTEN...] BACKEND|--pass-fd unix:PATH"


def misuse(arguments: argparse.Namespace) -> str | None:
    """Return the error in the arguments that name backends."""
    if (found := backend_options.misuse(arguments)) is not None:
        return found
    if (found := balancing.misuse(arguments)) is not None:
        return found
    if arguments.pass_fd is not None:
        return (
            "--proxy-protocol and --pass-fd exclude each other"
            if arguments.proxy_protocol
            else None
        )
    if arguments.aware:
        return "--aware needs --pass-fd"
    if arguments.addresses or any(rule.listener is not None for rule in arguments.route):
        return None
    return "BACKEND is required, or --pass-fd unix:PATH"


def complete(arguments: argparse.Namespace) -> None:
    """Parse the addresses: where to listen, and where connections go.

    Raises:
        UsageError: one of them is none, or nothing is said of where a listener's connections go.
    """
    words = list(arguments.addresses)
    backends = arguments.pass_fd or ()
    if words and not backends:
        backends = addresses.reading(parse_several, words.pop())
    found = [addresses.reading(Address.to_listen, word) for word in words]
    routed = [rule.listener for rule in arguments.route if rule.listener is not None]
    arguments.listen = list(dict.fromkeys([*arguments.listen, *found, *routed]))
    for address in arguments.listen:
        if not backends and address not in routed:
            raise UsageError(
                f"no backend for what is accepted at {address}",
                hint=f"add --route listen:{address}=BACKEND, or BACKEND for all others",
            )
    rules = [*arguments.route, *([Rule(None, None, backends)] if backends else [])]
    arguments.rules = backend_options.secured(arguments, rules)


def run(arguments: argparse.Namespace, options: GlobalOptions) -> int:
    """Forward until SIGTERM or SIGINT."""
    access_log = logs.access_log(arguments, options)
    policy, rules = shared.policy(options), arguments.rules
    make = _maker(arguments, policy, access_log)

    def tell() -> None:
        refusal = host_refusal(policy)
        carrier = "kernel TLS" if refusal is None else f"relay: {refusal.code}"
        for sock in {listening.spell(sock): sock for sock in plan.listeners}.values():
            target = ",".join(map(str, _backends_of(rules, sock)))
            announce(f"forwarding {listening.spell(sock)} to {target} ({carrier})")

    _check_loops(rules, arguments.listen)
    reach = _reach(rules)
    plan = serving_options.plan(
        arguments,
        options,
        lambda: _provision(arguments, policy, make),
        reach=lambda: reach,
        on_ready=tell,
        access_log=access_log,
        speaks_http=bool(arguments.redirect_http or _HTTP & set(arguments.alpn)),
        watched=backend_options.files(arguments),
        is_plain=arguments.connect,
        is_inline=True,
    )
    with plan.estate:
        _check_loops(rules, map(_address, plan.listeners))  # of systemd
        if arguments.connect:
            _warn_of_strangers(map(_address, plan.listeners))
        for sock in plan.listeners:
            # What is accepted inherits it: pieces are as large as the backend's; none has to wait.
            with contextlib.suppress(OSError):  # systemd's may be of another family
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server.run(plan)
    return ExitCode.OK


def examine(arguments: argparse.Namespace) -> ServerConfig | None:
    """Find what is wrong with the arguments, without forwarding; return the configuration.

    Returns:
        None if clients speak no TLS.

    Raises:
        ConfigError: it could not be forwarded with them.
    """
    _maker(arguments, KtlsPolicy(), None)
    _check_loops(arguments.rules, arguments.listen)
    if arguments.connect:
        serving_options.check(arguments)
        _warn_of_strangers(arguments.listen)
        return None
    return serving_options.examine(arguments)


def reach_backends(
    arguments: argparse.Namespace, policy: KtlsPolicy
) -> dict[Backend, Exception | None]:
    """Connect to each backend, all at once; return the errors of those that take no connection.

    Raises:
        ConfigError: a file for TLS to them is unusable.
    """
    kind = socket.SOCK_STREAM if arguments.pass_fd is None else socket.SOCK_SEQPACKET
    backends = [backend for rule in arguments.rules for backend in rule.backends]
    security = Security(backend_options.configure(arguments, arguments.rules), policy)
    seconds = arguments.connect_timeout

    async def reach(backend: Backend) -> Exception | None:
        try:
            if backend.path:
                sock = backend.connect_here(kind)
            else:
                sock = await backend.connect(seconds)
            if backend.is_tls:
                (await security.hand_over(backend, sock, None, seconds)).close()
            else:
                sock.close()
        except FAILURES as exc:
            return exc
        return None

    async def reach_all() -> dict[Backend, Exception | None]:
        failures = await asyncio.gather(*map(reach, backends))
        return dict(zip(backends, failures, strict=True))

    return asyncio.run(reach_all())


def _backends_of(rules: Sequence[Rule], listener: socket.socket) -> Sequence[Backend]:
    """Return where connections go that are accepted there, and about which nothing is known."""
    traits = Traits(local=listener.getsockname())
    return next((rule.backends for rule in rules if rule.fits(traits)), ())


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
            if is_same(address, backend.address):
                raise UsageError(
                    f"the backend {backend} is where this server itself listens",
                    hint="name the address of the other server",
                )


def _warn_of_strangers(listeners: Iterable[Address]) -> None:
    """Warn of addresses at which other hosts can connect, without TLS."""
    for address in listeners:
        if not address.path and not is_loopback(address.host):
            _log.warning(
                "%s takes plaintext from other hosts, and has no idea who they are: "
                "listen on 127.0.0.1 or a path",
                address,
            )


def _reach(rules: Sequence[Rule]) -> Reach:
    """Return what workers need for their backends."""
    backends = [backend for rule in rules for backend in rule.backends]
    ports = {backend.port for backend in backends if backend.port}
    abstract = any(backend.path.startswith("@") for backend in backends)
    if all(backend.path or is_ip_address(backend.host) for backend in backends):
        return Reach(ports=tuple(ports), abstract=abstract)
    return Reach(read=resolvers(), ports=(*ports, _DNS), abstract=abstract)


def _provision(arguments: argparse.Namespace, policy: KtlsPolicy, make: _Maker) -> Provision:
    """Read what connections to backends need, as it is now.

    Raises:
        ConfigError: a file is unusable.
        KtlsUnavailable: the policy requires the kernel, which cannot.
    """
    configs = backend_options.configure(arguments, arguments.rules)
    refusal = host_refusal(policy)  # the probe also loads the kernel's module
    if refusal is not None and policy.mode is KtlsMode.REQUIRE:
        raise refusal
    return Provision(lambda: make(configs), tuple(configs.values()))


def _maker(
    arguments: argparse.Namespace, policy: KtlsPolicy, access_log: AccessLog | None
) -> _Maker:
    """Return what makes a worker's service; each knows by itself which backends are down."""
    rules = arguments.rules
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
    balance = Balance(arguments.balance)
    if arguments.pass_fd is None:
        return lambda configs: Forwarding(
            Backends(rules, patience, retry or 0, balance),
            closing,
            bounds,
            access_log,
            proxy_version=arguments.proxy_protocol,
            security=Security(configs, policy),
            checks=balancing.checks(arguments),
        )
    for backend in (backend for rule in rules for backend in rule.backends):
        if not backend.path or backend.is_tls:
            raise UsageError(f"a descriptor cannot be sent to {backend}", hint="write unix:PATH")
    # Workers come and go, and a connection loses nothing by waiting for one.
    retry = patience if retry is None else retry
    return lambda _: Passing(
        Backends(rules, patience, retry, balance),
        closing,
        bounds,
        access_log,
        aware=arguments.aware,
    )
