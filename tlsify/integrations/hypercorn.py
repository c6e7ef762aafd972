"""hypercorn: its configuration, its server and its command, with tlsify's context and loop."""

from __future__ import annotations

import asyncio
import ssl
import sys
from typing import TYPE_CHECKING, Any

import hypercorn.__main__ as command
import hypercorn.asyncio.run as workers
from hypercorn.asyncio import serve
from hypercorn.config import Config as _Config
from hypercorn.run import run as run_workers

from tlsify.aio.loop import EventLoop
from tlsify.config import KtlsPolicy
from tlsify.integrations.command import reported, require_certificate
from tlsify.sslcontext.context import SSLContext

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_asyncio_worker, _run_worker = workers.asyncio_worker, workers._run  # noqa: SLF001 - see `main`


class Config(_Config):
    """hypercorn's configuration, whose certificate is shown by tlsify.

    Attributes:
        policy: when to give the keys to the kernel.
    """

    policy = KtlsPolicy()

    def create_ssl_context(self) -> ssl.SSLContext | None:
        """Make a context of the settings that hypercorn makes its own of.

        Raises:
            ConfigError: a file is unusable.
        """
        if self.certfile is None or self.keyfile is None:
            return None
        context = SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certfile, self.keyfile, self.keyfile_password)
        context.set_ciphers(self.ciphers)
        context.set_alpn_protocols(self.alpn_protocols)
        if self.ca_certs is not None:
            context.load_verify_locations(self.ca_certs)
        if self.verify_mode is not None:
            context.verify_mode = self.verify_mode
        if self.verify_flags is not None:
            context.verify_flags = self.verify_flags
        context.policy = self.policy
        context.server_config()  # whether it all fits together must show now
        return context


def run(application: Any, config: Config, **options: Any) -> None:
    """Serve until SIGTERM or SIGINT; ``options`` are those of ``hypercorn.asyncio.serve``."""
    with asyncio.Runner(loop_factory=EventLoop) as runner:
        runner.run(serve(application, config, **options))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run hypercorn's command, with all its options, on tlsify's loop and with its context.

    The command has no hook for either: in this process, and in its workers, tlsify's configuration
    and loop take the places of hypercorn's own.

    Args:
        arguments: those of the command line if None.

    Returns:
        Its exit status.
    """
    vars(command).update(Config=Config, run=_start)
    vars(workers).update(asyncio_worker=asyncio_worker, uvloop_worker=uvloop_worker)
    return command.main(list(sys.argv[1:] if arguments is None else arguments))


def _start(config: _Config) -> int:
    with reported():
        require_certificate(config.ssl_enabled, "--certfile and --keyfile")
        config.create_ssl_context()  # before any process is started
    return run_workers(config)


def asyncio_worker(*arguments: Any, **options: Any) -> None:
    """Run hypercorn's worker of that name on tlsify's loop."""
    _work(EventLoop, arguments, options)


def uvloop_worker(*arguments: Any, **options: Any) -> None:
    """Run hypercorn's worker of that name on uvloop, as tlsify extends it."""
    from tlsify.integrations.uvloop import EventLoop as UvloopEventLoop  # noqa: PLC0415 - may not be installed

    _work(UvloopEventLoop, arguments, options)


def _work(
    loop: Callable[[], asyncio.AbstractEventLoop],
    arguments: tuple[Any, ...],
    options: dict[str, Any],
) -> None:
    def run(*serving: Any, **settings: Any) -> None:
        _run_worker(*serving, **settings | {"loop_factory": loop})

    vars(workers).update(_run=run)
    _asyncio_worker(*arguments, **options)


if __name__ == "__main__":
    sys.exit(main())
