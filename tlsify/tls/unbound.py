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


def current_session(connection: SSL.Connection) -> object | None:
    """Give a connection's session, to be told from a later one; None if that cannot be known.

    OpenSSL replaces the session with each TLS 1.3 ticket. Whoever holds on to what this gives can
    rely on its address not being used again meanwhile.
    """
    if not hasattr(_lib, "SSL_get1_session") or not hasattr(_lib, "SSL_SESSION_free"):
        return None
    session = _lib.SSL_get1_session(connection._ssl)  # noqa: SLF001
    if session == _ffi.NULL:
        return None
    held: object = _ffi.gc(session, _lib.SSL_SESSION_free)
    return held


def dump_session(connection: SSL.Connection) -> bytes | None:
    """Write a connection's session, secrets included, as OpenSSL's own DER; None if it cannot."""
    if not hasattr(_lib, "SSL_get_session") or not hasattr(_lib, "i2d_SSL_SESSION"):
        return None
    session = _lib.SSL_get_session(connection._ssl)  # noqa: SLF001
    size = 0 if session == _ffi.NULL else _lib.i2d_SSL_SESSION(session, _ffi.NULL)
    if size <= 0:
        return None
    buffer = _ffi.new("unsigned char[]", size)
    _lib.i2d_SSL_SESSION(session, _ffi.new("unsigned char **", buffer))
    return bytes(_ffi.buffer(buffer, size))


def load_session(connection: SSL.Connection, der: bytes) -> bool:
    """Have a client offer what `dump_session` wrote; False if OpenSSL does not take it.

    The public ``Connection.set_session`` wants a session of the same Context, which one out of a
    file never is.
    """
    wanted = ("d2i_SSL_SESSION", "SSL_set_session", "SSL_SESSION_free", "ERR_clear_error")
    if not all(hasattr(_lib, name) for name in wanted):
        return False
    start = _ffi.new("unsigned char[]", der)
    session = _lib.d2i_SSL_SESSION(_ffi.NULL, _ffi.new("const unsigned char **", start), len(der))
    loaded: bool = session != _ffi.NULL
    if loaded:
        loaded = _lib.SSL_set_session(connection._ssl, session) == 1  # noqa: SLF001
        _lib.SSL_SESSION_free(session)  # the connection has its own reference
    # pyOpenSSL would blame what is left in the queue on the next call.
    _lib.ERR_clear_error()
    return loaded


def verify_error(number: int) -> str:
    """Give OpenSSL's words for an X509_V_ERR number."""
    if not hasattr(_lib, "X509_verify_cert_error_string"):
        return f"X.509 verification error {number}"
    words: bytes = _ffi.string(_lib.X509_verify_cert_error_string(number))
    return words.decode("ascii", "replace")
