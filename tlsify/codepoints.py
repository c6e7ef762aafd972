"""IANA numbers: record and handshake types, alerts, versions, cipher suites, groups."""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import NamedTuple, Self


class Codepoint(IntEnum):
    """A registry of numbers, most of which a peer may send without our knowing them."""

    @classmethod
    def known(cls, number: int) -> Self | None:
        """Return the member of a number, or None."""
        try:
            return cls(number)
        except ValueError:
            return None

    @classmethod
    def name_of(cls, number: int) -> str:
        """Name any number, known or not."""
        member = cls.known(number)
        return str(number) if member is None else member.name


class ContentType(Codepoint):
    """TLSPlaintext.type (RFC 8446 B.1); the kernel calls it the record type."""

    change_cipher_spec = 20
    alert = 21
    handshake = 22
    application_data = 23


class HandshakeType(Codepoint):
    """Handshake.msg_type (RFC 8446 B.3; hello_request: RFC 5246 7.4)."""

    hello_request = 0
    client_hello = 1
    server_hello = 2
    new_session_ticket = 4
    end_of_early_data = 5
    encrypted_extensions = 8
    certificate = 11
    server_key_exchange = 12
    certificate_request = 13
    server_hello_done = 14
    certificate_verify = 15
    client_key_exchange = 16
    finished = 20
    certificate_url = 21
    certificate_status = 22
    key_update = 24
    message_hash = 254


class AlertLevel(Codepoint):
    """Alert.level (RFC 8446 B.2); carries no meaning in TLS 1.3."""

    warning = 1
    fatal = 2


class AlertDescription(Codepoint):
    """Alert.description (RFC 8446 B.2; no_renegotiation: RFC 5246 7.2)."""

    close_notify = 0
    unexpected_message = 10
    bad_record_mac = 20
    decryption_failed = 21
    record_overflow = 22
    decompression_failure = 30
    handshake_failure = 40
    no_certificate = 41
    bad_certificate = 42
    unsupported_certificate = 43
    certificate_revoked = 44
    certificate_expired = 45
    certificate_unknown = 46
    illegal_parameter = 47
    unknown_ca = 48
    access_denied = 49
    decode_error = 50
    decrypt_error = 51
    export_restriction = 60
    protocol_version = 70
    insufficient_security = 71
    internal_error = 80
    inappropriate_fallback = 86
    user_canceled = 90
    no_renegotiation = 100
    missing_extension = 109
    unsupported_extension = 110
    certificate_unobtainable = 111
    unrecognized_name = 112
    bad_certificate_status_response = 113
    bad_certificate_hash_value = 114
    unknown_psk_identity = 115
    certificate_required = 116
    no_application_protocol = 120


class ProtocolVersion(IntEnum):
    """Wire versions that the kernel can protect (linux/tls.h TLS_1_2_VERSION, TLS_1_3_VERSION)."""

    TLSv1_2 = 0x0303
    TLSv1_3 = 0x0304

    @property
    def label(self) -> str:
        """Human spelling: ``TLSv1.3``."""
        return self.name.replace("_", ".")


class NamedGroup(Codepoint):
    """Groups for the key exchange that tlsify can be told to use (RFC 8446 4.2.7).

    OpenSSL knows them by the same names. What is left out is finite-field, weak, or in no wide use.
    """

    secp256r1 = 23
    secp384r1 = 24
    secp521r1 = 25
    x25519 = 29
    x448 = 30
    SecP256r1MLKEM768 = 4587
    X25519MLKEM768 = 4588
    SecP384r1MLKEM1024 = 4589

    @classmethod
    def parse(cls, name: str) -> Self | None:
        """Find a group by IANA's name or, for NIST's curves, by theirs; None if there is none."""
        wanted = name.lower()
        wanted = _NIST_CURVES.get(wanted, wanted)
        return next((group for group in cls if group.name.lower() == wanted), None)


_NIST_CURVES = {"p-256": "secp256r1", "p-384": "secp384r1", "p-521": "secp521r1"}


class Aead(Enum):
    """Record protection algorithms, under the kernel's names (linux/tls.h TLS_CIPHER_*).

    Attributes:
        key_length: bytes of write key: 16 or 32.
        has_explicit_nonce: whether TLS 1.2 sends 8 nonce bytes with each record (RFC 5288 3,
            RFC 6655 3).
    """

    AES_GCM_128 = "AES_GCM_128"
    AES_GCM_256 = "AES_GCM_256"
    AES_CCM_128 = "AES_CCM_128"
    CHACHA20_POLY1305 = "CHACHA20_POLY1305"

    def __init__(self, name: str) -> None:
        # Once, rather than by properties: each handshake asks many times.
        self.key_length = 16 if name.endswith("_128") else 32
        self.has_explicit_nonce = name.startswith("AES")

    __hash__ = object.__hash__  # Enum's own takes Python code

    @property
    def record_limit(self) -> int | None:
        """Records to protect with one key at most; None if the sequence number ends first.

        Source: RFC 8446 5.5 (2**24.5 full records of AES-GCM), RFC 9147 B.1 (2**23 of AES-CCM).
        """
        if self is Aead.CHACHA20_POLY1305:
            return None
        return 2**23 if self is Aead.AES_CCM_128 else 2**24


