"""Errors of Python's `ssl`, in the place of tlsify's own and of OpenSSL's."""

from __future__ import annotations

import copy
import re
import ssl
from typing import Any, TypeVar

from tlsify.codepoints import AlertDescription
from tlsify.errors import (
    DeadlineExceeded,
    HandshakeError,
    IdentityError,
    KtlsUnavailable,
    PeerAlert,
    TlsifyError,
    Truncated,
)
from tlsify.tls.openssl import verify_error

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


def want_read() -> ssl.SSLWantReadError:
    """Return the error for a call that needs more from the peer."""
    said = "The operation did not complete (read)"
    return made(ssl.SSLWantReadError, ssl.SSL_ERROR_WANT_READ, None, said, library=None)


def want_write() -> ssl.SSLWantWriteError:
    """Return the error for a call that needs room to write."""
    said = "The operation did not complete (write)"
    return made(ssl.SSLWantWriteError, ssl.SSL_ERROR_WANT_WRITE, None, said, library=None)


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
