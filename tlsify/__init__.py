"""TLS for programs that do not speak TLS: a handshake in userspace, the records in the kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tlsify.codepoints import Aead, AlertDescription, CipherSuite, ProtocolVersion
    from tlsify.config import (
        ClientConfig,
        KeyPair,
        KtlsMode,
        KtlsPolicy,
        ReferenceIdentifier,
        ServerConfig,
        TrustAnchors,
    )
    from tlsify.errors import (
        ConfigError,
        DeadlineExceeded,
        HandshakeError,
        IdentityError,
        KtlsCommitError,
        KtlsError,
        KtlsUnavailable,
        NetworkError,
        PeerAlert,
        PeerMisbehaved,
        RekeyUnsupported,
        TlsifyError,
        Truncated,
    )
    from tlsify.handoff import Handoff, Offload, Reason, accept, connect
    from tlsify.ktls.probe import Capabilities, capabilities
    from tlsify.stream import TLSSocket

_HOMES = {
    "codepoints": ("Aead", "AlertDescription", "CipherSuite", "ProtocolVersion"),
    "config": (
        "ClientConfig",
        "KeyPair",
        "KtlsMode",
        "KtlsPolicy",
        "ReferenceIdentifier",
        "ServerConfig",
        "TrustAnchors",
    ),
    "errors": (
        "ConfigError",
        "DeadlineExceeded",
        "HandshakeError",
        "IdentityError",
        "KtlsCommitError",
        "KtlsError",
        "KtlsUnavailable",
        "NetworkError",
        "PeerAlert",
        "PeerMisbehaved",
        "RekeyUnsupported",
        "TlsifyError",
        "Truncated",
    ),
    "handoff": ("Handoff", "Offload", "Reason", "accept", "connect"),
    "ktls.probe": ("Capabilities", "capabilities"),
    "stream": ("TLSSocket",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [  # noqa: RUF022 - in the order in which a reader meets them
    "connect",
    "accept",
    "Handoff",
    "Offload",
    "Reason",
    "TLSSocket",
    "ClientConfig",
    "ServerConfig",
    "KeyPair",
    "TrustAnchors",
    "ReferenceIdentifier",
    "KtlsMode",
    "KtlsPolicy",
    "Capabilities",
    "capabilities",
    "Aead",
    "AlertDescription",
    "CipherSuite",
    "ProtocolVersion",
    "TlsifyError",
    "ConfigError",
    "DeadlineExceeded",
    "HandshakeError",
    "IdentityError",
    "KtlsCommitError",
    "KtlsError",
    "KtlsUnavailable",
    "NetworkError",
    "PeerAlert",
    "PeerMisbehaved",
    "RekeyUnsupported",
    "Truncated",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use: the command must not pay for what it does not need."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'tlsify' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - as above

    return getattr(import_module(f"tlsify.{_HOME_OF[name]}"), name)