class _Suite(NamedTuple):
    number: int
    version: ProtocolVersion
    aead: Aead
    hash_name: str
    openssl_name: str


class CipherSuite(Enum):
    """Every suite tlsify negotiates: AEAD, forward secret, known to the kernel.

    Attributes:
        version: the one protocol version that it belongs to.
        aead: how records are protected.
        hash_name: hash of the key schedule or PRF: ``sha256`` or ``sha384``.
        openssl_name: what OpenSSL's cipher lists call it.
    """

    TLS_AES_128_GCM_SHA256 = _Suite(
        0x1301, ProtocolVersion.TLSv1_3, Aead.AES_GCM_128, "sha256", "TLS_AES_128_GCM_SHA256"
    )
    TLS_AES_256_GCM_SHA384 = _Suite(
        0x1302, ProtocolVersion.TLSv1_3, Aead.AES_GCM_256, "sha384", "TLS_AES_256_GCM_SHA384"
    )
    TLS_CHACHA20_POLY1305_SHA256 = _Suite(
        0x1303,
        ProtocolVersion.TLSv1_3,
        Aead.CHACHA20_POLY1305,
        "sha256",
        "TLS_CHACHA20_POLY1305_SHA256",
    )
    TLS_AES_128_CCM_SHA256 = _Suite(
        0x1304, ProtocolVersion.TLSv1_3, Aead.AES_CCM_128, "sha256", "TLS_AES_128_CCM_SHA256"
    )
    TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 = _Suite(
        0xC02B,
        ProtocolVersion.TLSv1_2,
        Aead.AES_GCM_128,
        "sha256",
        "ECDHE-ECDSA-AES128-GCM-SHA256",
    )
    TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 = _Suite(
        0xC02C,
        ProtocolVersion.TLSv1_2,
        Aead.AES_GCM_256,
        "sha384",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
    )
    TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 = _Suite(
        0xC02F, ProtocolVersion.TLSv1_2, Aead.AES_GCM_128, "sha256", "ECDHE-RSA-AES128-GCM-SHA256"
    )
    TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 = _Suite(
        0xC030, ProtocolVersion.TLSv1_2, Aead.AES_GCM_256, "sha384", "ECDHE-RSA-AES256-GCM-SHA384"
    )
    TLS_ECDHE_ECDSA_WITH_AES_128_CCM = _Suite(
        0xC0AC, ProtocolVersion.TLSv1_2, Aead.AES_CCM_128, "sha256", "ECDHE-ECDSA-AES128-CCM"
    )
    TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 = _Suite(
        0xCCA8,
        ProtocolVersion.TLSv1_2,
        Aead.CHACHA20_POLY1305,
        "sha256",
        "ECDHE-RSA-CHACHA20-POLY1305",
    )
    TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 = _Suite(
        0xCCA9,
        ProtocolVersion.TLSv1_2,
        Aead.CHACHA20_POLY1305,
        "sha256",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
    )

    def __init__(self, *_: object) -> None:
        found: _Suite = self.value  # its parts are what this is called with
        self.version = found.version
        self.aead = found.aead
        self.hash_name = found.hash_name
        self.openssl_name = found.openssl_name

    @classmethod
    def from_openssl(cls, name: str) -> CipherSuite:
        """Return the suite of an OpenSSL name.

        Raises:
            KeyError: not a suite that tlsify negotiates.
        """
        return _BY_OPENSSL_NAME[name]

    @classmethod
    def from_number(cls, number: int) -> CipherSuite:
        """Return the suite of an IANA number.

        Raises:
            KeyError: not a suite that tlsify negotiates.
        """
        return _BY_NUMBER[number]


_BY_NUMBER = {suite.value.number: suite for suite in CipherSuite}
_BY_OPENSSL_NAME = {suite.openssl_name: suite for suite in CipherSuite}

# AES-128 first: it is the cheapest that is still strong, and the field's common denominator.
# CCM is opt-in: slower than GCM everywhere and met only in embedded peers.
DEFAULT_AEADS = (Aead.AES_GCM_128, Aead.AES_GCM_256, Aead.CHACHA20_POLY1305)
