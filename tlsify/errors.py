"""Every exception, its exit code and its hint."""

from __future__ import annotations

import copyreg
import errno as _errno
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tlsify.codepoints import AlertDescription


class ExitCode(IntEnum):
    """Exit status of the command, as in s6-tls: 96 and above, to avoid programs' own."""

    OK = 0
    CONFIG = 96
    HANDSHAKE = 97
    IDENTITY = 98
    CLOSED = 99
    USAGE = 100
    BUG = 101
    NETWORK = 102
    KTLS = 103
    COMMIT = 104
    AGENT = 105
    DEADLINE = 106
    SYSTEM = 111
    NOT_EXECUTABLE = 126
    NOT_FOUND = 127


class ReasonCode(StrEnum):
    """Why a connection is relayed, or none is offloaded here; docs/cli.md explains each."""

    POLICY_OFF = "policy-off"
    SWITCHED_OFF = "switched-off"
    IN_MEMORY = "in-memory"
    KNOWN_BAD_KERNEL = "known-bad-kernel"
    NO_TLS_ULP = "no-tls-ulp"
    NO_TLS_MODULE = "no-tls-module"
    TLS_MODULE_NOT_LOADED = "tls-module-not-loaded"
    NO_TLS_ULP_CONTAINER = "no-tls-ulp-container"
    NOT_ESTABLISHED = "not-established"
    MPTCP = "mptcp"
    NOT_TCP = "not-tcp"
    SUITE_UNSUPPORTED = "suite-unsupported"
    NO_REKEY = "no-rekey"
    MAX_FRAGMENT_LENGTH = "max-fragment-length"
    FORBIDDEN = "forbidden"
    NO_MEMORY = "no-memory"
    SHORTAGE = "shortage"
    NOT_AVAILABLE = "not-available"
    NO_LOOPBACK = "no-loopback"
    ULP_PRESET = "ulp-preset"

    def __repr__(self) -> str:
        """Show the code alone, as in any other message."""
        return repr(self.value)


# Found by ``tlsify check`` only, which looks for the cause of `ReasonCode.NO_TLS_ULP`.
CAUSES = frozenset(
    {ReasonCode.NO_TLS_MODULE, ReasonCode.TLS_MODULE_NOT_LOADED, ReasonCode.NO_TLS_ULP_CONTAINER}
)


def errno_name(number: int) -> str:
    """Return the symbolic name of an errno, such as ``ENOENT``."""
    return _errno.errorcode.get(number, f"errno {number}")


class TlsifyError(Exception):
    """Anything tlsify reports by itself; raised directly only for a broken internal invariant.

    Attributes:
        hint: a remedy for the user; a general one of the class by default.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.BUG
    general_hint: ClassVar[str] = "this is a bug in tlsify: please report it with this line"
    hint: str

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        """Store a message, one line in lower case without a full stop, and a remedy."""
        super().__init__(message)
        self.hint = hint or self.general_hint

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what pickle and copy need: pools of processes send each other errors."""
        names = ("args", "errno", "strerror", "filename")
        state = {each: getattr(self, each) for each in names if getattr(self, each, None)}
        return copyreg.__newobj__, (type(self),), state | vars(self)  # type: ignore[attr-defined]


def said(error: object) -> str:
    """Return what an error says; of the system's its name and text, without Python's brackets."""
    if isinstance(error, OSError) and error.errno and not isinstance(error, TlsifyError):
        return f"{errno_name(error.errno)}: {error.strerror}"
    return str(error)


class ConfigError(TlsifyError):
    """A flag, key, certificate or trust store is unusable; nothing was sent."""

    exit_code = ExitCode.CONFIG
    general_hint = 'see "tlsify help cli" for valid values'


class UsageError(ConfigError):
    """The words of a command line, or of a configuration file, are wrong or do not fit together."""

    exit_code = ExitCode.USAGE
    general_hint = "see tlsify help"


class NetworkError(TlsifyError):
    """The host's name does not resolve, or the host does not answer."""

    exit_code = ExitCode.NETWORK
    general_hint = "check host, port and network"


class BackendError(TlsifyError):
    """No backend took a connection: down, too slow, or refusing."""

    exit_code = ExitCode.NETWORK
    general_hint = "check that the backend runs, and its log"


