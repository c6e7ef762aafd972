"""Tests of unbound."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL

from tests.doubles import EnginePair
from tlsify.tls import unbound

if TYPE_CHECKING:
    from tlsify.config import ClientConfig, ServerConfig


def _connection() -> SSL.Connection:
    return SSL.Connection(SSL.Context(SSL.TLS_METHOD), None)


def test_new_connection() -> None:
    """What has not shaken hands has not resumed."""
    assert unbound.session_reused(_connection()) is False


def test_no_session_yet() -> None:
    """Before a handshake there is no session, and nothing to write."""
    assert unbound.current_session(_connection()) is None
    assert unbound.dump_session(_connection()) is None


def test_session_written_and_read(client_config: ClientConfig, server_config: ServerConfig) -> None:
    """A session can be loaded into a connection of any Context, and is the same there."""
    pair = EnginePair(client_config, server_config)
    pair.run()
    established = pair.client.take_connection()
    der = unbound.dump_session(established)
    assert der is not None
    connection = _connection()
    assert unbound.load_session(connection, der)
    assert unbound.dump_session(connection) == der
    assert unbound.current_session(established) == unbound.current_session(established)
    assert unbound.current_session(connection) != unbound.current_session(established)


@given(st.binary(max_size=100))
def test_rubbish_for_a_session(rubbish: bytes) -> None:
    """What is no session is refused, and leaves nothing in OpenSSL's queue."""
    connection = _connection()
    assert not unbound.load_session(connection, rubbish)
    assert unbound._lib.ERR_peek_error() == 0
    connection.set_connect_state()
    with pytest.raises(SSL.WantReadError):
        connection.do_handshake()


@pytest.mark.parametrize(("number", "words"), [(0, "ok"), (10, "certificate has expired")])
def test_verify_error(number: int, words: str) -> None:
    """The words are OpenSSL's own."""
    assert unbound.verify_error(number) == words


def test_library_without_the_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build of cryptography that binds less costs information, not the connection."""
    monkeypatch.setattr(unbound, "_lib", SimpleNamespace())
    assert unbound.session_reused(_connection()) is False
    assert unbound.current_session(_connection()) is None
    assert unbound.dump_session(_connection()) is None
    assert unbound.load_session(_connection(), b"") is False
    assert unbound.verify_error(10) == "X.509 verification error 10"
