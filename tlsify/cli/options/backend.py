"""Options of `forward` for TLS to backends, and for clients that speak none."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from tlsify.aio.limits import MOST_HANDSHAKES
from tlsify.cli.options import client as client_options
from tlsify.connection.setup.session_store import SessionStore
from tlsify.errors import ConfigError, UsageError, said
from tlsify.serving.backend.address import Backend, check_protocol

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from tlsify.addresses import Address
    from tlsify.config import ClientConfig
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


class Own(NamedTuple):
    """A setting of one backend, in the place of what is said for all of them.

    Attributes:
        address: the backend's.
        name: that `client_options` knows.
        value: of the option.
    """

    address: Address
    name: str
    value: object

    @classmethod
    def parse(cls, text: str) -> Own:
        """Read ``BACKEND=OPTION=VALUE``, or ``BACKEND=OPTION`` for a switch.

        Raises:
            ConfigError: it is none, or the value does not fit the option.
        """
        where, _, setting = text.partition("=")
        if not setting:
            raise ConfigError(
                f'"{text}" is no setting of a backend', hint="write HOST:PORT=OPTION=VALUE"
            )
        parser = _OwnParser(add_help=False, allow_abbrev=False)
        client_options.add_arguments(parser, _OF)
        given = vars(parser.parse_args([f"--{_OF}{setting}"]))
        name = setting.partition("=")[0].replace("-", "_")
        return cls(Backend.to_connect(where).address, name, given[_PREFIX + name])


class _OwnParser(ArgumentParser):
    """Reads one setting, and raises what is wrong with it."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(
            f"a setting of a backend: {message}",
            hint="write HOST:PORT=OPTION=VALUE, with an option for TLS to backends",
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    group = client_options.add_arguments(parser, _OF)
    group.add_argument(
        "--backend-starttls",
        type=check_protocol,
        metavar="PROTOCOL",
        help="ask backends for TLS in their own protocol first: imap, ldap, pop3, postgres, smtp "
        "or xmpp, among others",
    )
    group.add_argument(
        "--backend-for",
        action="append",
        type=Own.parse,
        default=[],
        metavar="BACKEND=OPTION[=VALUE]",
        help="one of the options above, but --backend-starttls, for one backend alone and without "
        '"backend-", such as db.example.org:5432=ca=db.pem; may be repeated',
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
    for each in _every(arguments):
        if each.key is not None and each.cert is None:
            return "--backend-key without --backend-cert"
        if arguments.isolate_key and each.cert is not None:
            return "--isolate-key keeps no --backend-key apart: leave one of them out"
    return None


def secured(arguments: argparse.Namespace, rules: Iterable[Rule]) -> list[Rule]:
    """Return the rules with what is said of TLS for all of their backends.

    Raises:
        UsageError: something is said, and none of them speaks TLS.
    """
    starttls, always = arguments.backend_starttls or "", arguments.connect
    found = [rule.secured(starttls, always=always) for rule in rules]
    backends = [backend for rule in found for backend in rule.backends]
    known = dict.fromkeys(backend.address for backend in backends if backend.is_tls)
    for address in _addresses(arguments):
        if address not in known:
            others = ", ".join(map(str, known))
            raise UsageError(
                f"--backend-for: no backend with TLS has the address {address}",
                hint=f"these have TLS: {others}" if others else "write tls:HOST:PORT for a backend",
            )
    named = [name for name, value in vars(_own(arguments)).items() if _is_said(name, value)]
    if named and not known:
        raise UsageError(
            f"--{_OF}{named[0].replace('_', '-')} is about TLS to backends, and none speaks it",
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
    at_once = arguments.user is not None
    found, bases = {}, {}
    for backend in backends:
        own = _own(arguments, backend.address)
        own.key, own.key_fd, own.timeout = own.key or own.cert, None, arguments.connect_timeout
        alone = backend.address if backend.address in _addresses(arguments) else None
        if alone not in bases:  # what all the others have is read once
            if own.session_store is not None:
                _prepare_store(own.session_store, arguments.user)
            bases[alone] = client_options.configure(
                own,
                backend.host or None,
                of=_OF,
                has_environment=False,
                at_once=at_once,
            )
        name, identities = client_options.choose(own, backend.host or None, _OF)
        found[backend] = replace(bases[alone], server_name=name, identities=identities)
    return found


def files(arguments: argparse.Namespace) -> list[Path]:
    """Return the files that `configure` reads, apart from the system's own."""
    named: list[Path | None] = []
    for each in _every(arguments):
        named += [each.cert, each.key, each.crl]
        if each.ca not in {None, "system"}:
            named.append(Path(each.ca))
    return list(dict.fromkeys(path for path in named if path is not None))


def _addresses(arguments: argparse.Namespace) -> dict[Address, None]:
    """Return the addresses of backends with settings of their own."""
    return dict.fromkeys(own.address for own in arguments.backend_for)


def _every(arguments: argparse.Namespace) -> list[Namespace]:
    """Return the settings for all backends, and those for each that has its own."""
    return [_own(arguments, address) for address in (None, *_addresses(arguments))]


def _own(arguments: argparse.Namespace, address: Address | None = None) -> Namespace:
    """Return those of backends, or of one backend, by the names that `client_options` knows."""
    given = vars(arguments).items()
    found = {name.removeprefix(_PREFIX): value for name, value in given if name.startswith(_PREFIX)}
    alone: dict[str, object] = {}
    for own in found.pop("for", ()):
        if own.address == address:
            before, value = alone.get(own.name), own.value
            if isinstance(before, list) and isinstance(value, list):
                value = before + value
            alone[own.name] = value
    # What goes together is replaced together.
    if "cert" in alone:
        found["key"] = None
    if "servername" in alone or "no_verify" in alone:
        found["ref_id"] = None
    if "no_verify" in alone:
        found["crl"] = None
    return Namespace(**found | alone)


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
                f"cannot give session folder {folder} to --user: {said(exc)}",
                hint="make it, mode 0700, as that user",
            ) from exc
