"""Tests of room."""

from __future__ import annotations

import pytest
from OpenSSL import SSL

from tlsify.tls import room as room_module
from tlsify.tls.room import RecordBuffer, lend, records_waiting, seal, write_whole


def pair() -> tuple[SSL.Connection, SSL.Connection]:
    """Make a client that has said hello, and a server that has not heard it."""
    made = []
    for begin in (SSL.Connection.set_connect_state, SSL.Connection.set_accept_state):
        connection = SSL.Connection(SSL.Context(SSL.TLS_METHOD))
        begin(connection)
        made.append(connection)
    with pytest.raises(SSL.WantReadError):
        made[0].do_handshake()
    return made[0], made[1]


def test_records_in_pieces() -> None:
    """What does not fit comes with the next call; what is in front of the offset stays."""
    client, _ = pair()
    size = records_waiting(client)
    room = RecordBuffer(size - 10)
    room.view[:2] = b"ab"
    assert room.read_records(client, 2) == size - 12
    assert bytes(room.view[:4]) == b"ab\x16\x03"
    assert records_waiting(client) == 12
    assert room.read_records(client, 0) == 12
    assert room.read_records(client, 0) == records_waiting(client) == 0


def test_nothing_to_read() -> None:
    """It takes no exception to say so."""
    client, _ = pair()
    assert RecordBuffer(100).read_plaintext(client, 0) == 0


def test_error_of_openssl() -> None:
    """It is the one that pyOpenSSL raises, and is told once."""
    _, server = pair()
    server.bio_write(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(SSL.Error, match="http request"):
        RecordBuffer(100).read_plaintext(server, 0)


def test_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the functions that pyOpenSSL does not use itself, there is less to know."""
    client, _ = pair()
    monkeypatch.setattr(room_module, "_lib", object())
    assert records_waiting(client) == 0
    write_whole(client)


def test_records_that_are_read_where_they_are() -> None:
    """What comes in pieces is one stream, and each piece may go once it has been read."""
    client, server = pair()
    hello = RecordBuffer(2**14)
    size = hello.read_records(client, 0)
    errors = []
    for start, end in ((0, 3), (3, 50), (50, size)):
        piece = hello.view[start:end]
        lend(server, piece)
        with pytest.raises(SSL.Error) as found:
            server.do_handshake()
        errors.append(found.type)
        piece[:] = bytes(len(piece))
    # All of it is understood: the server has no certificate to answer with.
    assert errors == [SSL.WantReadError, SSL.WantReadError, SSL.Error]


def test_error_of_a_send() -> None:
    """It is pyOpenSSL's, too: here that the handshake is not finished."""
    client, _ = pair()
    with pytest.raises(SSL.WantReadError):
        seal(client, b"data")
