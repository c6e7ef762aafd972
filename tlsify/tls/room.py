"""Buffers that OpenSSL reads and writes directly, and that sockets receive into and send from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from OpenSSL import _util

if TYPE_CHECKING:
    from OpenSSL import SSL

_lib, _ffi = _util.lib, _util.ffi
_anywhere = _ffi.new("char **")  # for an address that nothing reads


class RecordBuffer:
    """A buffer of a fixed size.

    pyOpenSSL's own methods take new memory for each record, and copy once more.

    Attributes:
        view: all of it, writable.
    """

    def __init__(self, size: int) -> None:
        """Make one of so many bytes."""
        self.view = memoryview(bytearray(size))
        self._start = _ffi.from_buffer(self.view)

    def read_plaintext(self, connection: SSL.Connection, offset: int) -> int:
        """Read as ``Connection.recv_into``, from an offset on: one record at most.

        Returns:
            How many bytes; 0 where that has an exception, WantReadError, to say so.

        Raises:
            SSL.Error: as there.
        """
        ssl = connection._ssl
        size: int = _lib.SSL_read(ssl, self._start + offset, len(self.view) - offset)
        if size > 0:
            return size
        if _lib.SSL_get_error(ssl, size) != _lib.SSL_ERROR_WANT_READ:
            connection._raise_ssl_error(ssl, size)
        return 0

    def read_records(self, connection: SSL.Connection, offset: int) -> int:
        """Read as ``Connection.bio_read``, from an offset on; return 0 where that raises."""
        size: int = _lib.BIO_read(
            connection._from_ssl,
            self._start + offset,
            len(self.view) - offset,
        )
        return max(size, 0)


def lend(connection: SSL.Connection, records: bytes | memoryview) -> None:
    """Have OpenSSL read records where they are; ``Connection.bio_write`` would copy them.

    They have to stay until the next call. What came before must have been read: it is forgotten.

    Raises:
        MemoryError: there is no memory.
    """
    bio = _lib.BIO_new_mem_buf(_ffi.from_buffer(records), len(records))
    if bio == _ffi.NULL:
        raise MemoryError
    _lib.BIO_set_mem_eof_return(bio, -1)
    _lib.SSL_set_bio(connection._ssl, bio, connection._from_ssl)
    connection._into_ssl = bio


def seal(connection: SSL.Connection, plaintext: bytes | memoryview) -> int:
    """Write as ``Connection.send``, whose checks cost more than they help here.

    Returns:
        How many bytes, at least one.

    Raises:
        SSL.Error: as there.
    """
    ssl = connection._ssl
    size: int = _lib.SSL_write(ssl, _ffi.from_buffer(plaintext), len(plaintext))
    if size <= 0:
        connection._raise_ssl_error(ssl, size)
    return size


def records_waiting(connection: SSL.Connection) -> int:
    """Return the number of bytes that ``Connection.bio_read`` could return; 0 if unknown."""
    if not hasattr(_lib, "BIO_get_mem_data"):
        return 0
    size: int = _lib.BIO_get_mem_data(connection._from_ssl, _anywhere)
    return size


def write_whole(connection: SSL.Connection) -> None:
    """Let one ``send`` make all the records for its bytes; pyOpenSSL limits it to one."""
    if hasattr(_lib, "SSL_clear_mode"):
        _lib.SSL_clear_mode(connection._ssl, _lib.SSL_MODE_ENABLE_PARTIAL_WRITE)