class HandshakeError(TlsifyError):
    """The handshake failed, or a TLS error ended the connection.

    Attributes:
        alert: the alert that was sent (or received, in PeerAlert); None if there was none.
        server_name: SNI of a failed handshake; None if it is not known.
    """

    exit_code = ExitCode.HANDSHAKE
    general_hint = "see the peer's log"
    alert: AlertDescription | None
    server_name: str | None = None

    def __init__(
        self, message: str, *, alert: AlertDescription | None = None, hint: str | None = None
    ) -> None:
        """Store the message and its alert."""
        super().__init__(message, hint=hint)
        self.alert = alert


class PeerAlert(HandshakeError):
    """The peer sent a fatal alert."""


class ProxyHeaderError(HandshakeError):
    """A connection of a proxy did not begin with a PROXY header."""

    general_hint = "have the proxy send one (send-proxy-v2), or take it off --accept-proxy"


class PeerMisbehaved(HandshakeError):
    """The peer's data was refused; ``alert`` is the alert that was sent.

    Attributes:
        is_answered: whether it spoke another protocol, and was answered in that one instead.
    """

    is_answered = False


class KeyUpdateRefused(HandshakeError):
    """The peer sent a KeyUpdate that this kernel, which has the keys, cannot follow."""

    general_hint = "use Linux 6.14 or later, or relay TLS 1.3 with --ktls-rekey=require"


class IdentityError(HandshakeError):
    """No reference identifier matched, or no path leads to a trust anchor (RFC 9525).

    Attributes:
        mismatches: the identifiers that the certificate presented.
        verify_code: OpenSSL's number for it (X509_V_ERR of openssl/x509_vfy.h); 0 if there is none.
    """

    exit_code = ExitCode.IDENTITY
    general_hint = "check the peer's certificate"
    mismatches: Sequence[str]
    verify_code = 0

    def __init__(
        self,
        message: str,
        *,
        mismatches: Sequence[str] = (),
        alert: AlertDescription | None = None,
        hint: str | None = None,
    ) -> None:
        """Store the message and the presented identifiers."""
        super().__init__(message, alert=alert, hint=hint)
        self.mismatches = tuple(mismatches)


class Truncated(HandshakeError):
    """End of stream before Finished, or later without close_notify (RFC 8446 6.1)."""

    exit_code = ExitCode.CLOSED
    general_hint = "the peer, or a device in between, cut the connection"


class KeyHolderError(HandshakeError):
    """The process with the private key, which does the handshakes (`isolation`), is gone."""

    exit_code = ExitCode.SYSTEM
    general_hint = "connect again; see what the server's log says of its key holders"


class NoCertificate(HandshakeError):
    """The server's certificate is still to come (`ServerConfig.provisional`)."""

    exit_code = ExitCode.CONFIG
    general_hint = "see what the server's log says of ACME"


# Errors that end a TCP connection: from the peer, from silence, from the network (ICMP, icmp(7)).
_BY_THE_PEER = Truncated.general_hint
_BY_SILENCE = "nothing came back for a long time: the peer may be down, or the network to it"
_BY_THE_NETWORK = "the network reports that it cannot reach the peer any more"
_UNREACHABLE = (
    "EHOSTUNREACH", "ENETUNREACH", "EHOSTDOWN", "ENETDOWN", "ENETRESET", "ENONET", "ECONNREFUSED",
    "ENOPROTOOPT", "EPROTO", "EOPNOTSUPP",
)  # fmt: skip
CUTS = {
    _errno.ECONNRESET: _BY_THE_PEER,
    _errno.ECONNABORTED: _BY_THE_PEER,
    _errno.EPIPE: _BY_THE_PEER,
    _errno.ETIMEDOUT: _BY_SILENCE,
} | {getattr(_errno, name): _BY_THE_NETWORK for name in _UNREACHABLE}


class ConnectionCut(TlsifyError):
    """The TCP connection is dead: reset, silent for too long, or out of reach; `CUTS`."""

    exit_code = ExitCode.CLOSED
    general_hint = _BY_THE_PEER

    def __init__(self, error: OSError, prefix: str = "") -> None:
        """Store the socket's error, with a prefix for the message."""
        number = error.errno or 0
        message = f"{prefix}the connection was cut: {errno_name(number)}: {error.strerror}"
        super().__init__(message, hint=CUTS.get(number))


