"""tlsify serve: HTTPS server for the files of a folder."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tlsify.addresses import UNSPECIFIED
from tlsify.cli.options import logs, site
from tlsify.cli.options import server as server_options
from tlsify.cli.options import serving as serving_options
from tlsify.connection.setup.eligibility import host_refusal
from tlsify.credentials.self_signed import make_key_pair
from tlsify.errors import ConfigError, ExitCode, UsageError, unusable
from tlsify.logs.messages import announce
from tlsify.serving import server
from tlsify.serving.plan import Provision
from tlsify.system import listening
from tlsify.system.modes import write_public
from tlsify.system.sandbox import Reach

if TYPE_CHECKING:
    import argparse

    from tlsify.cli.parser import GlobalOptions
    from tlsify.config import ServerConfig
    from tlsify.credentials.key_pair import KeyPair
    from tlsify.integrations.static_answers import Rules

DESCRIPTION = "Serve the files of a folder over HTTPS (HTTP/1.1), with kernel TLS where possible."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own options."""
    server_options.add_arguments(parser, alpn=False)
    parser.set_defaults(alpn=[b"http/1.1", b"http/1.0"])
    serving_options.add_arguments(parser, listen="127.0.0.1:8443")
    parser.add_argument(
        "--write-ca",
        type=Path,
        metavar="FILE",
        help="where to save the self-signed certificate that is made without --cert",
    )
    site.add_arguments(parser)
    parser.add_argument("directory", type=Path, metavar="DIR", help="folder to serve")
    parser.usage = f"{parser.prog} [OPTION...] DIR"


def run(arguments: argparse.Namespace, options: GlobalOptions) -> int:
    """Serve until SIGTERM or SIGINT."""
    rules = _rules(arguments)
    from tlsify.integrations import static_answers, static_files  # an extra, which is there

    path = arguments.directory.absolute()
    stopgap = _Stopgap(arguments)
    access_log = logs.access_log(arguments, options)

    def load() -> ServerConfig:
        config = server_options.configure(arguments, otherwise=stopgap.give)
        _check_write_ca(arguments, is_made=stopgap.is_made)
        return config

    def ready() -> None:
        refusal = host_refusal(plan.policy)
        carrier = "kernel TLS" if refusal is None else f"relay: {refusal.code}"
        for shown in dict.fromkeys(map(listening.spell, plan.listeners)):
            url = shown if shown.startswith("unix:") else f"https://{shown}/"
            announce(f"serving {path} on {url} ({carrier})")

    def service() -> static_files.Site:
        return static_files.Site(
            static_answers.Folder(_folder(path), alias=path, rules=rules),
            send_timeout=arguments.send_timeout,
            access_log=access_log,
            fields=site.fields(arguments),
        )

    plan = serving_options.plan(
        arguments,
        options,
        lambda: Provision(service),
        reach=lambda: Reach(read=(os.path.realpath(path),)),
        load=load,
        on_ready=ready,
        access_log=access_log,
        is_inline=True,
    )
    # The path may be a link, which is followed anew by each generation of workers.
    watch = plan.watch or (lambda: None)
    plan = replace(plan, watch=lambda: (watch(), serving_options.identity(path)))
    stopgap.outlives = not plan.estate.is_rehearsal
    with plan.estate:
        server.run(plan)
    return ExitCode.OK


def examine(arguments: argparse.Namespace) -> ServerConfig:
    """Find what is wrong with the arguments, without serving; return the configuration.

    Raises:
        ConfigError: it could not be served with them.
    """
    _rules(arguments)
    made: list[KeyPair] = []

    def make() -> KeyPair:
        made.append(make_key_pair(["localhost"]))
        return made[0]

    config = serving_options.examine(arguments, make)
    _check_write_ca(arguments, is_made=bool(made))
    return config


def _rules(arguments: argparse.Namespace) -> Rules:
    """Return what is served, and check that it can be.

    Raises:
        ConfigError: a package or the folder is missing, or options do not go together.
    """
    try:
        rules = site.rules(arguments)
    except ModuleNotFoundError as exc:
        raise ConfigError(
            f"serve needs the package {exc.name}", hint='install "tlsify[serve]"'
        ) from exc
    site.check(arguments)
    _folder(arguments.directory)
    return rules


def _check_write_ca(arguments: argparse.Namespace, *, is_made: bool) -> None:
    if arguments.write_ca is not None and not is_made:
        raise UsageError(
            "--write-ca saves a certificate made in the absence of --cert",
            hint="leave one of the two out",
        )


def _folder(path: Path) -> Path:
    try:
        root = path.resolve(strict=True)
        os.scandir(root).close()
    except OSError as exc:
        hint = "name an existing, readable folder"
        raise unusable(f"cannot serve {path}", exc, hint) from exc
    return root


class _Stopgap:
    """A certificate made on the spot, once, where none is named."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._made: KeyPair | None = None
        self.outlives = True

    @property
    def is_made(self) -> bool:
        return self._made is not None

    def give(self) -> KeyPair:
        """Return the same configuration on each reload.

        Raises:
            ConfigError: it cannot be saved, or would be another one in a successor.
        """
        if not self.outlives:
            raise ConfigError(
                "the certificate made at the start would be lost", hint="name one with --cert"
            )
        if self._made is None:
            self._made = self._make()
        return self._made

    def _make(self) -> KeyPair:
        names = ["localhost", "127.0.0.1", "::1"]
        for address in self._arguments.listen:
            host = address.host
            if host and host not in {*names, *UNSPECIFIED}:
                names.append(host)
        made = make_key_pair(names)
        announce(f"made a self-signed certificate for {', '.join(names)}")
        path = self._arguments.write_ca
        if path is not None:
            try:
                write_public(path, made.certificate_pem())
            except OSError as exc:
                raise unusable(f"cannot write {path}", exc, "name a writable path") from exc
        return made
