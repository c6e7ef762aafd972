"""Tests of errors; what `ssl` itself raises is compared in test_object."""

from __future__ import annotations

import copy
import pickle
import ssl
from typing import NamedTuple

import pytest

from tlsify.codepoints import AlertDescription as Alert
from tlsify.errors import (
    ConfigError,
    DeadlineExceeded,
    HandshakeError,
    IdentityError,
    KtlsError,
    KtlsUnavailable,
    PeerAlert,
    PeerMisbehaved,
    TlsifyError,
    Truncated,
)
from tlsify.sslcontext.errors import setting, ssl_error


class Made(NamedTuple):
    """What programs look at."""

    kind: type[OSError]
    number: int
    library: str
    reason: str | None


_FAILED = "CERTIFICATE_VERIFY_FAILED"
CASES: list[tuple[TlsifyError, Made]] = [
    (
        IdentityError("x", alert=Alert.bad_certificate),
        Made(ssl.SSLCertVerificationError, 1, "SSL", _FAILED),
    ),
    (Truncated("x"), Made(ssl.SSLEOFError, 8, "SSL", "UNEXPECTED_EOF_WHILE_READING")),
    (
        PeerAlert("x", alert=Alert.handshake_failure),
        Made(ssl.SSLError, 1, "SSL", "SSLV3_ALERT_HANDSHAKE_FAILURE"),
    ),
    (
        PeerAlert("x", alert=Alert.unknown_ca),
        Made(ssl.SSLError, 1, "SSL", "TLSV1_ALERT_UNKNOWN_CA"),
    ),
    (
        PeerAlert("x", alert=Alert.certificate_required),
        Made(ssl.SSLError, 1, "SSL", "TLSV13_ALERT_CERTIFICATE_REQUIRED"),
    ),
    (PeerAlert("x"), Made(ssl.SSLError, 1, "SSL", None)),
    (PeerMisbehaved("x", alert=Alert.decode_error), Made(ssl.SSLError, 1, "SSL", "DECODE_ERROR")),
    (HandshakeError("x"), Made(ssl.SSLError, 1, "SSL", None)),
    (KtlsError("TCP_ULP", 1, "x"), Made(ssl.SSLError, 1, "tlsify", None)),
    (
        KtlsUnavailable("TCP_ULP", 1, "x", code="no-tls-ulp"),
        Made(ssl.SSLError, 1, "tlsify", "NO_TLS_ULP"),
    ),
]


@pytest.mark.parametrize(("error", "expected"), CASES)
def test_errors(error: TlsifyError, expected: Made) -> None:
    """Each is one that programs know, with the attributes and the words that they look for."""
    made = ssl_error(error)
    assert isinstance(made, ssl.SSLError)
    assert Made(type(made), made.errno or 0, made.library, made.reason) == expected
    assert str(made).endswith("x")
    assert str(made).startswith(
        f"[{made.library}: {made.reason}] " if made.reason else f"[{made.library}] "
    )


def test_verification() -> None:
    """The number is OpenSSL's, as far as there is one; for a name the text is ours."""
    error = IdentityError("not trusted")
    error.verify_code = 20
    made = ssl_error(error)
    assert isinstance(made, ssl.SSLCertVerificationError)
    assert (made.verify_code, made.verify_message) == (20, "unable to get local issuer certificate")
    assert "certificate verify failed" in str(made)
    named = ssl_error(IdentityError("not that name", mismatches=["dns:other"]))
    assert isinstance(named, ssl.SSLCertVerificationError)
    assert (named.verify_code, named.verify_message) == (1, "not that name")


@pytest.mark.parametrize("kind", [ssl.SSLError, ValueError, FileNotFoundError])
def test_copies_of_settings_errors(kind: type[Exception]) -> None:
    """They are of both kinds in another process, too."""
    error = ConfigError("unusable", hint="mend it")
    if issubclass(kind, OSError):
        error.__cause__ = kind(2, "none", "file")
    with pytest.raises(ConfigError) as caught, setting(kind):
        raise error
    for found in (pickle.loads(pickle.dumps(caught.value)), copy.copy(caught.value)):
        assert type(found) is type(caught.value)
        assert isinstance(found, kind)
        assert (str(found), found.hint) == ("unusable", "mend it")
        for name in ("errno", "strerror", "filename"):
            assert getattr(found, name, None) == getattr(caught.value, name, None)


def test_timeout() -> None:
    """It is one already."""
    error = DeadlineExceeded("x")
    assert ssl_error(error) is error
