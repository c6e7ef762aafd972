"""Functions of OpenSSL without a public name in pyOpenSSL; each degrades if absent."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from OpenSSL import SSL, _util, crypto

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_lib, _ffi = _util.lib, _util.ffi
# pyOpenSSL's weak references to its connections, by OpenSSL's own; to call one is all it takes.
_connections: Any = getattr(getattr(SSL.Connection, "_reverse_mapping", None), "data", None)
_TELLING = SSL.SSL_CB_ALERT | SSL.SSL_CB_EXIT
# The one letter by which CLIENT_TRAFFIC_SECRET_0 and its like differ from other labels.
_TRAFFIC_AT, _TRAFFIC = 7, b"T"
_MASTER_SECRET = 48  # bytes, RFC 5246 8.1
_NO_START_LINE = 108  # PEM_R_NO_START_LINE, openssl/pemerr.h
_ROOM = 2**14  # several times what one side says at a time in a handshake
# Memory that no call has at the moment: others run while OpenSSL copies.
_rooms: list[object] = []


def advance(connection: SSL.Connection, records: bytes) -> tuple[bool, bytes]:
    """Go on with the handshake of a connection without a socket.

    The public methods take an exception each to say that more has to come, and that this was all.

    Args:
        connection: after an error, what it has to say is still in it (`drain`).
        records: what has come, in whole records; none to begin with.

    Returns:
        Whether the handshake is finished, and what the peer has to be sent.

    Raises:
        SSL.Error: the handshake failed.
    """
    if not hasattr(_lib, "SSL_do_handshake"):
        return _advance_in_public(connection, records)
    ssl = connection._ssl
    if records and _lib.BIO_write(connection._into_ssl, records, len(records)) <= 0:
        raise MemoryError
    result = _lib.SSL_do_handshake(ssl)
    if result != 1 and _lib.SSL_get_error(ssl, result) != _lib.SSL_ERROR_WANT_READ:
        connection._raise_ssl_error(ssl, result)
    return result == 1, drain(connection)


def _advance_in_public(connection: SSL.Connection, records: bytes) -> tuple[bool, bytes]:
    is_finished = False
    if records:
        connection.bio_write(records)
    with contextlib.suppress(SSL.WantReadError):
        connection.do_handshake()
        is_finished = True
    return is_finished, _drain_in_public(connection)


def drain(connection: SSL.Connection) -> bytes:
    """Return the output of a connection without a socket, empty if there is none."""
    if not hasattr(_lib, "BIO_read"):
        return _drain_in_public(connection)
    try:
        room = _rooms.pop()
    except IndexError:
        room = _ffi.new("char[]", _ROOM)
    output = b""
    while (count := _lib.BIO_read(connection._from_ssl, room, _ROOM)) > 0:
        output += _ffi.unpack(room, count)
        if count < _ROOM:
            break
    _rooms.append(room)
    return output


def _drain_in_public(connection: SSL.Connection) -> bytes:
    output = b""
    try:
        while True:
            output += connection.bio_read(_ROOM)
    except SSL.WantReadError:
        return output


def observe(connection: SSL.Connection) -> None:
    """Have OpenSSL report alerts, and steps that are done, to a connection's app data.

    It reports every step of a handshake, and the public ``Context.set_info_callback`` looks up the
    connection for each of them, wanted or not.
    """
    if _telling is not None:
        _lib.SSL_set_info_callback(connection._ssl, _telling)


def observe_all(context: SSL.Context) -> None:
    """Do it for all connections of a Context not yet in use, where `observe` cannot."""
    if _telling is None:
        context.set_info_callback(_tell)


def _tell(connection: SSL.Connection, where: int, value: int) -> None:
    observer = connection.get_app_data()
    if where & SSL.SSL_CB_ALERT:
        observer.on_alert(sent=bool(where & SSL.SSL_CB_WRITE), description=value & 0xFF)
    elif where & SSL.SSL_CB_EXIT and value == 1:
        observer.on_message()


def _tell_some(ssl: object, where: int, value: int) -> None:
    if where & _TELLING:
        _tell(_connections[ssl](), where, value)


_telling = None
if _connections is not None and hasattr(_lib, "SSL_set_info_callback"):
    _telling = _ffi.callback("void (*)(const SSL *, int, int)", _tell_some)


def log_keys(context: SSL.Context, *, whole: bool) -> None:
    """Have OpenSSL tell of a Context's secrets: ``on_key_log`` of a connection's app data.

    The public ``Context.set_keylog_callback`` has three more calls between, for each of five lines.

    Args:
        context: not yet in use.
        whole: whether all lines are wanted, or only those of application traffic.
    """
    if _connections is None or not hasattr(_lib, "SSL_CTX_set_keylog_callback"):
        context.set_keylog_callback(_tell_key_log)
        return

    def tell(ssl: object, line: Sequence[bytes]) -> None:
        if whole or line[_TRAFFIC_AT] == _TRAFFIC:
            _connections[ssl]()._app_data.on_key_log(_ffi.string(line))

    held = _ffi.callback("void (*)(const SSL *, const char *)", tell)
    context._keylog_callback = held
    _lib.SSL_CTX_set_keylog_callback(context._context, held)


def _tell_key_log(connection: SSL.Connection, line: bytes) -> None:
    connection.get_app_data().on_key_log(line)


def master_key(connection: SSL.Connection) -> bytearray:
    """Return the master secret of a TLS 1.2 connection, or nothing: the one copy of it."""
    if not hasattr(_lib, "SSL_SESSION_get_master_key") or not hasattr(_lib, "SSL_get_session"):
        return bytearray(connection.master_key() or b"")
    secret = bytearray(_MASTER_SECRET)
    session = _lib.SSL_get_session(connection._ssl)
    room = _ffi.from_buffer(secret)
    size = 0 if session == _ffi.NULL else _lib.SSL_SESSION_get_master_key(session, room, len(room))
    _ffi.release(room)
    return secret if size == len(secret) else bytearray()


def session_reused(connection: SSL.Connection) -> bool:
    """Return whether the handshake resumed a session; False if that cannot be known."""
    if not hasattr(_lib, "SSL_session_reused"):
        return False
    return bool(_lib.SSL_session_reused(connection._ssl))


def current_session(connection: SSL.Connection) -> object | None:
    """Return a connection's session, to be told from a later one; None if that cannot be known.

    OpenSSL replaces the session with each TLS 1.3 ticket. A caller that keeps the result can
    rely on its address not being used again meanwhile.
    """
    if not hasattr(_lib, "SSL_get1_session") or not hasattr(_lib, "SSL_SESSION_free"):
        return None
    session = _lib.SSL_get1_session(connection._ssl)
    if session == _ffi.NULL:
        return None
    held: object = _ffi.gc(session, _lib.SSL_SESSION_free)
    return held


def dump_session(connection: SSL.Connection) -> bytes | None:
    """Write a connection's session, secrets included, as OpenSSL's own DER; None if it cannot."""
    if not hasattr(_lib, "SSL_get_session") or not hasattr(_lib, "i2d_SSL_SESSION"):
        return None
    session = _lib.SSL_get_session(connection._ssl)
    size = 0 if session == _ffi.NULL else _lib.i2d_SSL_SESSION(session, _ffi.NULL)
    if size <= 0:
        return None
    buffer = _ffi.new("unsigned char[]", size)
    _lib.i2d_SSL_SESSION(session, _ffi.new("unsigned char **", buffer))
    return bytes(_ffi.buffer(buffer, size))


def load_session(connection: SSL.Connection, der: bytes) -> bool:
    """Make a client offer a session from `dump_session`; return False if OpenSSL refuses it.

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
        loaded = _lib.SSL_set_session(connection._ssl, session) == 1
        _lib.SSL_SESSION_free(session)  # the connection has its own reference
    # pyOpenSSL would blame what is left in the queue on the next call.
    _lib.ERR_clear_error()
    return loaded


