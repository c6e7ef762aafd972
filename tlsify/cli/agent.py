"""tlsify agent: a private process that does handshakes for others."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from tlsify.agent.config_cache import Configs
from tlsify.agent.listener import Inherited, Listener
from tlsify.agent.server import Worker
from tlsify.cli.options import addresses, numbers
from tlsify.cli.options import common as shared
from tlsify.config import KtlsPolicy
from tlsify.connection.establish import drop_past_keys
from tlsify.errors import ExitCode, UsageError
from tlsify.logs.messages import announce
from tlsify.metrics.counters import share
from tlsify.serving import supervisor
from tlsify.serving.duty import SupervisorHooks
from tlsify.serving.warm_up import rehearse
from tlsify.system import service_manager
from tlsify.system.process import end_with, ignore
from tlsify.system.sandbox import renounce

if TYPE_CHECKING:
    import argparse

    from tlsify.cli.parser import GlobalOptions
    from tlsify.serving.generation import WorkerHandle

DESCRIPTION = (
    "Do TLS handshakes for other processes of the same user, which pass their connections here."
)
_SESSIONS = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own options."""
    parser.add_argument(
        "--fd",
        type=numbers.descriptor,
        metavar="N",
        help="inherited end of a socketpair to serve until the other end is closed",
    )
    parser.add_argument(
        "--workers",
        type=numbers.count,
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="worker processes; default: one for each processor",
    )
    parser.add_argument(
        "--sessions",
        type=numbers.count,
        default=_SESSIONS,
        metavar="N",
        help="maximum concurrent handshakes of each worker; further ones wait; default %(default)s",
    )
    parser.add_argument(
        "--cert",
        action="append",
        default=[],
        metavar="FILE",
        help="PEM certificate chain for servers; its key may be in the same file; may be repeated",
    )
    parser.add_argument(
        "--key",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="PEM private key of that certificate, unencrypted",
    )
    parser.add_argument(
        "--alpn",
        action="append",
        type=shared.alpn_protocol,
        default=[],
        metavar="PROTOCOL",
        help="application protocol of servers whose request names none; may be repeated",
    )
    parser.add_argument(
        "--resumption", action="store_true", help="send session tickets to the clients of servers"
    )
    parser.add_argument(
        "--listen", dest="path", type=_path, metavar="unix:PATH", help="socket to listen on"
    )
    parser.add_argument(
        "operand", nargs="?", type=_path, metavar="PATH", help="the same as --listen unix:PATH"
    )
    parser.usage = f"{parser.prog} [OPTION...] PATH | --fd N"


def _path(text: str) -> Path:
    return Path(addresses.local_path(text))


def misuse(arguments: argparse.Namespace) -> str | None:
    """Return the error of too many places to listen, or none."""
    given = [each for each in (arguments.path, arguments.operand, arguments.fd) if each is not None]
    return None if len(given) == 1 else "one place to listen is required: PATH, or --fd N"


def run(arguments: argparse.Namespace, options: GlobalOptions) -> int:
    """Serve until SIGTERM or SIGINT, or until the socketpair is closed."""
    del options  # what the kernel is to do, each request says
    configs = Configs.of_files(
        _files(arguments), alpn=tuple(arguments.alpn), resumption=arguments.resumption
    )
    configs.prepare(KtlsPolicy())
    ignore([signal.SIGUSR1, signal.SIGUSR2])  # which a whole service may be sent
    rehearse()
    place: Listener | Inherited
    if arguments.fd is None:
        path = arguments.path or arguments.operand
        place, name = Listener(path.absolute()), str(path)
    else:
        place, name = Inherited(arguments.fd), f"descriptor {arguments.fd}"
    count, parent = arguments.workers, os.getpid()

    def ready() -> None:
        announce(f"agent at {name} (workers: {count})")

    def work(post: WorkerHandle) -> None:
        renounce()
        end_with(parent)
        Worker(place.sock, configs, arguments.sessions).run(post.ready, place.withdraw)

    duty = SupervisorHooks(
        on_ready=ready,
        on_stop=place.withdraw,
        before_fork=drop_past_keys,
        refresh=configs.reload,  # workers see by themselves that files have changed
        together=True,  # where the pair is closed for one, it is for all
        notify=service_manager.notify,
        watchdog=service_manager.watchdog_period(),
    )
    share()  # heartbeats
    with place.sock:
        supervisor.run(count, work, duty)
    return ExitCode.OK


def _files(arguments: argparse.Namespace) -> dict[str, tuple[Path, Path]]:
    """Return where certificates and keys are, by the names that requests give them."""
    keys = arguments.key or [Path(name) for name in arguments.cert]
    if len(arguments.cert) != len(keys):
        raise UsageError(
            "each --cert goes together with a --key, or contains it",
            hint="give as many keys as certificates, or none",
        )
    return {name: (Path(name), key) for name, key in zip(arguments.cert, keys, strict=True)}
