"""Options and environment of servers: certificates, client authentication, TLS settings."""

from __future__ import annotations

import logging
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tlsify.cli import lazy_modules
from tlsify.cli.options import common as shared
from tlsify.config import KtlsMode, ServerConfig
from tlsify.connection import establish
from tlsify.connection.setup.eligibility import host_refusal
from tlsify.credentials import crls, ocsp
from tlsify.credentials.key_files import SUFFIXES, Files, amiss, find, fingerprint, watched
from tlsify.credentials.parse import parse_certificates
from tlsify.credentials.reading import CERTIFICATE, read_file
from tlsify.credentials.self_signed import make_key_pair
from tlsify.errors import TlsifyError, UsageError
from tlsify.system.process import Account

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from cryptography.x509 import Certificate

    from tlsify.cli.options.automatic import Automatic
    from tlsify.config import KtlsPolicy
    from tlsify.credentials.anchors import TrustAnchors
    from tlsify.credentials.key_pair import KeyPair
    from tlsify.serving.configuration import Isolation
    from tlsify.system.sandbox import Sandboxing

_log = logging.getLogger("tlsify")


def add_arguments(parser: argparse.ArgumentParser, *, alpn: bool = True, user: bool = True) -> None:
    """Declare them.

    Args:
        parser: the verb's.
        alpn: whether there is a choice of application protocols.
        user: whether the verb can switch to another user.
    """
    group = parser.add_argument_group("TLS certificate and client authentication")
    shared.add_key_pair(group, "the server's own", several=True)
    group.add_argument(
        "--cert-dir",
        type=Path,
        metavar="DIR",
        help="directory of further certificates, selected by SNI (tlsify help certificates)",
    )
    group.add_argument(
        "--ocsp",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="OCSP response in DER, stapled to the certificate that it is about; may be repeated",
    )
    if alpn:
        shared.add_alpn(group)
    shared.add_choices(group)
    group.add_argument(
        "--client-cert",
        choices=("request", "require"),
        help="request a certificate from clients, or require one",
    )
    shared.add_trust(group, "--client-ca", "issuers of client certificates: PEM file, folder, or ")
    group.add_argument(
        "--client-ref-id",
        action="append",
        type=shared.identity,
        default=[],
        metavar="KIND:NAME",
        help="client identity to accept; may be repeated; default: any",
    )
    shared.add_secrets(group)
    group.add_argument(
        "--resumption",
        action="store_true",
        help="send session tickets, which shorten clients' later handshakes",
    )
    parser.set_defaults(user=None, automatic=None)
    if user:
        group.add_argument(
            "--user",
            type=Account.parse,
            metavar="NAME[:GROUP]",
            help="user (and group) to switch to after reading the key and binding the address",
        )


def add_isolation(group: argparse._ActionsContainer) -> None:
    """Declare --isolate-key, for servers that have their connections in other processes."""
    group.add_argument(
        "--isolate-key",
        action="store_true",
        help="do handshakes in separate processes, which alone read the private key and touch no "
        "connection",
    )


def isolation(
    arguments: argparse.Namespace, holders: int, sandboxing: Sandboxing
) -> Isolation | None:
    """Return how to isolate the keys, if that is wanted.

    Args:
        arguments: parsed.
        holders: how many processes do handshakes.
        sandboxing: whether these give up what they do not need.
    """
    if not arguments.isolate_key:
        return None
    from tlsify.serving.configuration import Isolation  # heavy, and rarely wanted

    return Isolation(
        key_files=lambda: key_files(arguments),
        private=() if arguments.key_fd is None else (arguments.key_fd,),
        holders=holders,
        sandboxing=sandboxing,
        account=arguments.user,
    )


def key_files(arguments: argparse.Namespace) -> list[Path]:
    """Return the files with private keys."""
    found = _files(arguments, _log.debug)
    return [files.key for files in (*found, *_automatic_files(arguments))]


def chains(arguments: argparse.Namespace) -> Iterator[tuple[Certificate, ...]]:
    """Return the chains of all certificates that are there, as their files are at the moment.

    Raises:
        ConfigError: a file is unusable.
    """
    paths = [files.chain for files in _files(arguments, _log.debug)]
    paths += [files.chain for files in _automatic_files(arguments) if files.chain.exists()]
    if arguments.key_fd is not None and arguments.cert:
        paths.append(arguments.cert[0])
    for path in paths:
        yield parse_certificates(read_file(path, CERTIFICATE), str(path))


