"""What OpenSSL offers and pyOpenSSL has no public name for; each piece degrades if it is absent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from OpenSSL import _util

if TYPE_CHECKING:
    from OpenSSL import SSL

_lib, _ffi = _util.lib, _util.ffi


def session_reused(connection: SSL.Connection) -> bool:
    """Tell whether the handshake resumed a session; False if that cannot be known."""
    if not hasattr(_lib, "SSL_session_reused"):
        return False
    return bool(_lib.SSL_session_reused(connection._ssl))  # noqa: SLF001 - the reason for this module


def verify_error(number: int) -> str:
    """Give OpenSSL's words for an X509_V_ERR number."""
    if not hasattr(_lib, "X509_verify_cert_error_string"):
        return f"X.509 verification error {number}"
    words: bytes = _ffi.string(_lib.X509_verify_cert_error_string(number))
    return words.decode("ascii", "replace")
