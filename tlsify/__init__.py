"""TLS for programs that do not speak TLS: a handshake in userspace, the records in the kernel."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tlsify.codepoints import Aead, AlertDescription, CipherSuite, ProtocolVersion
    from tlsify.config import ClientConfig, ClosePolicy, KtlsMode, KtlsPolicy, ServerConfig
    from tlsify.connection.adoption import adopt
    from tlsify.connection.establish import accept, connect
    from tlsify.connection.handoff import Handoff, Offload, Reason
    from tlsify.connection.stream import TLSSocket
    from tlsify.credentials.anchors import TrustAnchors
    from tlsify.credentials.key_pair import KeyPair
    from tlsify.errors import (
        AgentError,
        ConfigError,
        DeadlineExceeded,
        HandshakeError,
        IdentityError,
        KeyUpdateRefused,
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
    from tlsify.ktls.probe import Capabilities, capabilities
    from tlsify.metrics.counters import counters
    from tlsify.names import ReferenceIdentifier
    from tlsify.system.process import protect_process

_HOMES = {
    "codepoints": ("Aead", "AlertDescription", "CipherSuite", "ProtocolVersion"),
    "config": ("ClientConfig", "ClosePolicy", "KtlsMode", "KtlsPolicy", "ServerConfig"),
    "credentials.anchors": ("TrustAnchors",),
    "credentials.key_pair": ("KeyPair",),
    "names": ("ReferenceIdentifier",),
    "errors": (
        "AgentError",
        "ConfigError",
        "DeadlineExceeded",
        "HandshakeError",
        "IdentityError",
        "KtlsCommitError",
        "KtlsError",
        "KeyUpdateRefused",
        "KtlsUnavailable",
        "NetworkError",
        "PeerAlert",
        "PeerMisbehaved",
        "RekeyUnsupported",
        "TlsifyError",
        "Truncated",
    ),
    "metrics.counters": ("counters",),
    "connection.adoption": ("adopt",),
    "connection.handoff": ("Handoff", "Offload", "Reason"),
    "ktls.probe": ("Capabilities", "capabilities"),
    "connection.establish": ("accept", "connect"),
    "system.process": ("protect_process",),
    "connection.stream": ("TLSSocket",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [  # noqa: RUF022 - in the order in which a reader meets them
    "connect",
    "accept",
    "adopt",
    "Handoff",
    "Offload",
    "Reason",
    "TLSSocket",
    "ClientConfig",
    "ServerConfig",
    "ClosePolicy",
    "KeyPair",
    "TrustAnchors",
    "ReferenceIdentifier",
    "KtlsMode",
    "KtlsPolicy",
    "Capabilities",
    "capabilities",
    "counters",
    "protect_process",
    "Aead",
    "AlertDescription",
    "CipherSuite",
    "ProtocolVersion",
    "TlsifyError",
    "AgentError",
    "ConfigError",
    "DeadlineExceeded",
    "HandshakeError",
    "IdentityError",
    "KeyUpdateRefused",
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
    """Import a public name on first use, so that the command loads only what it needs."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'tlsify' has no attribute {name!r}")
    return getattr(import_module(f"tlsify.{_HOME_OF[name]}"), name)