def _automatic_files(arguments: argparse.Namespace) -> list[Files]:
    return [] if arguments.automatic is None else arguments.automatic.files()


def configure(
    arguments: argparse.Namespace,
    *,
    quiet: bool = False,
    otherwise: Callable[[], KeyPair] | None = None,
) -> ServerConfig:
    """Make a configuration of them, and say what is amiss with the certificates.

    Args:
        arguments: parsed.
        quiet: say nothing: for a process that lives for one connection, whose stderr this may be.
        otherwise: makes a certificate where none is named; None has one be named.

    Raises:
        ConfigError: a file is unusable, or there is no certificate.
    """
    automatic: Automatic | None = arguments.automatic
    tell = _log.debug if quiet else _log.warning
    pairs = _key_pairs(arguments, tell, otherwise)
    lists = shared.crls(arguments)
    for complaint in filter(None, map(crls.amiss, lists)):
        tell("%s: %s: each certificate of that issuer is refused", arguments.crl, complaint)
    pair, *more = pairs or [make_key_pair(["localhost"])]
    return ServerConfig(
        key_pair=pair,
        more_key_pairs=tuple(more),
        acme_challenge=None if automatic is None else automatic.challenge,
        provisional=not pairs,
        client_trust=_client_trust(arguments),
        client_required=arguments.client_cert == "require",
        client_identities=tuple(arguments.client_ref_id),
        crls=lists,
        alpn=tuple(arguments.alpn),
        versions=shared.versions(arguments),
        aeads=shared.aeads(arguments),
        groups=arguments.groups,
        timeout=arguments.timeout,
        resumption=arguments.resumption,
        key_log=shared.key_log(arguments),
    )


def _key_pairs(
    arguments: argparse.Namespace,
    tell: Callable[..., None],
    otherwise: Callable[[], KeyPair] | None,
) -> list[KeyPair]:
    """Read the certificates that flags or environment name, and tell what is amiss with them.

    Returns:
        None of them as long as the only ones are still to come.
    """
    automatic: Automatic | None = arguments.automatic
    found = _named(arguments, tell)
    if automatic is not None:
        found += automatic.load(tell)
    if not found and (automatic is None or automatic.certificates is None):
        if otherwise is not None:
            return [otherwise()]
        raise UsageError(
            "a server needs a certificate and its key",
            hint="add --cert FILE and --key FILE, or --cert-dir DIR, or set CERTFILE and KEYFILE",
        )
    for path in arguments.ocsp:
        found = _with_response(found, path, tell)
    if automatic is not None:
        found = [(name, automatic.stapled(name, pair, tell)) for name, pair in found]
    for name, pair in found:
        for complaint in amiss(pair):
            tell("%s: %s", name, complaint)
    return [pair for _, pair in found]


def _named(arguments: argparse.Namespace, tell: Callable[..., None]) -> list[tuple[str, KeyPair]]:
    """Read the certificates that are named, each with its name for messages."""
    found: list[tuple[str, KeyPair]] = []
    if arguments.key_fd is not None:
        found.append((str(arguments.cert[0] if arguments.cert else "--key-fd"), _of_fd(arguments)))
    for files in _files(arguments, tell):
        found.append((str(files.chain), files.load()))
        if files.open_to_all:
            tell("%s: any user can read this private key", files.key)
    return found


def _of_fd(arguments: argparse.Namespace) -> KeyPair:
    if len(arguments.cert) > 1:
        raise UsageError("--key-fd is for a single --cert", hint="name the others' with --key")
    chain, key = (named[0] if named else None for named in (arguments.cert, arguments.key))
    pair = shared.key_pair(Namespace(cert=chain, key=key, key_fd=arguments.key_fd))
    if pair is None:
        raise TlsifyError("a descriptor for the key was taken for none")
    return pair


