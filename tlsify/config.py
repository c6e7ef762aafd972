"""ClientConfig, ServerConfig, KtlsPolicy: frozen values; PEM parsing."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Self, TypeAlias

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from tlsify.codepoints import DEFAULT_AEADS, Aead, CipherSuite, ProtocolVersion
from tlsify.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_MAX_ALPN_LENGTH = 255

PrivateKey: TypeAlias = (
    RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey | Ed448PrivateKey
)


class KtlsMode(Enum):
    """Whether the kernel is to protect the records: if it can, under all circumstances, never."""

    AUTO = "auto"
    REQUIRE = "require"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class KtlsPolicy:
    """When to give the keys to the kernel.

    Attributes:
        mode: AUTO falls back to the relay, REQUIRE raises KtlsUnavailable instead.
        rekey_required: do not offload TLS 1.3 where the kernel cannot follow a KeyUpdate.
        any_kernel: offload even on a kernel known to be bad (`ktls.floor`).
    """

    mode: KtlsMode = KtlsMode.AUTO
    rekey_required: bool = False
    any_kernel: bool = False


class ClosePolicy(Enum):
    """What an end of stream without close_notify is (RFC 8446 6.1).

    STRICT: truncation, an error. RELAXED: an end, for protocols whose own framing tells whether a
    message is complete, such as HTTP (RFC 9112 9.8).
    """

    STRICT = "strict"
    RELAXED = "relaxed"


class IdKind(Enum):
    """Kinds of reference identifier (RFC 9525); the common name is not one."""

    DNS = "dns"
    IP = "ip"
    SRV = "srv"
    URI = "uri"


@dataclass(frozen=True, slots=True)
class ReferenceIdentifier:
    """One identity that the caller accepts in the peer's certificate (RFC 9525 6.1)."""

    kind: IdKind
    name: str

    def __str__(self) -> str:
        """Spell it as ``parse`` reads it."""
        return f"{self.kind.value}:{self.name}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``KIND:NAME``, such as ``dns:example.org`` or ``ip:192.0.2.1``.

        Raises:
            ConfigError: unknown kind, or no name.
        """
        kind, separator, name = text.partition(":")
        try:
            parsed = cls(IdKind(kind.lower()), name.strip())
        except ValueError:
            parsed = None
        if parsed is None or not separator or not parsed.name:
            raise ConfigError(
                f'"{text}" is not a reference identifier',
                hint="write dns:NAME, ip:ADDRESS, srv:_SERVICE.NAME or uri:SCHEME:NAME",
            )
        return parsed

    @classmethod
    def for_host(cls, host: str) -> Self:
        """Take an address as an IP-ID and anything else as a DNS-ID."""
        return cls(IdKind.IP if is_ip_address(host) else IdKind.DNS, host)


def is_ip_address(host: str) -> bool:
    """Tell an IPv4 or IPv6 address from a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _unreadable(path: Path, what: str, exc: OSError) -> ConfigError:
    return ConfigError(
        f"cannot read {what} {path}: {exc.strerror}", hint="check the path and its permissions"
    )


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise _unreadable(path, what, exc) from exc


def parse_certificates(pem: bytes, what: str) -> tuple[x509.Certificate, ...]:
    """Read one or more PEM certificates.

    Raises:
        ConfigError: there is none, or one is malformed.
    """
    try:
        return tuple(x509.load_pem_x509_certificates(pem))
    except (ValueError, x509.InvalidVersion) as exc:
        raise ConfigError(
            f"{what} holds no usable PEM certificate",
            hint='it must contain "-----BEGIN CERTIFICATE-----"',
        ) from exc


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class KeyPair:
    """A certificate chain, leaf first, and the leaf's private key."""

    chain: tuple[x509.Certificate, ...]
    key: PrivateKey

    def __repr__(self) -> str:
        """Show the subject only."""
        return f"KeyPair({self.chain[0].subject.rfc4514_string()!r})"

    def certificate_pem(self) -> bytes:
        """Give the chain in PEM; the key stays here."""
        return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in self.chain)

    @classmethod
    def from_pem(cls, chain: bytes, key: bytes) -> Self:
        """Parse a PEM chain and an unencrypted PEM key.

        Raises:
            ConfigError: one of them is unusable, or they do not belong together.
        """
        certificates = parse_certificates(chain, "the certificate file")
        try:
            private = load_pem_private_key(key, None)
        except TypeError as exc:
            raise ConfigError(
                "the private key is encrypted", hint="give an unencrypted key file of mode 0600"
            ) from exc
        except (ValueError, UnsupportedAlgorithm) as exc:
            raise ConfigError(
                "the key file holds no usable PEM private key",
                hint='it must contain "-----BEGIN PRIVATE KEY-----"',
            ) from exc
        if not isinstance(private, PrivateKey):
            raise ConfigError(
                "the private key is of a kind that TLS servers do not use",
                hint="use an RSA (2048 bits or more), EC or Ed25519 key",
            )
        try:
            fits = private.public_key() == certificates[0].public_key()
        except (ValueError, UnsupportedAlgorithm):  # of a key that ours is certainly not
            fits = False
        if not fits:
            raise ConfigError(
                "the private key does not belong to the certificate",
                hint="the first certificate in the file must be the key's own",
            )
        return cls(certificates, private)

    @classmethod
    def load(cls, chain: Path, key: Path) -> Self:
        """Read both files and parse them (`from_pem`)."""
        return cls.from_pem(_read(chain, "certificate"), _read(key, "private key"))


