"""Options of servers for certificates and OCSP responses that renew themselves."""

from __future__ import annotations

import argparse
from pathlib import Path

from tlsify.acme.settings import CHALLENGES, LETS_ENCRYPT, Wanted
from tlsify.errors import ConfigError, UsageError
from tlsify.names import canonical, is_ip_address

_MOST_NAMES = 100  # of a certificate: Let's Encrypt's limit
_MAX_EMAIL = 254


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    group = parser.add_argument_group("automatic certificates")
    group.add_argument(
        "--acme",
        action="append",
        type=_names,
        default=[],
        metavar="NAME[,NAME...]",
        help="names of a certificate to get, and renew, from an authority by ACME; may be "
        "repeated, for further certificates",
    )
    group.add_argument(
        "--acme-agree-tos",
        action="store_true",
        help="agreement to the authority's terms of service, without which it issues nothing",
    )
    group.add_argument(
        "--acme-directory",
        type=_directory,
        default=LETS_ENCRYPT,
        metavar="URL",
        help="the authority's directory; default: Let's Encrypt",
    )
    group.add_argument(
        "--acme-email",
        type=_email,
        metavar="ADDRESS",
        help="address that the authority may write to; default: none",
    )
    group.add_argument(
        "--acme-challenge",
        choices=CHALLENGES,
        default=CHALLENGES[0],
        help="proof that the names are this server's: a handshake on port 443 (tls-alpn-01, the "
        "default), or a request on port 80 (http-01)",
    )
    group.add_argument(
        "--acme-dir",
        type=Path,
        metavar="DIR",
        help="private folder for the account and the certificates; default: acme in "
        "$STATE_DIRECTORY/, /var/lib/tlsify/ (root) or ~/.local/state/tlsify/",
    )
    group.add_argument(
        "--acme-ca",
        metavar="FILE|DIR|system",
        help="trust anchors for the authority's own server; default: the system's",
    )
    group.add_argument(
        "--acme-eab-kid", metavar="KID", help="name of an account to bind to, for some authorities"
    )
    group.add_argument(
        "--acme-eab-key",
        type=Path,
        metavar="FILE",
        help="key of that account, as the authority has given it (base64url)",
    )
    group.add_argument(
        "--ocsp-fetch",
        action="store_true",
        help="fetch OCSP responses for certificates that name a responder, and staple them",
    )
    group.add_argument(
        "--ocsp-dir",
        type=Path,
        metavar="DIR",
        help="private folder for these; default: ocsp, beside the default of --acme-dir",
    )


def _names(text: str) -> Wanted:
    """Parse the names of a certificate, for argparse.

    Raises:
        ArgumentTypeError: there is none.
        UsageError: one of them can only be proven in another way.
    """
    found = []
    for name in text.split(","):
        if "*" in name:
            raise UsageError(
                f'--acme cannot get "{name}": authorities want a wildcard proven by DNS (DNS-01)',
                hint="get it with certbot or acme.sh, and name its folder with --cert-dir",
            )
        try:
            spelled = canonical(name)
        except ConfigError as exc:
            raise argparse.ArgumentTypeError(str(exc)) from exc
        if is_ip_address(spelled):
            raise UsageError(
                f'--acme cannot get a certificate for the address "{name}"',
                hint="name a host, or get it with certbot or acme.sh, and use --cert",
            )
        found.append(spelled)
    if len(found) > _MOST_NAMES:
        raise argparse.ArgumentTypeError(f"a certificate has {_MOST_NAMES} names at most")
    return Wanted(tuple(dict.fromkeys(found)))


def _directory(text: str) -> str:
    if not text.startswith("https://") or not text.isascii() or not text.isprintable():
        raise argparse.ArgumentTypeError(f'"{text}" is no URL of a directory: https://HOST/PATH')
    return text


def _email(text: str) -> str:
    if "@" not in text or "," in text or not text.isprintable() or len(text) > _MAX_EMAIL:
        raise argparse.ArgumentTypeError(f'"{text}" is no address: NAME@HOST')
    return text
