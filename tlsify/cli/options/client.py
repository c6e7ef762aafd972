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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    group = parser.add_argument_group("server verification")
    group.add_argument(
        "--servername",
        type=_name,
        metavar="NAME",
        help="server name to send (SNI) and to verify; default HOST",
    )
    group.add_argument(
        "--ref-id",
        action="append",
        type=shared.identity,
        metavar="KIND:NAME",
        help="server identity to accept instead of HOST: dns:NAME, ip:ADDRESS, "
        "srv:_SERVICE.NAME or uri:SCHEME:NAME; may be repeated",
    )
    shared.add_trust(
        group,
        "--ca",
        "trust anchors: a PEM file, a folder of .pem and .crt files, or ",
        ', or else "system"',
    )
    group.add_argument(
        "--pin",
        action="append",
        type=parse_pins,
        default=[],
        metavar="sha256//BASE64",
        help="only acceptable public key (hash of its SubjectPublicKeyInfo); may be repeated",
    )
    shared.add_secrets(group)
    group.add_argument("--no-verify", action="store_true", help="accept any certificate")
    shared.add_key_pair(group, "shown if the server requests one")
    shared.add_alpn(group)
    shared.add_choices(group)
    group.add_argument(
        "--session-store",
        type=shared.path,
        metavar="DIR",
        help="private folder for sessions that later connections resume; default: none",
    )


def _name(text: str) -> str:
    canonical(text)
    return text


def choose(
    arguments: argparse.Namespace, host: str | None
) -> tuple[str | None, tuple[ReferenceIdentifier, ...]]:
    """Return what name to send (SNI) unless it is an address, and which identities to accept.

    Raises:
        ConfigError: no identity is given to verify, or there can be no such name.
    """
    name = arguments.servername or host
    identities = tuple(arguments.ref_id or ())
    if not identities and name is not None:
        identities = (reading(ReferenceIdentifier.for_host, name),)
    if not identities and not arguments.no_verify:
        raise UsageError(
            "no server name or identity to verify", hint="add --servername NAME or --ref-id"
        )
    return name, identities


def configure(arguments: argparse.Namespace, host: str | None) -> ClientConfig:
    """Make a configuration of them.

    Args:
        arguments: parsed.
        host: name or address that the user wants to reach, if given.

    Raises:
        ConfigError: a file is unusable, or no identity is given to verify.
    """
    server_name, identities = choose(arguments, host)
    if arguments.no_verify and not arguments.pin:
        _log.warning("the peer is not verified")
    config = ClientConfig(
        server_name=server_name,
        identities=identities,
        verify=not arguments.no_verify,
        pins=tuple(pin for pins in arguments.pin for pin in pins),
        trust=shared.load_trust(arguments.ca or shared.trust_from_environment()),
        crls=shared.crls(arguments),
        alpn=tuple(arguments.alpn),
        versions=shared.versions(arguments),
        aeads=shared.aeads(arguments),
        groups=arguments.groups,
        key_pair=shared.key_pair(arguments),
        timeout=arguments.timeout,
        session_store=arguments.session_store,
        key_log=shared.key_log(arguments),
    )
    if config.key_pair is not None:
        from tlsify.tls.showable import check  # most clients have none

        check(config)  # an unusable certificate must show before a connection is made
    return config
