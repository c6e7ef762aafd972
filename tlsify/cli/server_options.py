"""What a server's flags and environment say of what it shows, and whom it accepts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlsify import opening
from tlsify.cli import options as shared
from tlsify.config import KtlsMode, ReferenceIdentifier, ServerConfig
from tlsify.eligibility import host_refusal
from tlsify.errors import ConfigError
from tlsify.process import Account

if TYPE_CHECKING:
    import argparse

    from tlsify.config import KtlsPolicy, TrustAnchors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    group = parser.add_argument_group("what to show, and whom to accept")
    shared.add_key_pair(group, "the server's own")
    shared.add_choices(group)
    group.add_argument(
        "--client-cert",
        choices=("request", "require"),
        help="ask clients for a certificate (request), and refuse those without one (require)",
    )
    shared.add_trust(group, "--client-ca", "issuers of their certificates: PEM file, folder, or ")
    group.add_argument(
        "--client-ref-id",
        action="append",
        type=ReferenceIdentifier.parse,
        default=[],
        metavar="KIND:NAME",
        help="accept only clients that are one of these; may be repeated",
    )
    shared.add_secrets(group)
    group.add_argument(
        "--resumption",
        action="store_true",
        help="send tickets, with which clients shorten later handshakes",
    )
    group.add_argument(
        "--user",
        type=Account.parse,
        metavar="NAME[:GROUP]",
        help="whom to become once the key has been read and the address is listened on",
    )


def configure(arguments: argparse.Namespace) -> ServerConfig:
    """Make a configuration of them.

    Raises:
        ConfigError: a file is unusable, or there is no certificate.
    """
    pair = shared.key_pair(arguments)
    if pair is None:
        raise ConfigError(
            "a server needs a certificate and its key",
            hint="add --cert FILE --key FILE, or set CERTFILE and KEYFILE",
        )
    return ServerConfig(
        key_pair=pair,
        client_trust=_client_trust(arguments),
        client_required=arguments.client_cert == "require",
        client_identities=tuple(arguments.client_ref_id),
        crls=shared.crls(arguments),
        alpn=tuple(arguments.alpn),
        versions=shared.versions(arguments),
        aeads=shared.aeads(arguments),
        timeout=arguments.timeout,
        resumption=arguments.resumption,
        key_log=shared.key_log(arguments),
    )


def _client_trust(arguments: argparse.Namespace) -> TrustAnchors | None:
    """Find the authorities of clients, if any are asked to show something."""
    if arguments.client_cert is None:
        if arguments.client_ca is not None:
            raise ConfigError(
                "--client-ca without --client-cert",
                hint="say whether clients are to be asked (request) or refused (require)",
            )
        return None
    named = arguments.client_ca or shared.trust_from_environment()
    if named is None:
        raise ConfigError(
            "no authority for clients' certificates",
            hint="add --client-ca FILE|DIR; any of the system's would let anybody in",
        )
    # Who becomes somebody else cannot come back for what it has not read.
    return shared.load_trust(named, at_once=arguments.user is not None)


def prepare(arguments: argparse.Namespace, config: ServerConfig, policy: KtlsPolicy) -> None:
    """Do what must show before the first client, or needs privileges, and then drop these.

    Raises:
        ConfigError: OpenSSL refuses the certificate or its key, or we may not become --user.
        KtlsUnavailable: the policy requires the kernel, which cannot.
    """
    opening.prepare(config, policy)  # the probe also loads the kernel's module, which root may
    refusal = host_refusal(policy)
    if refusal is not None and policy.mode is KtlsMode.REQUIRE:
        raise refusal
    if arguments.user is not None:
        arguments.user.become()
