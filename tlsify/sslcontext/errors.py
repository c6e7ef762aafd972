"""Errors of Python's `ssl`, instead of tlsify's own and of OpenSSL's."""

from __future__ import annotations

import contextlib
import copy
import functools
import re
import ssl
from typing import TYPE_CHECKING, Any, TypeVar

from tlsify.codepoints import AlertDescription
from tlsify.errors import (
    ConfigError,
    DeadlineExceeded,
    HandshakeError,
    IdentityError,
    KtlsUnavailable,
    PeerAlert,
    TlsifyError,
    Truncated,
)
from tlsify.tls.openssl import verify_error

if TYPE_CHECKING:
    from collections.abc import Iterator

# Names that `ssl` has for a peer's alerts (openssl/sslerr.h): SSL 3.0's, and two of TLS 1.3.
_SSL3 = {
    AlertDescription.unexpected_message,
    AlertDescription.bad_record_mac,
    AlertDescription.handshake_failure,
    AlertDescription.bad_certificate,
    AlertDescription.unsupported_certificate,
    AlertDescription.certificate_revoked,
    AlertDescription.certificate_expired,
    AlertDescription.certificate_unknown,
    AlertDescription.illegal_parameter,
}
_TLS1_3 = {AlertDescription.missing_extension, AlertDescription.certificate_required}
# Names for what tlsify finds before OpenSSL sees it.
_OURS = {
    AlertDescription.unexpected_message: "WRONG_VERSION_NUMBER",
    AlertDescription.protocol_version: "WRONG_VERSION_NUMBER",
    AlertDescription.record_overflow: "PACKET_LENGTH_TOO_LONG",
}
_NO_CERTIFICATE = "PEER_DID_NOT_RETURN_A_CERTIFICATE"
# X509_V_ERR_UNSPECIFIED, openssl/x509_vfy.h.
_UNSPECIFIED = 1

Kind = TypeVar("Kind", bound=ssl.SSLError)


def ssl_error(error: TlsifyError, *, is_established: bool = False) -> OSError:
    """Return the error of `ssl` that programs expect in the place of tlsify's.

    Its attributes and the beginning of its text are those that `ssl` gives; tlsify's own text
    follows.

    Args:
        error: tlsify's.
        is_established: whether the handshake is over: the peer speaks TLS then, whatever it sent.
    """
    if isinstance(error, DeadlineExceeded):
        return error
    if isinstance(error, Truncated):
        said = f"EOF occurred in violation of protocol: {error}"
        return made(ssl.SSLEOFError, ssl.SSL_ERROR_EOF, "UNEXPECTED_EOF_WHILE_READING", said)
    reason = _reason(error, is_established=is_established)
    if isinstance(error, IdentityError) and reason != _NO_CERTIFICATE:
        said = f"certificate verify failed: {error}"
        kind = ssl.SSLCertVerificationError
        refused = made(kind, ssl.SSL_ERROR_SSL, "CERTIFICATE_VERIFY_FAILED", said)
        refused.verify_code = code = error.verify_code or _UNSPECIFIED
        refused.verify_message = str(error) if error.mismatches else verify_error(code)
        return refused
    if isinstance(error, HandshakeError):
        return made(ssl.SSLError, ssl.SSL_ERROR_SSL, reason, str(error))
    return made(ssl.SSLError, ssl.SSL_ERROR_SSL, reason, str(error), library="tlsify")


def made(
    kind: type[Kind],
    number: int,
    reason: str | None,
    said: str,
    *,
    library: str | None = "SSL",
) -> Kind:
    """Make an error as `ssl` does, with the attributes that it sets (Modules/_ssl.c)."""
    where = ": ".join(filter(None, (library, reason)))
    error: Any = kind(int(number), f"[{where}] {said}" if where else said)
    error.library, error.reason = library, reason
    finished: Kind = error
    return finished


