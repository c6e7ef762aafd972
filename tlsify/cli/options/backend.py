"""Options of `forward` for TLS to backends, and for clients that speak none."""

from __future__ import annotations

import os
from argparse import Namespace
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tlsify.aio.limits import MOST_HANDSHAKES
from tlsify.cli.options import client as client_options
from tlsify.connection.setup.session_store import SessionStore
from tlsify.errors import ConfigError, UsageError
from tlsify.serving.backend.address import check_protocol

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from tlsify.config import ClientConfig
    from tlsify.serving.backend.address import Backend
    from tlsify.serving.backend.routes import Rule
    from tlsify.system.process import Account

_OF, _PREFIX = "backend-", "backend_"
# What is about TLS with clients, and what it is where nothing is said of it.
_OF_CLIENTS: dict[str, object] = {
    "cert": [], "key": [], "key_fd": None, "cert_dir": None, "ocsp": [], "alpn": [],
    "tls_min": "1.2", "tls_max": "1.3", "ciphers": None, "groups": (), "client_cert": None,
    "client_ca": None, "client_ref_id": [], "crl": None, "keylog": False, "resumption": False,
    "isolate_key": False, "redirect_http": None, "redirect_port": None, "timeout": 30.0,
    "max_handshakes": MOST_HANDSHAKES, "pass_fd": None, "acme": [], "ocsp_fetch": False,
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    client_options.add_arguments(parser, _OF).add_argument(
        "--backend-starttls",
        type=check_protocol,
        metavar="PROTOCOL",
        help="ask backends for TLS in their own protocol first: imap, ldap, pop3, postgres, smtp "
        "or xmpp, among others",
    )


def misuse(arguments: argparse.Namespace) -> str | None:
    """Return the error in how they go with others."""
    if arguments.connect:
        for name, default in _OF_CLIENTS.items():
            if getattr(arguments, name) != default:
                option = name.replace("_", "-")
                return f"--{option} is about TLS with clients, who speak none with --connect"
        if any(rule.listener is None for rule in arguments.route):
            return "routes by protocol or server name need TLS: with --connect write listen:ADDRESS"
    if arguments.backend_key is not None and arguments.backend_cert is None:
        return "--backend-key without --backend-cert"
    if arguments.isolate_key and arguments.backend_cert is not None:
        return "--isolate-key keeps no --backend-key apart: leave one of them out"
    return None


def secured(arguments: argparse.Namespace, rules: Iterable[Rule]) -> list[Rule]:
    """Return the rules with what is said of TLS for all of their backends.

    Raises:
        UsageError: something is said, and none of them speaks TLS.
    """
    starttls, always = arguments.backend_starttls or "", arguments.connect
    found = [rule.secured(starttls, always=always) for rule in rules]
    said = [name for name, value in vars(_own(arguments)).items() if _is_said(name, value)]
    if said and not any(backend.is_tls for rule in found for backend in rule.backends):
        raise UsageError(
            f"--{_OF}{said[0].replace('_', '-')} is about TLS to backends, and none speaks it",
            hint="write tls:HOST:PORT for a backend that does",
        )
    return found


def configure(arguments: argparse.Namespace, rules: Iterable[Rule]) -> dict[Backend, ClientConfig]:
    """Make a configuration for each backend that speaks TLS.

    Raises:
        ConfigError: a file is unusable, or no identity is given to verify.
    """
    backends = dict.fromkeys(each for rule in rules for each in rule.backends if each.is_tls)
    if not backends:
        return {}
    own = _own(arguments)
    own.key, own.key_fd, own.timeout = own.key or own.cert, None, arguments.connect_timeout
    if own.session_store is not None:
        _prepare_store(own.session_store, arguments.user)
    first = next(iter(backends))
    at_once = arguments.user is not None
    base = client_options.configure(own, first.host or None, has_environment=False, at_once=at_once)
    found = {}
    for backend in backends:
        name, identities = client_options.choose(own, backend.host or None)
        found[backend] = replace(base, server_name=name, identities=identities)
    return found


def files(arguments: argparse.Namespace) -> list[Path]:
    """Return the files that `configure` reads, apart from the system's own."""
    own = _own(arguments)
    named = [own.cert, own.key, own.crl]
    if own.ca not in {None, "system"}:
        named.append(Path(own.ca))
    return [path for path in named if path is not None]


def _own(arguments: argparse.Namespace) -> Namespace:
    """Return those of backends, by the names that `client_options` knows."""
    given = vars(arguments).items()
    return Namespace(
        **{name.removeprefix(_PREFIX): value for name, value in given if name.startswith(_PREFIX)}
    )


def _is_said(name: str, value: object) -> bool:
    return value not in (None, False, "", (), [], _OF_CLIENTS.get(name))


def _prepare_store(folder: Path, account: Account | None) -> None:
    """Make the folder for sessions, and have it belong to workers, which use it.

    Raises:
        ConfigError: it cannot be made, or is not private.
    """
    is_new = not folder.exists()
    if is_new or account is None:
        SessionStore(folder)
    if is_new and account is not None:
        try:
            os.chown(folder, account.user, account.group, follow_symlinks=False)
        except OSError as exc:
            with suppress(OSError):
                folder.rmdir()
            raise ConfigError(
                f"cannot give session folder {folder} to --user: {exc.strerror}",
                hint="make it, mode 0700, as that user",
            ) from exc