@dataclass(frozen=True, slots=True, eq=False)
class TrustAnchors:
    """Whom a client believes: certificates of its own choosing, or the system's store.

    Attributes:
        certificates: the anchors; None means the system's store.
    """

    certificates: tuple[x509.Certificate, ...] | None = None

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a PEM file, or every ``*.pem`` and ``*.crt`` file of a folder.

        Raises:
            ConfigError: unreadable, or nothing usable in it.
        """
        try:
            inside = list(path.iterdir()) if path.is_dir() else None
        except OSError as exc:
            raise _unreadable(path, "trust anchors", exc) from exc
        if inside is None:
            return cls(parse_certificates(_read(path, "trust anchors"), str(path)))
        files = sorted(p for p in inside if p.suffix in {".pem", ".crt"})
        anchors = [
            certificate
            for file in files
            for certificate in parse_certificates(_read(file, "trust anchor"), str(file))
        ]
        if not anchors:
            raise ConfigError(
                f"no trust anchor in {path}", hint="it needs at least one .pem or .crt file"
            )
        return cls(tuple(anchors))


def _check_alpn(protocols: Iterable[bytes]) -> None:
    for protocol in protocols:
        if not 0 < len(protocol) <= _MAX_ALPN_LENGTH:
            msg = f"ALPN protocol of {len(protocol)} bytes"
            raise ConfigError(msg, hint="1 to 255 bytes are allowed")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True, weakref_slot=True)
class ClientConfig:
    """What a client wants of its peer, decided before the handshake.

    Attributes:
        server_name: sent as SNI; None sends none.
        identities: the certificate must match at least one of them.
        verify: False accepts any certificate.
        trust: where a certificate path must end.
        alpn: protocols to offer, most wanted first.
        versions: protocol versions to offer.
        aeads: record protection to offer, most wanted first.
        key_pair: what to authenticate with if the server asks.
        timeout: seconds for the whole handshake.
        session_store: the caller's own folder, mode 0700, for what later connections may resume
            with, which is secret; None asks for no TLS 1.2 ticket and stores nothing.

    Raises:
        ConfigError: verification without an identity, or an empty list.
    """

    server_name: str | None = None
    identities: tuple[ReferenceIdentifier, ...] = ()
    verify: bool = True
    trust: TrustAnchors = field(default_factory=TrustAnchors)
    alpn: tuple[bytes, ...] = ()
    versions: frozenset[ProtocolVersion] = frozenset(ProtocolVersion)
    aeads: tuple[Aead, ...] = DEFAULT_AEADS
    key_pair: KeyPair | None = None
    timeout: float = 30.0
    session_store: Path | None = None

    def __post_init__(self) -> None:
        """Refuse a configuration that cannot mean what its author wants."""
        if self.verify and not self.identities:
            raise ConfigError(
                "no reference identifier to verify the peer against",
                hint="name at least one identity, or turn verification off explicitly",
            )
        _check_alpn(self.alpn)
        _check_choices(self.versions, self.aeads)

    @classmethod
    def for_host(cls, host: str, *, trust: TrustAnchors | None = None) -> Self:
        """Accept exactly the named host, and send its name as SNI unless it is an address."""
        return cls(
            server_name=None if is_ip_address(host) else host,
            identities=(ReferenceIdentifier.for_host(host),),
            trust=trust or TrustAnchors(),
        )


@dataclass(frozen=True, slots=True, eq=False, kw_only=True, weakref_slot=True)
class ServerConfig:
    """What a server shows and accepts.

    Attributes:
        key_pair: the server's certificate and key.
        alpn: protocols to choose from, most wanted first; empty ignores what clients offer.
        versions: protocol versions to accept.
        aeads: record protection to accept, most wanted first.
        timeout: seconds for the whole handshake.
        resumption: give tickets, and resume with them. Until their key is dropped (`tls.context`)
            whoever gets hold of it can read TLS 1.2 connections made or resumed with them, and
            pass for the server in TLS 1.3 ones.
    """

    key_pair: KeyPair
    alpn: tuple[bytes, ...] = ()
    versions: frozenset[ProtocolVersion] = frozenset(ProtocolVersion)
    aeads: tuple[Aead, ...] = DEFAULT_AEADS
    timeout: float = 30.0
    resumption: bool = False

    def __post_init__(self) -> None:
        """Refuse a configuration that cannot mean what its author wants."""
        _check_alpn(self.alpn)
        _check_choices(self.versions, self.aeads)


def _check_choices(versions: frozenset[ProtocolVersion], aeads: tuple[Aead, ...]) -> None:
    if not any(s.version in versions and s.aead in aeads for s in CipherSuite):
        raise ConfigError(
            "no protocol version and cipher left to negotiate", hint="allow at least one of each"
        )
