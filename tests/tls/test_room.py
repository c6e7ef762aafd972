"""Tests of room."""

from __future__ import annotations

import pytest
from OpenSSL import SSL

from tlsify.tls import room as room_module
from tlsify.tls.room import RecordBuffer, records_waiting, write_whole


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
