"""Tests of errors."""

from __future__ import annotations

import copy
import errno
import pickle
from typing import TYPE_CHECKING

import pytest

from tlsify import errors
from tlsify.codepoints import AlertDescription
from tlsify.errors import (
    AgentError,
    BackendError,
    ConfigError,
    ConnectionCut,
    DeadlineExceeded,
    ExitCode,
    HandshakeError,
    IdentityError,
    KeyHolderError,
    KeyUpdateRefused,
    KtlsCommitError,
    KtlsError,
    KtlsUnavailable,
    NetworkError,
    NoCertificate,
    PeerAlert,
    PeerMisbehaved,
    ProxyHeaderError,
    RekeyUnsupported,
    ResourceError,
    TlsifyError,
    Truncated,
    UsageError,
    WorkerError,
    errno_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable

EXIT_CODES = {
    AgentError: ExitCode.AGENT,
    TlsifyError: ExitCode.BUG,
    ConfigError: ExitCode.CONFIG,
    UsageError: ExitCode.USAGE,
    KeyHolderError: ExitCode.SYSTEM,
    NoCertificate: ExitCode.CONFIG,
    NetworkError: ExitCode.NETWORK,
    BackendError: ExitCode.NETWORK,
    HandshakeError: ExitCode.HANDSHAKE,
    PeerAlert: ExitCode.HANDSHAKE,
    PeerMisbehaved: ExitCode.HANDSHAKE,
    ProxyHeaderError: ExitCode.HANDSHAKE,
    KeyUpdateRefused: ExitCode.HANDSHAKE,
    IdentityError: ExitCode.IDENTITY,
    Truncated: ExitCode.CLOSED,
    ConnectionCut: ExitCode.CLOSED,
    KtlsError: ExitCode.BUG,
    KtlsUnavailable: ExitCode.KTLS,
    KtlsCommitError: ExitCode.COMMIT,
    RekeyUnsupported: ExitCode.COMMIT,
    DeadlineExceeded: ExitCode.DEADLINE,
    WorkerError: ExitCode.SYSTEM,
    ResourceError: ExitCode.SYSTEM,
}


def test_every_exception_is_listed_here() -> None:
    """No exception exists whose exit code is not tested."""
    defined = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert defined == set(EXIT_CODES)


@pytest.mark.parametrize("kind", EXIT_CODES)
def test_exit_code(kind: type[TlsifyError]) -> None:
    """Each exception ends the command with its documented status."""
    assert kind.exit_code is EXIT_CODES[kind]


def test_exit_codes_collide_with_no_program() -> None:
    """Failures of tlsify are above 95, shell conventions excepted."""
    assert all(code == 0 or code >= 96 for code in ExitCode)


def test_no_hint_given() -> None:
    """Without a hint of its own an error gives its class's."""
    assert ConfigError("broken").hint == ConfigError.general_hint
    assert ConfigError("broken", hint="mend it").hint == "mend it"


@pytest.mark.parametrize("kind", EXIT_CODES)
def test_every_class_has_a_hint(kind: type[TlsifyError]) -> None:
    """Whatever happens, the user is told what to do."""
    assert kind.general_hint


@pytest.mark.parametrize("kind", [HandshakeError, PeerAlert, PeerMisbehaved, Truncated])
def test_alert_is_kept(kind: type[HandshakeError]) -> None:
    """A handshake error knows its alert, or that there was none."""
    error = kind("no", alert=AlertDescription.decode_error)
    assert str(error) == "no"
    assert error.alert is AlertDescription.decode_error
    assert kind("no").alert is None


def test_mismatches_are_kept() -> None:
    """An identity error lists what was presented instead."""
    error = IdentityError("no", mismatches=["dns:a", "dns:b"], alert=AlertDescription.unknown_ca)
    assert error.mismatches == ("dns:a", "dns:b")
    assert error.alert is AlertDescription.unknown_ca


def test_kernel_said_why() -> None:
    """The line names step and errno."""
    error = KtlsError("TLS_TX", errno.EINVAL, "refused")
    assert str(error) == "TLS_TX: EINVAL: refused"
    assert (error.step, error.errno) == ("TLS_TX", errno.EINVAL)


def test_refused_before_asking_the_kernel() -> None:
    """Without an errno the line names the step only."""
    error = KtlsUnavailable("TCP_ULP", 0, "known bad", code="bad-kernel")
    assert str(error) == "TCP_ULP: known bad"
    assert (error.code, error.sentence) == ("bad-kernel", "known bad")


def _made(kind: type[TlsifyError]) -> TlsifyError:
    """Make an error with all that it can have."""
    error: TlsifyError
    if issubclass(kind, KtlsUnavailable):
        error = kind("TCP_ULP", errno.ENOENT, "no", code="no-tls-ulp", hint="mend it")
    elif issubclass(kind, KtlsError):
        error = kind("TLS_TX", errno.EINVAL, "no", hint="mend it")
    elif issubclass(kind, ConnectionCut):
        error = kind(OSError(errno.ETIMEDOUT, "timed out"), "sendmsg: ")
    elif issubclass(kind, ResourceError):
        error = kind(OSError(errno.EMFILE, "too many"), "no descriptor")
    elif issubclass(kind, AgentError):
        error = kind("no", untouched=True)
    elif issubclass(kind, IdentityError):
        error = kind("no", mismatches=["dns:a"], alert=AlertDescription.unknown_ca)
    elif issubclass(kind, HandshakeError):
        error = kind("no", alert=AlertDescription.decode_error)
    else:
        error = kind("no", hint="mend it")
    error.add_note("on a connection")
    return error


@pytest.mark.parametrize("kind", EXIT_CODES)
@pytest.mark.parametrize("copied", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_copies(kind: type[TlsifyError], copied: Callable[[TlsifyError], TlsifyError]) -> None:
    """An error is the same on the other side of a process pool, which hangs at one that is not."""
    error = _made(kind)
    found = copied(error)
    assert type(found) is kind
    assert (str(found), found.args, vars(found)) == (str(error), error.args, vars(error))


@pytest.mark.parametrize(
    ("number", "name"), [(errno.ENOENT, "ENOENT"), (127, "EKEYEXPIRED"), (99999, "errno 99999")]
)
def test_errno_name(number: int, name: str) -> None:
    """Every errno has a name, an unassigned one its number."""
    assert errno_name(number) == name


def test_deadline_is_a_timeout() -> None:
    """Callers that expect the standard library's exception catch ours."""
    with pytest.raises(TimeoutError):
        raise DeadlineExceeded("late")
