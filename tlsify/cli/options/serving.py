"""Options of servers: addresses, number of processes, limits."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from tlsify.addresses import Address
from tlsify.aio.limits import MOST_HANDSHAKES, Limits
from tlsify.cli.options import addresses, logs, numbers, redirection, renewal
from tlsify.cli.options import common as shared
from tlsify.cli.options import server as server_options
from tlsify.connection.stillness import SEND_TIMEOUT
from tlsify.credentials.key_files import fingerprint
from tlsify.errors import ConfigError, UsageError
from tlsify.passing.proxies import Proxies
from tlsify.serving.plan import ServerPlan
from tlsify.serving.reexec import SYSTEMD, Inherited
from tlsify.system import listening, sandbox
from tlsify.system.sandbox import Reach, Sandboxing

if TYPE_CHECKING:
    import argparse
    import socket
    from collections.abc import Callable, Iterator, Sequence

    from cryptography.x509 import Certificate

    from tlsify.cli.options.automatic import Automatic
    from tlsify.cli.parser import GlobalOptions
    from tlsify.config import ServerConfig
    from tlsify.credentials.key_pair import KeyPair
    from tlsify.logs.access import AccessLog
    from tlsify.serving.plan import Provision

_log = logging.getLogger("tlsify")

_DRAIN = 30.0
_number = numbers.whole(1, 10_000_000)


def add_arguments(parser: argparse.ArgumentParser, *, listen: str | None) -> None:
    """Declare them.

    Args:
        parser: of a verb.
        listen: the default of --listen; None where there is none but systemd's sockets.
    """
    group = parser.add_argument_group("service")
    addresses.add_listen(
        group, "the sockets that systemd passes" + (f", or {listen}" if listen else "")
    )
    parser.set_defaults(default_listen=listen)
    group.add_argument(
        "--workers", type=numbers.count, default=1, metavar="N", help="worker processes; default 1"
    )
    group.add_argument(
        "--reuse-port",
        action="store_true",
        help="separate listening sockets for the workers; the kernel spreads connections evenly "
        "among them",
    )
    group.add_argument(
        "--accept-proxy",
        type=Proxies.parse,
        metavar="FROM",
        help="addresses and networks of proxies whose connections begin with a PROXY header, which "
        "names the client: a comma-separated list, with unix: for local sockets; other "
        "connections begin with TLS",
    )
    add_limits(group, "of all workers", "of each worker")
    group.add_argument(
        "--send-timeout",
        type=numbers.seconds,
        default=SEND_TIMEOUT,
        metavar="S",
        help="seconds for which a client may leave sent data unread before the connection is cut; "
        f"default {SEND_TIMEOUT:g}",
    )
    group.add_argument(
        "--drain-delay",
        type=numbers.seconds_or_0,
        default=0,
        metavar="S",
        help="seconds after SIGTERM in which connections are still accepted, while /readyz answers "
        "503, so that load balancers learn of the end; default 0",
    )
    group.add_argument(
        "--drain",
        type=numbers.seconds,
        default=_DRAIN,
        metavar="S",
        help="seconds that connections have to finish when the server stops or reloads; "
        f"default {_DRAIN:g}",
    )
    group.add_argument(
        "--sandbox",
        choices=[each.value for each in Sandboxing],
        default=Sandboxing.AUTO.value,
        help="confine workers by Landlock and seccomp to the files, ports and system calls "
        "that they need; auto (default): as far as the kernel can",
    )
    add_reports(group)
    redirection.add_arguments(group)
    renewal.add_arguments(parser)


def add_limits(group: argparse._ArgumentGroup, whole: str, part: str) -> None:
    """Declare limits of connections.

    Args:
        group: where.
        whole: what has the maximum of all connections.
        part: what has the maximum for each address.
    """
    group.add_argument(
        "--max-connections",
        type=_number,
        metavar="N",
        help=f"maximum concurrent connections {whole}; further ones wait; default: as many as "
        "the limit on descriptors allows",
    )
    group.add_argument(
        "--max-handshakes",
        type=_number,
        default=MOST_HANDSHAKES,
        metavar="N",
        help="maximum concurrent handshakes; further connections wait until one finishes or "
        f"stalls; default {MOST_HANDSHAKES}",
    )
    group.add_argument(
        "--per-address",
        type=_number,
        metavar="N",
        help=f"maximum concurrent connections {part} from one IPv4 address or IPv6 /64; "
        "further ones are closed; default: no limit",
    )
    group.add_argument(
        "--timeout",
        type=numbers.seconds,
        default=30.0,
        metavar="S",
        help="seconds for each handshake; default 30",
    )


def add_reports(group: argparse._ArgumentGroup) -> None:
    """Declare what is told of connections."""
    logs.add_access_log(group)
    server_options.add_isolation(group)
    group.add_argument(
        "--metrics",
        type=Address.to_listen,
        metavar="HOST:PORT|unix:PATH",
        help="plain HTTP address that answers GET /metrics, /readyz and /livez",
    )


def plan(  # noqa: PLR0913 - each is a matter of its own
    arguments: argparse.Namespace,
    options: GlobalOptions,
    provide: Callable[[], Provision],
    *,
    reach: Callable[[], Reach] = Reach,
    load: Callable[[], ServerConfig] | None = None,
    on_ready: Callable[[], None] = lambda: None,
    access_log: AccessLog | None = None,
    speaks_http: bool = True,
    watched: Sequence[Path] = (),
    is_plain: bool = False,
    is_inline: bool = False,
) -> ServerPlan:
    """Make a plan of them, and listen.

    Args:
        arguments: parsed, `server_options` among them; ``listen`` is a list of addresses.
        options: of the command.
        provide: returns what workers serve with, now and on each reload.
        reach: what workers need, if no more than this is within their reach; when it changes,
            all is reloaded.
        load: gives the configuration; `server_options.configure` if None.
        on_ready: called when every worker accepts connections.
        access_log: opened.
        speaks_http: whether clients that speak no TLS get an answer where it is HTTP.
        watched: files whose change means a reload, besides those of `server_options`.
        is_plain: whether clients speak no TLS: then there is no configuration.
        is_inline: as `ServerPlan` has it.

    Raises:
        ConfigError: there is no address, or as `check`.
        NetworkError: it cannot be listened on.
    """
    check(arguments)
    if arguments.user is not None:
        arguments.user.check()
    sandboxing = Sandboxing(arguments.sandbox)
    automatic = arguments.automatic = _automatic(arguments, prepare=True)
    estate = Inherited.inherit()
    estate.await_workers()
    try:
        listeners = _listeners(arguments, estate, deferred=not is_plain)
        metrics = estate.listen("metrics", arguments.metrics)
        plain_http = redirection.listen(arguments, estate, listeners)
        if automatic is not None and automatic.board is not None:
            plain_http = plain_http._replace(challenge=automatic.board.http)
    except BaseException:
        estate.close()
        raise
    estate.drop_unclaimed()

    def chains() -> Iterator[tuple[Certificate, ...]]:
        return server_options.chains(arguments)

    def ready() -> None:
        on_ready()
        redirection.tell(plain_http)

    if os.geteuid() == 0 and arguments.user is None and not estate.is_rehearsal:
        _log.warning("workers run as root: name a user for them (--user)")
    own = (lambda: None) if is_plain else server_options.watch(arguments)

    def files() -> object:
        return own(), fingerprint(watched)

    return ServerPlan(
        listeners=listeners,
        load=None if is_plain else load or (lambda: server_options.configure(arguments)),
        policy=shared.policy(options),
        provide=provide,
        workers=arguments.workers,
        limits=Limits(arguments.max_connections, arguments.max_handshakes, arguments.per_address),
        drain_delay=arguments.drain_delay,
        drain_seconds=arguments.drain,
        metrics=metrics,
        plain_http=plain_http,
        watch=_watch(files, reach, sandboxing),
        reach=reach,
        sandboxing=sandboxing,
        account=arguments.user,
        on_ready=ready,
        stranger=redirection.stranger(arguments) if speaks_http and not is_plain else None,
        is_inline=is_inline,
        access_log=access_log,
        proxies=arguments.accept_proxy,
        isolation=server_options.isolation(arguments, arguments.workers, sandboxing),
        errands=[] if automatic is None else automatic.errands(chains),
        estate=estate,
    )


def examine(
    arguments: argparse.Namespace, otherwise: Callable[[], KeyPair] | None = None
) -> ServerConfig:
    """Find what is wrong with the arguments, without listening; return the configuration.

    Args:
        arguments: parsed.
        otherwise: as `server_options.configure` has it.

    Raises:
        ConfigError: a server could not be started with them.
    """
    check(arguments)
    arguments.automatic = _automatic(arguments)
    return server_options.configure(arguments, otherwise=otherwise)


def check(arguments: argparse.Namespace) -> None:
    """Check the arguments apart from those for TLS.

    Raises:
        ConfigError: they do not go together, the access log cannot be written, or there is no
            sandbox where one is required.
    """
    redirection.check(arguments)
    logs.examine(arguments)
    listeners = [
        *(("--listen", each) for each in arguments.listen),
        ("--metrics", arguments.metrics),
        ("--redirect-http", arguments.redirect_http),
    ]
    addresses.check_apart(
        [(option, each) for option, each in listeners if isinstance(each, Address)],
        reuse_port=arguments.reuse_port,
    )
    is_required = Sandboxing(arguments.sandbox) is Sandboxing.REQUIRE
    if is_required and (missing := sandbox.refusal()) is not None:
        raise ConfigError(f"no sandbox: {missing}", hint=sandbox.HINT)


def _automatic(arguments: argparse.Namespace, *, prepare: bool = False) -> Automatic | None:
    if not arguments.acme and not arguments.ocsp_fetch:
        return None
    from tlsify.cli.options import automatic  # heavy, and rarely wanted

    return automatic.read(arguments, prepare=prepare)


def _watch(
    files: Callable[[], object], reach: Callable[[], Reach], sandboxing: Sandboxing
) -> Callable[[], object]:
    if sandboxing is Sandboxing.OFF or sandbox.refusal() is not None:
        return files
    return lambda: (files(), [identity(path) for path in reach().read])


def identity(path: str | Path) -> tuple[int, int] | None:
    """Return a folder's identity, which another in its place does not have; None without one."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _listeners(
    arguments: argparse.Namespace, estate: Inherited, *, deferred: bool
) -> list[socket.socket]:
    found: list[socket.socket] = []
    if not arguments.listen:
        found = estate.claim(SYSTEMD, listening.inherited)
    addresses = arguments.listen
    if not found and not addresses:
        if arguments.default_listen is None:
            raise UsageError(
                "there is no address to listen on",
                hint="add --listen HOST:PORT, or have systemd open the socket",
            )
        addresses = [Address.to_listen(arguments.default_listen)]
    number = arguments.workers if arguments.reuse_port else 1
    for address in dict.fromkeys(addresses):

        def listen(address: Address = address) -> list[socket.socket]:
            # TLS's clients speak first, and others may not.
            return listening.listen_on(
                address, number=number, reuse_port=arguments.reuse_port, deferred=deferred
            )

        found = found + estate.claim(str(address), listen)
    return found
