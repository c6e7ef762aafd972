"""Options that several verbs share, and what they mean."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from tlsify.cli import streams
from tlsify.cli.options import addresses, numbers
from tlsify.codepoints import DEFAULT_AEADS, Aead, NamedGroup, ProtocolVersion
from tlsify.config import ClosePolicy, KtlsMode, KtlsPolicy
from tlsify.credentials.anchors import TrustAnchors
from tlsify.credentials.reading import CERTIFICATE, PRIVATE_KEY, read_file, unreadable
from tlsify.errors import UsageError
from tlsify.names import ReferenceIdentifier
from tlsify.system.process import let_go
from tlsify.system.whole_files import too_large
from tlsify.trust import store

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.x509 import CertificateRevocationList

    from tlsify.cli.parser import GlobalOptions
    from tlsify.credentials.key_pair import KeyPair

_MAX_ALPN = 255  # RFC 7301 3.1
_AEADS = {
    "aes-128-gcm": Aead.AES_GCM_128,
    "aes-256-gcm": Aead.AES_GCM_256,
    "chacha20-poly1305": Aead.CHACHA20_POLY1305,
    "aes-128-ccm": Aead.AES_CCM_128,
}
_VERSIONS = {"1.2": ProtocolVersion.TLSv1_2, "1.3": ProtocolVersion.TLSv1_3}


def policy(options: GlobalOptions) -> KtlsPolicy:
    """Turn the global options into a policy."""
    return KtlsPolicy(
        mode=KtlsMode(options.ktls),
        rekey_required=options.ktls_rekey == "require",
        any_kernel=options.ktls_any_kernel,
    )


def path(text: str) -> Path:
    """Parse the name of a file or folder, for argparse."""
    from pathlib import Path  # most clients name none, and are spared its import

    return Path(text)


def identity(text: str) -> ReferenceIdentifier:
    """Parse a reference identifier, for argparse.

    Raises:
        ConfigError: it is none, or its name is not valid for its kind.
    """
    return ReferenceIdentifier.parse(text).canonical()


# -- flags that clients and servers have in common


def add_key_pair(
    group: argparse._ArgumentGroup, purpose: str, *, several: bool = False, of: str = ""
) -> None:
    """Declare --cert, --key and --key-fd; the first two once, or for several pairs.

    Args:
        group: where.
        purpose: of the certificate.
        several: whether there may be several pairs.
        of: in front of the names, which then go by files alone: not by the environment, nor by
            descriptors.
    """
    more: dict[str, Any] = {"action": "append", "default": []} if several else {}
    again = "; may be repeated" if several else ""
    group.add_argument(
        f"--{of}cert",
        type=path,
        metavar="FILE",
        help=f"PEM certificate chain, {purpose}; its key may be in the same file{again}; "
        f"default: {'none' if of else '$CERTFILE'}",
        **more,
    )
    group.add_argument(
        f"--{of}key",
        type=path,
        metavar="FILE",
        help="PEM private key, unencrypted; default: "
        f"{'' if of else '$KEYFILE, or '}the certificate's file",
        **more,
    )
    if of:
        return
    group.add_argument(
        "--key-fd",
        type=numbers.descriptor,
        metavar="N",
        help="descriptor to read the private key from",
    )


def add_agent(parser: argparse.ArgumentParser) -> None:
    """Declare --agent (`program.by_agent`)."""
    parser.add_argument(
        "--agent",
        type=addresses.local_path,
        metavar="PATH|FD",
        help="tlsify agent that does the handshake; without one it is done locally",
    )


def key_pair(arguments: argparse.Namespace) -> KeyPair | None:
    """Read certificate and key from where flags, or else the environment, say that they are.

    Raises:
        ConfigError: one of them is missing or unusable.
    """
    found = key_pair_files(arguments.cert, arguments.key, arguments.key_fd)
    if found is None:
        return None
    from tlsify.credentials import key_files, key_pair  # a parser; most clients have none

    chain, key = found
    if key is not None:
        return key_files.Files(str(chain), chain, key).load()
    number = arguments.key_fd
    pem = read_file(chain, CERTIFICATE), read_key(number)
    return key_pair.KeyPair.from_pem(*pem, chain, f"descriptor {number}")


def key_pair_files(
    chain: Path | None, key: Path | None, key_fd: int | None
) -> tuple[Path, Path | None] | None:
    """Return where a certificate and its key are, going by the environment for what no flag names.

    Returns:
        No path for a key that is to come from a descriptor; the same path twice for a file with
        both; None if nothing is named.

    Raises:
        UsageError: only a key is named, or the key twice.
    """
    named = key
    if key is not None and key_fd is not None:
        raise UsageError("--key and --key-fd exclude each other", hint="leave one of them out")
    if key is None and key_fd is None:
        key = _path_from_environment("KEYFILE")
    if chain is None and (chain := _path_from_environment("CERTFILE")) is None:
        # Half a pair in the environment says nothing about us.
        key = named
    if chain is None and key is None and key_fd is None:
        return None
    if chain is None:
        raise UsageError("a key without its certificate", hint="add --cert FILE, or set CERTFILE")
    if key is None and key_fd is None:
        key = chain
    return chain, key


def _path_from_environment(name: str) -> Path | None:
    found = os.environ.get(name)
    return path(found) if found else None


def read_key(number: int) -> bytes:
    """Read a PEM key from a descriptor.

    Raises:
        ConfigError: it cannot be read, or has more than a key's file.
    """
    try:
        pem = streams.read_all(number, PRIVATE_KEY.most + 1)
        if len(pem) > PRIVATE_KEY.most:
            raise too_large(PRIVATE_KEY.most)
        let_go([number])  # a reload finds nothing there, rather than what has its number then
    except OSError as exc:
        place = f"from descriptor {number}"
        raise unreadable(place, "the private key", exc, "leave it open for the command") from exc
    return pem


def add_trust(
    group: argparse._ArgumentGroup,
    flag: str,
    purpose: str,
    otherwise: str = "$CAFILE, $CADIR",
) -> None:
    """Declare a flag that names trust anchors; ``otherwise`` says what there is without any."""
    group.add_argument(
        flag,
        metavar="FILE|DIR|system",
        help=f'{purpose}"system" for this host\'s own; default: {otherwise}',
    )


def load_trust(named: str | None, *, at_once: bool = False) -> TrustAnchors:
    """Find the trust anchors that a flag or the environment names.

    Args:
        named: a path, or "system", or nothing, which is the same.
        at_once: read all of a folder, for a process that may not be allowed to later.

    Raises:
        ConfigError: unreadable, or nothing usable in it.
    """
    if named in {None, "system"}:
        return store.system()
    found = path(str(named))
    return TrustAnchors.load(found) if at_once else store.load(found)


def trust_from_environment() -> str | None:
    """Return what CAFILE or CADIR name, as ucspi-ssl and s6-tls have them."""
    return os.environ.get("CAFILE") or os.environ.get("CADIR")


def add_secrets(group: argparse._ArgumentGroup, of: str = "") -> None:
    """Declare --crl and --keylog, with something in front of their names."""
    group.add_argument(
        f"--{of}crl",
        type=path,
        metavar="FILE",
        help="certificate revocation lists; the issuer of the peer's certificate must have one",
    )
    group.add_argument(
        f"--{of}keylog",
        action="store_true",
        help="append TLS secrets to $SSLKEYLOGFILE; anyone who has them can decrypt the connection",
    )


def crls(arguments: argparse.Namespace) -> tuple[CertificateRevocationList, ...]:
    """Read what --crl names.

    Raises:
        ConfigError: it is no revocation list.
    """
    if arguments.crl is None:
        return ()
    from tlsify.credentials.crls import load  # as for `key_pair`

    return load(arguments.crl)


def key_log(arguments: argparse.Namespace) -> Path | None:
    """Return the file for --keylog; without that flag the environment alone discloses nothing.

    Raises:
        ConfigError: the flag is there, and no file is named.
    """
    if not arguments.keylog:
        return None
    found = _path_from_environment("SSLKEYLOGFILE")
    if found is None:
        raise UsageError("--keylog without a file", hint="name one in SSLKEYLOGFILE")
    return found


def alpn_protocol(text: str) -> bytes:
    """Parse the name of an application protocol, which is any bytes, for argparse."""
    if not 0 < len(name := os.fsencode(text)) <= _MAX_ALPN:
        raise argparse.ArgumentTypeError(
            f"an ALPN protocol has 1 to {_MAX_ALPN} bytes, not {len(name)}"
        )
    return name


def add_alpn(group: argparse._ArgumentGroup, of: str = "", otherwise: str = "") -> None:
    """Declare what is spoken over TLS; ``otherwise`` says what there is without any."""
    group.add_argument(
        f"--{of}alpn",
        action="append",
        type=alpn_protocol,
        default=[],
        metavar="PROTOCOL",
        help=f"application protocol; may be repeated, in order of preference{otherwise}",
    )


def add_choices(group: argparse._ArgumentGroup, of: str = "") -> None:
    """Declare what is left to negotiation: versions, ciphers, groups."""
    for which, what, default in (("min", "oldest", "1.2"), ("max", "newest", "1.3")):
        group.add_argument(
            f"--{of}tls-{which}",
            choices=tuple(_VERSIONS),
            default=default,
            help=f"{what} version; default {default}",
        )
    group.add_argument(
        f"--{of}ciphers",
        type=_ciphers,
        metavar="LIST",
        help=f"ciphers in order of preference, out of {', '.join(_AEADS)}; "
        "default: all but the last",
    )
    group.add_argument(
        f"--{of}groups",
        type=_groups,
        default=(),
        metavar="LIST",
        help="groups for the key exchange in order of preference, out of "
        f"{', '.join(group.name for group in NamedGroup)}; by default OpenSSL's own order, "
        "X25519MLKEM768 first",
    )


def _ciphers(text: str) -> tuple[Aead, ...]:
    names = text.lower().split(",")
    if not set(names) <= set(_AEADS):
        raise argparse.ArgumentTypeError(f'"{text}" is not a list of {", ".join(_AEADS)}')
    return tuple(dict.fromkeys(_AEADS[name] for name in names))


def _groups(text: str) -> tuple[str, ...]:
    found = [NamedGroup.parse(name) for name in text.split(",")]
    if None in found:
        names = ", ".join(group.name for group in NamedGroup)
        raise argparse.ArgumentTypeError(f'"{text}" is not a list of {names}')
    return tuple(dict.fromkeys(group.name for group in found if group is not None))


def versions(arguments: argparse.Namespace) -> frozenset[ProtocolVersion]:
    """Return the versions from --tls-min to --tls-max.

    Raises:
        UsageError: they are the wrong way round.
    """
    oldest, newest = _VERSIONS[arguments.tls_min], _VERSIONS[arguments.tls_max]
    if oldest > newest:
        raise UsageError("--tls-min is above --tls-max", hint="leave one of them out")
    return frozenset(version for version in ProtocolVersion if oldest <= version <= newest)


def aeads(arguments: argparse.Namespace) -> tuple[Aead, ...]:
    """Return what --ciphers names, or the default."""
    return arguments.ciphers or DEFAULT_AEADS


def add_timing(parser: argparse.ArgumentParser, what: str) -> None:
    """Declare --timeout and --close."""
    parser.add_argument(
        "--timeout",
        type=numbers.seconds,
        default=30.0,
        metavar="S",
        help=f"seconds {what}; default 30",
    )
    add_closing(parser)


def add_closing(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Declare --close."""
    parser.add_argument(
        "--close",
        choices=[policy.value for policy in ClosePolicy],
        default=ClosePolicy.STRICT.value,
        help="relaxed: accept an end without close_notify, for protocols whose messages show "
        "whether they are complete; default strict: it is an error",
    )