def read_as_found(pem: bytes) -> list[crypto.X509] | None:
    """Read a PEM file as OpenSSL does one in a folder that it looks into; None if it would fail.

    It is also None where that cannot be known.

    Source: X509_load_cert_file_ex in crypto/x509/by_file.c.
    """
    names = ("BIO_new_mem_buf", "BIO_free", "PEM_read_bio_X509", "ERR_peek_error", "ERR_GET_REASON")
    made = getattr(crypto.X509, "_from_raw_x509_ptr", None)
    if made is None or not all(hasattr(_lib, name) for name in names):
        return None
    held = _ffi.from_buffer(pem)
    source = _ffi.gc(_lib.BIO_new_mem_buf(held, len(pem)), _lib.BIO_free)
    found = []
    nothing = _ffi.NULL
    while (read := _lib.PEM_read_bio_X509(source, nothing, nothing, nothing)) != nothing:
        found.append(made(read))
    is_end = _lib.ERR_GET_REASON(_lib.ERR_peek_error()) == _NO_START_LINE
    _lib.ERR_clear_error()
    return found if is_end else None


def default_places() -> tuple[str, str]:
    """Return the file and the folder where OpenSSL looks for trust anchors by default."""
    wanted = "X509_get_default_cert_file", "X509_get_default_cert_dir"
    found = [_ffi.string(getattr(_lib, name)()).decode() for name in wanted if hasattr(_lib, name)]
    file, folder = found if len(found) == len(wanted) else ("", "")
    return file, folder