def _files(arguments: argparse.Namespace, tell: Callable[..., None]) -> list[Files]:
    """Return where the certificates are, apart from one whose key comes from a descriptor."""
    named: list[Files] = []
    if arguments.key_fd is not None:
        pass
    elif len(arguments.cert) > 1 or len(arguments.key) > 1:
        keys = arguments.key or arguments.cert  # each in its certificate's file
        if len(arguments.cert) != len(keys):
            raise UsageError(
                "each --cert goes together with a --key, or contains it",
                hint="give as many keys as certificates, or none",
            )
        named = [
            Files(str(chain), chain, key) for chain, key in zip(arguments.cert, keys, strict=True)
        ]
    elif arguments.cert or arguments.key or arguments.cert_dir is None:
        chain, key = (each[0] if each else None for each in (arguments.cert, arguments.key))
        single = shared.key_pair_files(chain, key, None)
        if single is not None and single[1] is not None:
            named = [Files(str(single[0]), single[0], single[1])]
    if arguments.cert_dir is None:
        return named
    found = find(arguments.cert_dir)
    for path, why in found.left.items():
        tell("%s is left alone: it is %s", path, why)
    return [*named, *found.files]


def _with_response(
    found: list[tuple[str, KeyPair]], path: Path, tell: Callable[..., None]
) -> list[tuple[str, KeyPair]]:
    """Return an OCSP response to the certificate that it is about."""
    der = ocsp.load(path)
    about = [pair for _, pair in found if ocsp.belongs(der, pair.chain[0])]
    if not about:
        tell("%s: this OCSP response is about no certificate here", path)
    return [(name, replace(pair, ocsp=der) if pair in about else pair) for name, pair in found]


def watch(arguments: argparse.Namespace) -> Callable[[], object]:
    """Return a function whose result differs once a file that `configure` reads has changed.

    Whoever reloads asks it before he configures: what changes meanwhile then shows the next time.
    What it is asked about needs no more than to be listed.
    """
    paths = [path for files in ("cert", "key", "ocsp") for path in getattr(arguments, files)]
    paths += [] if arguments.crl is None else [arguments.crl]
    paths += [] if arguments.automatic is None else arguments.automatic.watched()
    folders = [] if arguments.cert_dir is None else watched(arguments.cert_dir)
    if len(arguments.cert) <= 1 and arguments.cert_dir is None:  # the environment may have a part
        chain, key = (each[0] if each else None for each in (arguments.cert, arguments.key))
        named = shared.key_pair_files(chain, key, arguments.key_fd)
        paths += [path for path in named or () if path is not None]
    if arguments.client_cert is not None:
        trusted = arguments.client_ca or shared.trust_from_environment()
        paths += [Path(trusted)] if trusted not in {None, "system"} else []
    return lambda: (fingerprint(paths), fingerprint(folders, SUFFIXES))


def _client_trust(arguments: argparse.Namespace) -> TrustAnchors | None:
    """Find the authorities of clients, if any are asked to show something."""
    if arguments.client_cert is None:
        if arguments.client_ca is not None:
            raise UsageError(
                "--client-ca without --client-cert",
                hint="add --client-cert=request or --client-cert=require",
            )
        return None
    named = arguments.client_ca or shared.trust_from_environment()
    if named is None:
        raise UsageError(
            "no authority for clients' certificates",
            hint="add --client-ca FILE|DIR; the system's authorities would admit anyone",
        )
    # Another user may not be able to read the rest later.
    return shared.load_trust(named, at_once=arguments.user is not None)


def prepare(
    arguments: argparse.Namespace,
    config: ServerConfig,
    policy: KtlsPolicy,
    previous: ServerConfig | None = None,
) -> None:
    """Do what must show before the first client, or needs privileges, and then drop these.

    Args:
        arguments: parsed.
        config: made of them.
        policy: when to offload.
        previous: the configuration that it replaces, if this is a reload: its tickets stay good
            where they can.

    Raises:
        ConfigError: OpenSSL refuses the certificate or its key, or we may not become --user.
        KtlsUnavailable: the policy requires the kernel, which cannot.
    """
    establish.prepare(
        config, policy, previous
    )  # the probe also loads the kernel's module, which root may
    refusal = host_refusal(policy)
    if refusal is not None and policy.mode is KtlsMode.REQUIRE:
        raise refusal
    become(arguments.user)


def become(user: Account | None) -> None:
    """Drop privileges, if --user is given; lazily imported modules are loaded before.

    Raises:
        ConfigError: we may not.
    """
    if user is not None:
        lazy_modules.load_now()
        user.become()
