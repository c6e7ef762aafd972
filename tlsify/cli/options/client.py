"""Options and environment of clients: identities, trust anchors, TLS settings."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from tlsify.cli.options import common as shared
from tlsify.cli.options.addresses import reading
from tlsify.config import ClientConfig
from tlsify.credentials.pem import parse_pins
from tlsify.errors import UsageError
from tlsify.names import ReferenceIdentifier, canonical

if TYPE_CHECKING:
    import argparse

_log = logging.getLogger("tlsify")


def add_arguments(parser: argparse.ArgumentParser, of: str = "") -> argparse._ArgumentGroup:
    """Declare them, perhaps with something in front of their names.

    Args:
        parser: the verb's.
        of: such as ``backend-``, where the verb itself is a server.

    Returns:
        Their group.
    """
    group = parser.add_argument_group("TLS to backends" if of else "server verification")
    group.add_argument(
        f"--{of}servername",
        type=_name,
        metavar="NAME",
        help="server name to send (SNI) and to verify; default HOST",
    )
    group.add_argument(
        f"--{of}ref-id",
        action="append",
        type=shared.identity,
        metavar="KIND:NAME",
        help="server identity to accept instead of HOST: dns:NAME, ip:ADDRESS, "
        "srv:_SERVICE.NAME or uri:SCHEME:NAME; may be repeated",
    )
    shared.add_trust(
        group,
        f"--{of}ca",
        "trust anchors: a PEM file, a folder of .pem and .crt files, or ",
        '"system"' if of else '$CAFILE, $CADIR, or else "system"',
    )
    group.add_argument(
        f"--{of}pin",
        action="append",
        type=parse_pins,
        default=[],
        metavar="sha256//BASE64",
        help="only acceptable public key (hash of its SubjectPublicKeyInfo); may be repeated",
    )
    shared.add_secrets(group, of)
    group.add_argument(f"--{of}no-verify", action="store_true", help="accept any certificate")
    shared.add_key_pair(group, "shown if the server requests one", of=of)
    shared.add_alpn(group, of, "; default: what was agreed on with the client" if of else "")
    shared.add_choices(group, of)
    group.add_argument(
        f"--{of}session-store",
        type=shared.path,
        metavar="DIR",
        help="private folder for sessions that later connections resume; default: none",
    )
    return group


def _name(text: str) -> str:
    canonical(text)
    return text


def choose(
    arguments: argparse.Namespace, host: str | None, of: str = ""
) -> tuple[str | None, tuple[ReferenceIdentifier, ...]]:
    """Return what name to send (SNI) unless it is an address, and which identities to accept.

    Args:
        arguments: parsed.
        host: name or address that the user wants to reach, if given.
        of: stands in front of the options' names.

    Raises:
        ConfigError: no identity is given to verify, or there can be no such name, or what is to be
            verified is not.
    """
    if arguments.no_verify and (arguments.ref_id or arguments.crl):
        raise UsageError(
            f"--{of}no-verify leaves --{of}ref-id and --{of}crl without effect",
            hint=f"drop --{of}no-verify, or those options; --{of}pin is still checked",
        )
    name = arguments.servername or host
    identities = tuple(arguments.ref_id or ())
    if not identities and name is not None:
        identities = (reading(ReferenceIdentifier.for_host, name),)
    if not identities and not arguments.no_verify:
        raise UsageError(
            "no server name or identity to verify",
            hint=f"add --{of}servername NAME or --{of}ref-id",
        )
    return name, identities


def configure(
    arguments: argparse.Namespace,
    host: str | None,
    *,
    of: str = "",
    has_environment: bool = True,
    at_once: bool = False,
) -> ClientConfig:
    """Make a configuration of them.

    Args:
        arguments: parsed.
        host: name or address that the user wants to reach, if given.
        of: as for `choose`.
        has_environment: whether it says what no argument does.
        at_once: as `shared.load_trust` has it.

    Raises:
        ConfigError: a file is unusable, or no identity is given to verify.
    """
    server_name, identities = choose(arguments, host, of)
    if arguments.no_verify and not arguments.pin:
        _log.warning("the peer is not verified")
    trusted, key_pair = arguments.ca, None
    if has_environment:
        trusted = trusted or shared.trust_from_environment()
    if has_environment or arguments.cert is not None:
        key_pair = shared.key_pair(arguments)
    config = ClientConfig(
        server_name=server_name,
        identities=identities,
        verify=not arguments.no_verify,
        pins=tuple(pin for pins in arguments.pin for pin in pins),
        trust=shared.load_trust(trusted, at_once=at_once),
        crls=shared.crls(arguments),
        alpn=tuple(arguments.alpn),
        versions=shared.versions(arguments),
        aeads=shared.aeads(arguments),
        groups=arguments.groups,
        key_pair=key_pair,
        timeout=arguments.timeout,
        session_store=arguments.session_store,
        key_log=shared.key_log(arguments),
    )
    if config.key_pair is not None:
        from tlsify.tls.showable import check  # most clients have none

        check(config)  # an unusable certificate must show before a connection is made
    return config