class KtlsError(TlsifyError):
    """The kernel refused a step of the offload.

    Attributes:
        step: "TCP_ULP", "TLS_TX", "TLS_RX", "sendmsg" or "recvmsg".
        errno: the kernel's; 0 if tlsify refused without a system call.
    """

    step: str
    errno: int

    def __init__(self, step: str, errno: int, message: str, *, hint: str | None = None) -> None:
        """Build the line ``STEP: ERRNO: message``."""
        named = f"{step}: {errno_name(errno)}: {message}" if errno else f"{step}: {message}"
        super().__init__(named, hint=hint)
        self.step = step
        self.errno = errno


class KtlsUnavailable(KtlsError):
    """Refused before the first key was installed: the only error that permits the relay.

    Attributes:
        code: short, stable name of the reason: a `ReasonCode`, or that of another version.
        sentence: the reason in words, without step and errno.
    """

    exit_code = ExitCode.KTLS
    general_hint = "see why with tlsify check, or drop --ktls=require to use the relay"
    code: str
    sentence: str

    def __init__(
        self, step: str, errno: int, message: str, *, code: str, hint: str | None = None
    ) -> None:
        """Store the arguments of `KtlsError` and the reason's code."""
        super().__init__(step, errno, message, hint=hint)
        self.sentence = message
        self.code = code


class KtlsCommitError(KtlsError):
    """RX is the kernel's but TX was refused: the connection is dead."""

    exit_code = ExitCode.COMMIT
    general_hint = "connect again with --ktls=off"


class RekeyUnsupported(KtlsError):
    """The direction is keyed already and this kernel or version cannot rekey."""

    exit_code = ExitCode.COMMIT
    general_hint = "use Linux 6.14 or later"


class WorkerError(TlsifyError):
    """A server's workers do not start."""

    exit_code = ExitCode.SYSTEM
    general_hint = "see its earlier messages"


# Errors of system calls when a resource is exhausted.
_MORE_FILES = "raise the limit on open files: ulimit -n, LimitNOFILE= of systemd, fs.file-max"
_MORE_MEMORY = "have less run here, or give it more memory"
SHORTAGES = {
    _errno.EMFILE: _MORE_FILES,
    _errno.ENFILE: _MORE_FILES,
    _errno.ENOMEM: _MORE_MEMORY,
    _errno.ENOBUFS: _MORE_MEMORY,
    _errno.ENOSPC: "free some space on the disk; for a socket, raise fs.epoll.max_user_watches",
}


class ResourceError(TlsifyError):
    """No thread, descriptor or memory is available, for this process or on this host."""

    exit_code = ExitCode.SYSTEM
    general_hint = (
        "raise the limit on threads: ulimit -u, TasksMax= of systemd, pids.max of a cgroup"
    )

    def __init__(self, error: OSError | RuntimeError | MemoryError, what: str) -> None:
        """Store Python's error, RuntimeError for a thread that cannot start, and the shortage."""
        if isinstance(error, RuntimeError):
            said = str(error)
            hint = "connect before the program's end" if "interpreter" in said else None
        elif isinstance(error, OSError) and error.errno:
            said, hint = f"{errno_name(error.errno)}: {error.strerror}", SHORTAGES.get(error.errno)
        else:
            said, hint = str(error) or "out of memory", _MORE_MEMORY
        super().__init__(f"{what}: {said}", hint=hint)


def unusable(what: str, error: OSError | ValueError, hint: str) -> ConfigError | ResourceError:
    """Return the error for something that the user has named: its own, or a shortage of ours.

    Args:
        what: cannot be done with it.
        error: of the system call, or Python's before it.
        hint: for all but a shortage.
    """
    if isinstance(error, OSError) and error.errno in SHORTAGES:
        return ResourceError(error, what)
    return ConfigError(f"{what}: {said(error)}", hint=hint)


class DeadlineExceeded(TlsifyError, TimeoutError):
    """The peer took longer than the caller allows.

    Attributes:
        server_name: SNI of the handshake; None if it is not known.
    """

    exit_code = ExitCode.DEADLINE
    general_hint = "the peer may be down, or may not speak TLS on this port"
    server_name: str | None = None


class AgentError(TlsifyError):
    """The agent is absent, refuses, has died, or broke its wire format.

    Attributes:
        untouched: whether the connection is unchanged, so that the handshake can be done without
            the agent. Otherwise it is unknown what was sent, and the connection was closed.
    """

    exit_code = ExitCode.AGENT
    general_hint = "check that tlsify agent runs, and its messages"
    untouched: bool

    def __init__(self, message: str, *, untouched: bool, hint: str | None = None) -> None:
        """Store the message, and whether the connection is untouched."""
        super().__init__(message, hint=hint)
        self.untouched = untouched
