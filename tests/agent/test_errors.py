"""Tests of errors."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlsify import errors
from tlsify.agent import wire
from tlsify.agent.errors import NUMBERS, describe, revive
from tlsify.codepoints import AlertDescription

ERRORS: list[errors.TlsifyError] = [
    errors.TlsifyError("bug"),
    errors.ConfigError("broken", hint="mend it"),
    errors.NetworkError("nobody"),
    errors.HandshakeError("no"),
    errors.PeerAlert("no", alert=AlertDescription.handshake_failure),
    errors.PeerMisbehaved("no", alert=AlertDescription.decode_error),
    errors.KeyUpdateRefused("no"),
    errors.IdentityError("no", mismatches=["dns:a", "dns:b"], alert=AlertDescription.unknown_ca),
    errors.Truncated("cut"),
    errors.KtlsError("recvmsg", errno.EBADMSG, "bad"),
    errors.KtlsUnavailable("TCP_ULP", errno.ENOENT, "none", code="no-tls-ulp", hint="get it"),
    errors.KtlsCommitError("TLS_TX", errno.EINVAL, "no"),
    errors.RekeyUnsupported("relay", 0, "no"),
    errors.AgentError("gone", untouched=True),
    errors.DeadlineExceeded("slow"),
    errors.WorkerError("none"),
    errors.BackendError("down"),
    errors.ConnectionCut(OSError(errno.ECONNRESET, "reset")),
    errors.ResourceError(OSError(errno.EMFILE, "too many"), "no relay"),
    errors.KeyHolderError("gone"),
    errors.UsageError("no such word"),
    errors.ProxyHeaderError("none"),
    errors.NoCertificate("not yet"),
]


def across(error: errors.TlsifyError | OSError | None) -> errors.TlsifyError | OSError | None:
    """Send an error over the wire."""
    return revive(wire.decode(wire.encode(describe(error, wire.Failed)), wire.Failed))


def test_every_error_has_a_number() -> None:
    """No class of errors is left out."""
    defined = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.TlsifyError)
    }
    assert defined | {OSError} == set(NUMBERS.values())
    assert {type(error) for error in ERRORS} == defined


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_error_comes_back(error: errors.TlsifyError) -> None:
    """It is of the same class, says the same, and has the same attributes and exit code."""
    other = across(error)
    assert type(other) is type(error)
    assert (str(other), vars(other)) == (str(error), vars(error))


@pytest.mark.parametrize(
    "error",
    [ConnectionResetError(errno.ECONNRESET, "reset"), BrokenPipeError(errno.EPIPE, "broken")],
)
def test_system_error_comes_back(error: OSError) -> None:
    """So do errors of the system."""
    other = across(error)
    assert type(other) is type(error)
    assert isinstance(other, OSError)
    assert (other.errno, other.strerror) == (error.errno, error.strerror)


def test_no_error() -> None:
    """The absence of one, too."""
    assert across(None) is None


def test_unknown_class() -> None:
    """An error of a class that has no number is at least a bug."""

    class Odd(errors.ConfigError):
        pass

    assert type(across(Odd("odd"))) is errors.ConfigError


def test_unknown_number() -> None:
    """A number that a later version may have is no reason to go on."""
    with pytest.raises(errors.AgentError, match="error 99"):
        revive(wire.Failed(error=99))


@given(st.text(max_size=50), st.integers(0, 2**9), st.integers(0, 2**17))
def test_peers_words_always_arrive(name: str, count: int, length: int) -> None:
    """However many names a peer presents, and whatever is in them: the error fits."""
    error = errors.IdentityError("x" * length, mismatches=[name + "y" * 300] * count)
    other = across(error)
    assert isinstance(other, errors.IdentityError)
    assert len(other.mismatches) == min(count, 2**7)
