"""TLS for programs that do not speak TLS: a handshake in userspace, the records in the kernel."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import tlsify.system.last_callback  # noqa: F401 - registers itself: as early as possible

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tlsify.codepoints import (
        Aead as Aead,
    )
    from tlsify.codepoints import (
        AlertDescription as AlertDescription,
    )
    from tlsify.codepoints import (
        CipherSuite as CipherSuite,
    )
    from tlsify.codepoints import (
        ProtocolVersion as ProtocolVersion,
    )
    from tlsify.config import (
        ClientConfig as ClientConfig,
    )
    from tlsify.config import (
        ClosePolicy as ClosePolicy,
    )
    from tlsify.config import (
        KtlsMode as KtlsMode,
    )
    from tlsify.config import (
        KtlsPolicy as KtlsPolicy,
    )
    from tlsify.config import (
        ServerConfig as ServerConfig,
    )
    from tlsify.connection.adoption import adopt as adopt
    from tlsify.connection.establish import accept as accept
    from tlsify.connection.establish import connect as connect
    from tlsify.connection.handoff import Handoff as Handoff
    from tlsify.connection.handoff import Offload as Offload
    from tlsify.connection.handoff import Reason as Reason
    from tlsify.connection.stream import TLSSocket as TLSSocket
    from tlsify.credentials.anchors import TrustAnchors as TrustAnchors
    from tlsify.credentials.key_pair import KeyPair as KeyPair
    from tlsify.errors import (
        AgentError as AgentError,
    )
    from tlsify.errors import (
        ConfigError as ConfigError,
    )
    from tlsify.errors import (
        DeadlineExceeded as DeadlineExceeded,
    )
    from tlsify.errors import (
        HandshakeError as HandshakeError,
    )
    from tlsify.errors import (
        IdentityError as IdentityError,
    )
    from tlsify.errors import (
        KeyUpdateRefused as KeyUpdateRefused,
    )
    from tlsify.errors import (
        KtlsCommitError as KtlsCommitError,
    )
    from tlsify.errors import (
        KtlsError as KtlsError,
    )
    from tlsify.errors import (
        KtlsUnavailable as KtlsUnavailable,
    )
    from tlsify.errors import (
        NetworkError as NetworkError,
    )
    from tlsify.errors import (
        PeerAlert as PeerAlert,
    )
    from tlsify.errors import (
        PeerMisbehaved as PeerMisbehaved,
    )
    from tlsify.errors import (
        RekeyUnsupported as RekeyUnsupported,
    )
    from tlsify.errors import (
        TlsifyError as TlsifyError,
    )
    from tlsify.errors import (
        Truncated as Truncated,
    )
    from tlsify.ktls.probe import Capabilities as Capabilities
    from tlsify.ktls.probe import capabilities as capabilities
    from tlsify.metrics.counters import counters as counters
    from tlsify.names import ReferenceIdentifier as ReferenceIdentifier
    from tlsify.system.process import protect_process as protect_process

# Where public names are, in the order in which a reader meets them.
_HOMES = {
    "connection.establish": ("connect", "accept"),
    "connection.adoption": ("adopt",),
    "connection.handoff": ("Handoff", "Offload", "Reason"),
    "connection.stream": ("TLSSocket",),
    "config": ("ClientConfig", "ServerConfig", "ClosePolicy", "KtlsMode", "KtlsPolicy"),
    "credentials.key_pair": ("KeyPair",),
    "credentials.anchors": ("TrustAnchors",),
    "names": ("ReferenceIdentifier",),
    "ktls.probe": ("Capabilities", "capabilities"),
    "metrics.counters": ("counters",),
    "system.process": ("protect_process",),
    "codepoints": ("Aead", "AlertDescription", "CipherSuite", "ProtocolVersion"),
    "errors": (
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
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = list(_HOME_OF)


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that the command loads only what it needs."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'tlsify' has no attribute {name!r}")
    return getattr(import_module(f"tlsify.{_HOME_OF[name]}"), name)
