"""ClientConfig, ServerConfig, KtlsPolicy: frozen values."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Self

from tlsify.codepoints import DEFAULT_AEADS, Aead, CipherSuite, NamedGroup, ProtocolVersion
from tlsify.credentials.anchors import TrustAnchors
from tlsify.errors import ConfigError
from tlsify.names import ReferenceIdentifier, canonical, is_ip_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from _typeshed import StrPath
    from cryptography import x509

    from tlsify.credentials.key_pair import KeyPair


_MAX_ALPN_LENGTH = 255
_PIN_LENGTH = 32
_MAX_SECONDS = 10**6  # what poll takes in milliseconds


class KtlsMode(Enum):
    """Whether the kernel protects the records: if possible, always, or never."""

    AUTO = "auto"
    REQUIRE = "require"
    OFF = "off"


class KtlsPolicy(NamedTuple):
    """When to give the keys to the kernel.

    Attributes:
        mode: AUTO falls back to the relay, REQUIRE raises KtlsUnavailable instead.
        rekey_required: do not offload TLS 1.3 where the kernel cannot follow a KeyUpdate.
        any_kernel: offload even on a kernel with a known vulnerability (`ktls.advisories`).
    """

    mode: KtlsMode = KtlsMode.AUTO
    rekey_required: bool = False
    any_kernel: bool = False


class ClosePolicy(Enum):
    """Meaning of an end of stream without close_notify (RFC 8446 6.1).

    STRICT: truncation, an error. RELAXED: a clean end, for protocols whose own framing shows
    whether a message is complete, such as HTTP (RFC 9112 9.8).
    """

    STRICT = "strict"
    RELAXED = "relaxed"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True, weakref_slot=True)
class ClientConfig:
    """Requirements of a client for its peer, fixed before the handshake.

    Attributes:
        server_name: sent as SNI, in its canonical form (`names`); None sends none, and neither does
            an address (RFC 6066 3).
        identities: the certificate must match at least one of them, in their canonical form.
        verify: False accepts any certificate, or with ``pins`` any certificate with one of these
            keys.
        trust: where a certificate path must end.
        pins: SHA-256 of SubjectPublicKeyInfo, 32 bytes each: the certificate's own key must be one
            of these, in addition to all other checks; empty allows any key.
        crls: revocation lists: the peer's issuer must have one here, and a certificate on a list is
            refused, at any depth; empty disables the check.
        crl_check_all: whether every other issuer on the path must have a list, too.
        alpn: protocols to offer, most wanted first.
        versions: protocol versions to offer.
        aeads: record protection to offer, most wanted first.
        groups: for the key exchange, most wanted first, such as ``X25519MLKEM768`` or ``P-256``
            (`codepoints.NamedGroup`); empty leaves it to OpenSSL, which prefers X25519MLKEM768.
        key_pair: certificate and key to authenticate with if the server requests it.
        timeout: seconds for the whole handshake.
        keep_chain: keep all certificates that the peer shows, and the path to a trust anchor
            (`Negotiated.chain`); else its own alone.
        session_store: private folder, mode 0700, for the secret sessions that later connections may
            resume; None requests no TLS 1.2 ticket and stores nothing.
        key_log: file to append the handshake's secrets to, which suffice to decrypt the connection
            (RFC 9850); None writes none.

    Raises:
        ConfigError: verification without an identity, a name that no host can have, an empty list,
            or contradictory settings.
    """

    server_name: str | None = None
    identities: tuple[ReferenceIdentifier, ...] = ()
    verify: bool = True
    trust: TrustAnchors = field(default_factory=TrustAnchors)
    pins: tuple[bytes, ...] = ()
    crls: tuple[x509.CertificateRevocationList, ...] = ()
    crl_check_all: bool = False
    alpn: tuple[bytes, ...] = ()
    versions: frozenset[ProtocolVersion] = frozenset(ProtocolVersion)
    aeads: tuple[Aead, ...] = DEFAULT_AEADS
    groups: tuple[str, ...] = ()
    key_pair: KeyPair | None = None
    timeout: float = 30.0
    keep_chain: bool = False
    session_store: StrPath | None = None
    key_log: StrPath | None = None

    def __post_init__(self) -> None:
        """Refuse a configuration that cannot mean what its author wants; spell names as used."""
        if self.server_name is not None:
            name = canonical(self.server_name)
            object.__setattr__(self, "server_name", None if is_ip_address(name) else name)
        identities = tuple(identity.canonical() for identity in self.identities)
        object.__setattr__(self, "identities", identities)
        if self.verify and not identities:
            raise ConfigError(
                "no reference identifier to verify the peer against",
                hint="name at least one identity, or turn verification off explicitly",
            )
        if self.crls and not self.verify:
            raise ConfigError(
                "revocation lists mean nothing without verification",
                hint="leave the lists out, or verify",
            )
        _check_lists(self)
        if any(len(pin) != _PIN_LENGTH for pin in self.pins):
            raise ConfigError("a pin is not a SHA-256 digest", hint="a pin has 32 bytes")
        check_alpn(self.alpn)
        check_timeout(self.timeout)
        _check_choices(self.versions, self.aeads, self.groups)

    @classmethod
    def for_host(cls, host: str, *, trust: TrustAnchors | None = None) -> Self:
        """Accept exactly the named host, and send its name as SNI unless it is an address."""
        return cls(
            server_name=host,
            identities=(ReferenceIdentifier.for_host(host),),
            trust=trust or TrustAnchors(),
        )


@dataclass(frozen=True, slots=True, eq=False, kw_only=True, weakref_slot=True)
class ServerConfig:
    """Certificates of a server, and its requirements for clients.

    Attributes:
        key_pair: the server's certificate and key; the default for clients that send no name, or a
            name without a certificate.
        more_key_pairs: further ones, chosen by the name that a client asks for (RFC 6066 3), and
            for the same names by the key types that it can verify.
        client_trust: anchors for the paths of clients' certificates; None requests no certificate.
        client_required: refuse clients without a certificate.
        client_identities: a client's certificate must match at least one of them; empty allows any
            with a path to ``client_trust``.
        crls: revocation lists for clients' certificates, as `ClientConfig` has them.
        crl_check_all: likewise.
        alpn: protocols to choose from, most wanted first; empty ignores what clients offer.
        versions: protocol versions to accept.
        aeads: record protection to accept, most wanted first.
        groups: for the key exchange, as `ClientConfig` has them.
        timeout: seconds for the whole handshake.
        keep_chain: as `ClientConfig` has it.
        resumption: send tickets, and resume with them. Until their key is dropped (`tls.context`),
            an attacker who gets it can decrypt TLS 1.2 connections made or resumed with them, and
            impersonate the server in TLS 1.3 ones. A client's certificate is in its ticket, and its
            path is not verified again.
        key_log: as `ClientConfig` has it.
        acme_challenge: returns the configuration that shows an ACME authority its challenge for a
            name, or None if none is pending (`acme.board`). It is for clients that offer the
            protocol acme-tls/1 alone, which get no connection (RFC 8737).
        provisional: whether ``key_pair`` stands for a certificate that is still to come: all other
            clients are refused.

    Raises:
        ConfigError: an empty list, a name that no host can have, or requirements for clients'
            certificates without trust anchors.
    """

    key_pair: KeyPair
    more_key_pairs: tuple[KeyPair, ...] = ()
    client_trust: TrustAnchors | None = None
    client_required: bool = False
    client_identities: tuple[ReferenceIdentifier, ...] = ()
    crls: tuple[x509.CertificateRevocationList, ...] = ()
    crl_check_all: bool = False
    alpn: tuple[bytes, ...] = ()
    versions: frozenset[ProtocolVersion] = frozenset(ProtocolVersion)
    aeads: tuple[Aead, ...] = DEFAULT_AEADS
    groups: tuple[str, ...] = ()
    timeout: float = 30.0
    keep_chain: bool = False
    resumption: bool = False
    key_log: StrPath | None = None
    acme_challenge: Callable[[str], ServerConfig | None] | None = None
    provisional: bool = False

    def __post_init__(self) -> None:
        """Refuse a configuration that cannot mean what its author wants; spell names as used."""
        identities = tuple(identity.canonical() for identity in self.client_identities)
        object.__setattr__(self, "client_identities", identities)
        wishes = self.client_required or self.client_identities or self.crls
        if wishes and self.client_trust is None:
            raise ConfigError(
                "client verification requires trust anchors",
                hint="name the authority that issues their certificates",
            )
        _check_lists(self)
        check_alpn(self.alpn)
        check_timeout(self.timeout)
        _check_choices(self.versions, self.aeads, self.groups)


def check_alpn(protocols: Iterable[bytes]) -> None:
    """Check the lengths of ALPN protocols (RFC 7301 3.1)."""
    for protocol in protocols:
        if not 0 < len(protocol) <= _MAX_ALPN_LENGTH:
            msg = f"ALPN protocol of {len(protocol)} bytes"
            raise ConfigError(msg, hint="1 to 255 bytes are allowed")


def check_timeout(seconds: float) -> None:
    """Check the time limit of a handshake."""
    if not 0 < seconds <= _MAX_SECONDS:
        raise ConfigError(
            f"a handshake cannot take {seconds} seconds",
            hint=f"allow more than 0 seconds for it, up to {_MAX_SECONDS}",
        )


def check_groups(names: Iterable[str]) -> None:
    """Check the names of key exchange groups."""
    for name in names:
        if NamedGroup.parse(name) is None:
            raise ConfigError(
                f'"{name}" is no key exchange group',
                hint=f"there are {', '.join(group.name for group in NamedGroup)}",
            )


def _check_lists(config: ClientConfig | ServerConfig) -> None:
    if config.crl_check_all and not config.crls:
        raise ConfigError(
            "every issuer is to have a revocation list, and there is none", hint="give the lists"
        )


def _check_choices(
    versions: frozenset[ProtocolVersion], aeads: tuple[Aead, ...], groups: tuple[str, ...]
) -> None:
    if not any(s.version in versions and s.aead in aeads for s in CipherSuite):
        raise ConfigError(
            "no protocol version and cipher left to negotiate", hint="allow at least one of each"
        )
    check_groups(groups)