def again(error: OSError) -> OSError:
    """Return a copy of an error without what has led to it: to keep, or to raise anew.

    A traceback would keep its frames, and what these work on, and gets longer with each raise.
    """
    return copy.copy(error)


@functools.cache
def _config_error(kind: Any) -> Any:
    """Return the class of errors that are a ConfigError and of another kind."""
    body = {
        "__str__": lambda self: self.args[0],
        "__module__": ConfigError.__module__,
        "__reduce__": lambda self: (_blank, (kind,), ConfigError.__reduce__(self)[2]),
    }
    return type("ConfigError", (ConfigError, kind), body)


def _blank(kind: Any) -> Any:
    """Return such an error, of which pickle and copy set the attributes."""
    found = _config_error(kind)
    return found.__new__(found)


@contextlib.contextmanager
def setting(kind: type[Exception] = ssl.SSLError) -> Iterator[None]:
    """Raise a ConfigError that is of the kind that `ssl` raises for a bad setting, too.

    Programs expect its own errors, and those of the system where a file cannot be read.

    Args:
        kind: where no file is at fault.
    """
    try:
        yield
    except ConfigError as exc:
        cause = exc.__cause__
        wanted: Any = type(cause) if isinstance(cause, OSError) else kind
        error = _config_error(wanted)(str(exc), hint=exc.hint)
        if isinstance(cause, OSError):
            error.errno, error.strerror = cause.errno, cause.strerror
            error.filename = cause.filename
        raise error from exc


class _SocketWantsRead(ssl.SSLWantReadError, BlockingIOError):
    """SSLWantReadError that asyncio's loops take for what it is."""


class _SocketWantsWrite(ssl.SSLWantWriteError, BlockingIOError):
    """SSLWantWriteError, likewise."""


def would_block(*, reading: bool) -> OSError:
    """Return the error of a non-blocking socket: `ssl`'s, and at the same time any socket's."""
    return want_read(_SocketWantsRead) if reading else want_write(_SocketWantsWrite)


def want_read(kind: type[ssl.SSLWantReadError] = ssl.SSLWantReadError) -> ssl.SSLWantReadError:
    """Return the error for a call that needs more from the peer."""
    said = "The operation did not complete (read)"
    return made(kind, ssl.SSL_ERROR_WANT_READ, None, said, library=None)


def want_write(kind: type[ssl.SSLWantWriteError] = ssl.SSLWantWriteError) -> ssl.SSLWantWriteError:
    """Return the error for a call that needs room to write."""
    said = "The operation did not complete (write)"
    return made(kind, ssl.SSL_ERROR_WANT_WRITE, None, said, library=None)


def both_closed() -> ssl.SSLZeroReturnError:
    """Return the error for a call to read where both sides have sent close_notify."""
    said = "TLS/SSL connection has been closed (EOF)"
    return made(ssl.SSLZeroReturnError, ssl.SSL_ERROR_ZERO_RETURN, None, said, library=None)


def _reason(error: TlsifyError, *, is_established: bool) -> str | None:
    """Return the name that `ssl` has for an error, in capitals; None if it has none."""
    if isinstance(error, KtlsUnavailable):
        return error.code.upper().replace("-", "_")
    alert: AlertDescription | None = getattr(error, "alert", None)
    if isinstance(error, PeerAlert):
        if alert is None:
            return None
        kind = "SSLV3" if alert in _SSL3 else "TLSV13" if alert in _TLS1_3 else "TLSV1"
        return f"{kind}_ALERT_{alert.name.upper()}"
    # OpenSSL's error queue, as pyOpenSSL's exception has it: TLS's first entry is what happened.
    cause = error.__cause__
    queue = cause.args[0] if cause is not None and cause.args else None
    if isinstance(queue, list) and queue:
        words = next((entry[2] for entry in queue if entry[0] == "SSL routines"), queue[-1][2])
        return re.sub("[^A-Z0-9]+", "_", words.upper())
    if alert is None:
        return None
    return alert.name.upper() if is_established else _OURS.get(alert, alert.name.upper())
