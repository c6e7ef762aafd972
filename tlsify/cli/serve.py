"""tlsify serve: HTTPS server for the files of a folder."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from tlsify import listening, workers
from tlsify.cli import options as shared
from tlsify.config import KeyPair, KtlsMode, ServerConfig
from tlsify.eligibility import host_refusal
from tlsify.errors import ConfigError, ExitCode
from tlsify.opening import drop_past_keys, prepare
from tlsify.process import await_threads
from tlsify.selfsigned import make_key_pair

if TYPE_CHECKING:
    import argparse

    from tlsify.cli import GlobalOptions

DESCRIPTION = "Serve the files of a folder over HTTPS, HTTP/1.1, from the kernel if it can."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own options."""
    parser.add_argument(
        "--listen",
        default="127.0.0.1:8443",
        metavar="ADDR:PORT",
        help="where to listen; default %(default)s",
    )
    parser.add_argument("--cert", type=Path, metavar="FILE", help="PEM certificate chain")
    parser.add_argument("--key", type=Path, metavar="FILE", help="PEM private key, unencrypted")
    parser.add_argument(
        "--write-ca",
        type=Path,
        metavar="FILE",
        help="where to save the self-signed certificate made in the absence of --cert",
    )
    parser.add_argument(
        "--workers", type=shared.count, default=1, metavar="N", help="processes, default 1"
    )
    parser.add_argument(
        "--resumption",
        action="store_true",
        help="send tickets, with which clients shorten later handshakes",
    )
    parser.add_argument(
        "--timeout",
        type=shared.seconds,
        default=30.0,
        metavar="S",
        help="seconds for each handshake, default 30",
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="folder to serve")


def run(arguments: argparse.Namespace, options: GlobalOptions) -> int:
    """Serve until SIGTERM or SIGINT."""
    try:
        from tlsify.integrations import static_files  # noqa: PLC0415 - an extra, and slow to import
    except ModuleNotFoundError as exc:
        raise ConfigError(
            f"serve needs the package {exc.name}", hint='install "tlsify[serve]"'
        ) from exc
    logging.getLogger("aiohttp").setLevel(logging.ERROR)
    root = _folder(arguments.directory)
    host, port = shared.address(arguments.listen)
    config = ServerConfig(
        key_pair=_key_pair(arguments, host),
        alpn=(b"http/1.1",),
        timeout=arguments.timeout,
        resumption=arguments.resumption,
    )
    policy = shared.policy(options)
    prepare(config, policy)  # a key that OpenSSL refuses must show before the first client
    refusal = host_refusal(policy)
    if refusal is not None and policy.mode is KtlsMode.REQUIRE:
        raise refusal
    listener = listening.listen(host, port)
    carrier = "kernel TLS" if refusal is None else f"relay: {refusal.code}"
    shown = listening.spell(listener)

    def ready() -> None:
        print(f"tlsify: serving {root} on https://{shown}/ ({carrier})", flush=True)

    def worker(tell_ready: workers.Ready) -> None:
        static_files.serve(listener, root, config, policy, tell_ready)
        await_threads()

    workers.run(
        arguments.workers, worker, ready, on_stop=listener.close, before_fork=drop_past_keys
    )
    return ExitCode.OK


def _folder(path: Path) -> Path:
    try:
        root = path.resolve(strict=True)
        os.scandir(root).close()
    except OSError as exc:
        raise ConfigError(
            f"cannot serve {path}: {exc.strerror}", hint="name an existing, readable folder"
        ) from exc
    return root


def _key_pair(arguments: argparse.Namespace, host: str) -> KeyPair:
    if (arguments.cert is None) != (arguments.key is None):
        raise ConfigError("--cert and --key go together", hint="give both, or neither")
    if arguments.cert is not None:
        if arguments.write_ca is not None:
            raise ConfigError(
                "--write-ca saves a certificate made in the absence of --cert",
                hint="leave one of the two out",
            )
        return KeyPair.load(arguments.cert, arguments.key)
    names = ["localhost", "127.0.0.1", "::1"]
    if host and host not in {*names, "0.0.0.0", "::"}:  # noqa: S104 - compared, not bound
        names.append(host)
    made = make_key_pair(names)
    print(f"tlsify: made a self-signed certificate for {', '.join(names)}", flush=True)
    if arguments.write_ca is not None:
        try:
            arguments.write_ca.write_bytes(made.certificate_pem())
        except OSError as exc:
            raise ConfigError(
                f"cannot write {arguments.write_ca}: {exc.strerror}", hint="name a writable path"
            ) from exc
    return made
