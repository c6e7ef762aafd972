"""uvicorn: a context made of its own settings, and its command with tlsify's loop and context."""

from __future__ import annotations

import ssl
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import uvicorn

from tlsify.integrations.command import reported, require_certificate
from tlsify.sslcontext.context import SSLContext

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# uvicorn's names of loops; others are paths of classes, and left as they are.
_LOOPS = {
    "auto": "tlsify.aio.loop:EventLoop",
    "asyncio": "tlsify.aio.loop:EventLoop",
    "uvloop": "tlsify.integrations.uvloop:EventLoop",
}


def ssl_context_factory(config: Any, default: Callable[[], Any]) -> SSLContext:
    """Make tlsify's context in the place of uvicorn's, of ``ssl_certfile`` and the like.

    The loop has to be tlsify's, too: ``loop="tlsify.aio.loop:EventLoop"``.

    Args:
        config: uvicorn's.
        default: what would make uvicorn's own.

    Raises:
        ConfigError: a file is unusable.
    """
    del default
    context = SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(config.ssl_certfile, config.ssl_keyfile, config.ssl_keyfile_password)
    if config.ssl_ca_certs:
        context.load_verify_locations(config.ssl_ca_certs)
    context.verify_mode = ssl.VerifyMode(config.ssl_cert_reqs)
    if config.ssl_ciphers:
        context.set_ciphers(config.ssl_ciphers)
    protocol = getattr(config, "http_protocol_class", None)
    context.set_alpn_protocols(getattr(protocol, "alpn_protocols", None) or ["http/1.1"])
    context.server_config()  # whether it all fits together must show now
    return context


def main(arguments: Sequence[str] | None = None) -> None:
    """Run uvicorn's command, with all its options, on tlsify's loop and with its context.

    Args:
        arguments: those of the command line if None.
    """

    def run(headers: Sequence[str], log_config: str | None, **options: Any) -> None:
        with reported():
            require_certificate(options["ssl_certfile"], "--ssl-certfile and --ssl-keyfile")
            ssl_context_factory(SimpleNamespace(**options), dict)  # before any process is started
        options["loop"] = _LOOPS.get(options["loop"], options["loop"])
        if log_config is not None:
            options["log_config"] = log_config
        uvicorn.run(
            headers=[tuple(header.split(":", 1)) for header in headers],  # type: ignore[misc]
            ssl_context_factory=ssl_context_factory,
            **options,
        )

    theirs = uvicorn.main
    command = type(theirs)(
        theirs.name,
        context_settings=theirs.context_settings,
        callback=run,
        params=theirs.params,
        help=theirs.help,
    )
    command.main(arguments, prog_name="python -m tlsify.integrations.uvicorn")


if __name__ == "__main__":
    main()