def set_groups(context: SSL.Context, names: Iterable[str]) -> bool:
    """Set a Context's groups, in order of preference; return False if OpenSSL lacks one."""
    if not hasattr(_lib, "SSL_CTX_set1_curves_list"):
        return False
    done: bool = _lib.SSL_CTX_set1_curves_list(context._context, ":".join(names).encode()) == 1
    _lib.ERR_clear_error()
    return done


def share_trust(context: SSL.Context, source: SSL.Context) -> bool:
    """Share another Context's trust anchors and lists; return False if impossible."""
    wanted = ("SSL_CTX_get_cert_store", "SSL_CTX_set_cert_store", "X509_STORE_up_ref")
    if not all(hasattr(_lib, name) for name in wanted):
        return False
    store = _lib.SSL_CTX_get_cert_store(source._context)
    _lib.X509_STORE_up_ref(store)  # the next call takes a reference over
    _lib.SSL_CTX_set_cert_store(context._context, store)
    return True


def move(connection: SSL.Connection, context: SSL.Context, tickets: bytes) -> None:
    """Switch a new connection to another Context's certificates, with its own tickets only.

    OpenSSL copies what tells the tickets of one purpose from those of another together with the
    certificates; it has no public way to set it for a single connection. So no other code may use
    the Context meanwhile.

    Args:
        connection: that has not shaken hands.
        context: has the certificates that it is to show.
        tickets: 1 to 32 bytes for which tickets are made, and without which they are not taken.

    Source: SSL_set_SSL_CTX in ssl/ssl_lib.c.
    """
    if hasattr(_lib, "SSL_CTX_set_session_id_context"):
        _lib.SSL_CTX_set_session_id_context(context._context, tickets, len(tickets))
    else:
        connection.set_options(_lib.SSL_OP_NO_TICKET)
    connection.set_context(context)


def verify_error(number: int) -> str:
    """Return OpenSSL's words for an X509_V_ERR number."""
    if not hasattr(_lib, "X509_verify_cert_error_string"):
        return f"X.509 verification error {number}"
    words: bytes = _ffi.string(_lib.X509_verify_cert_error_string(number))
    return words.decode("ascii", "replace")
