"""Tests of openssl."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL

from tests.doubles import EnginePair
from tlsify.credentials.self_signed import make_key_pair
from tlsify.tls import openssl

if TYPE_CHECKING:
    from tlsify.config import ClientConfig, ServerConfig


def _connection() -> SSL.Connection:
    return SSL.Connection(SSL.Context(SSL.TLS_METHOD), None)


def test_new_connection() -> None:
    """What has not shaken hands has not resumed."""
    assert openssl.session_reused(_connection()) is False


def test_no_session_yet() -> None:
    """Before a handshake there is no session, and nothing to write."""
    assert openssl.current_session(_connection()) is None
    assert openssl.dump_session(_connection()) is None


def test_session_written_and_read(client_config: ClientConfig, server_config: ServerConfig) -> None:
    """A session can be loaded into a connection of any Context, and is the same there."""
    pair = EnginePair(client_config, server_config)
    pair.run()
    established = pair.client.take_connection()
    der = openssl.dump_session(established)
    assert der is not None
    connection = _connection()
    assert openssl.load_session(connection, der)
    assert openssl.dump_session(connection) == der
    assert openssl.current_session(established) == openssl.current_session(established)
    assert openssl.current_session(connection) != openssl.current_session(established)


@given(st.binary(max_size=100))
def test_rubbish_for_a_session(rubbish: bytes) -> None:
    """What is no session is refused, and leaves nothing in OpenSSL's queue."""
    connection = _connection()
    assert not openssl.load_session(connection, rubbish)
    assert openssl._lib.ERR_peek_error() == 0
    connection.set_connect_state()
    with pytest.raises(SSL.WantReadError):
        connection.do_handshake()


@pytest.mark.parametrize("lean", [True, False])
@pytest.mark.parametrize("flights", [0, 1, 200])
def test_drained(monkeypatch: pytest.MonkeyPatch, flights: int, *, lean: bool) -> None:
    """All that is there comes out, however much, with or without what pyOpenSSL hides."""
    connection = _connection()
    flight = bytes(range(256)) * flights
    if flight:
        openssl._lib.BIO_write(connection._from_ssl, flight, len(flight))
    if not lean:
        monkeypatch.setattr(openssl, "_lib", SimpleNamespace())
    assert openssl.drain(connection) == flight
    assert openssl.drain(connection) == b""


class Listener:
    """App data of a connection: what it hears of secrets and alerts."""

    def __init__(self) -> None:
        """Start with nothing."""
        self.lines: list[bytes] = []
        self.alerts: list[int] = []
        self.messages = 0

    def on_key_log(self, line: bytes) -> None:
        """Keep a line."""
        self.lines.append(line)

    def on_alert(self, *, sent: bool, description: int) -> None:
        """Keep an alert that was sent."""
        assert sent
        self.alerts.append(description)

    def on_message(self) -> None:
        """Count it."""
        self.messages += 1


def _no_binding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openssl, "_lib", SimpleNamespace())
    monkeypatch.setattr(openssl, "_telling", None)


@pytest.mark.parametrize("lean", [True, False])
def test_alerts_heard(monkeypatch: pytest.MonkeyPatch, *, lean: bool) -> None:
    """Each alert is told to the connection that it belongs to, if that is to hear of them."""
    if not lean:
        _no_binding(monkeypatch)
    context = SSL.Context(SSL.TLS_METHOD)
    openssl.observe_all(context)
    victim, other = (SSL.Connection(context, None) for _ in range(2))
    for connection in (victim, other):
        connection.set_app_data(Listener())
        connection.set_accept_state()
        openssl.observe(connection)
    victim.bio_write(b"\x16\x03\x03\x00\x04\x02\x00\x00\x00")
    for connection in (victim, other):
        with pytest.raises(SSL.Error):
            connection.do_handshake()
    assert (victim.get_app_data().alerts, other.get_app_data().alerts) == ([10], [])


@pytest.mark.parametrize("lean", [True, False])
def test_handshake_and_its_secrets(monkeypatch: pytest.MonkeyPatch, *, lean: bool) -> None:
    """Two sides come to their end by what each has to say, and both hear the same secrets."""
    if not lean:
        _no_binding(monkeypatch)
    pair = make_key_pair(["x"])
    sides: list[SSL.Connection] = []
    heard: list[Listener] = []
    for start in (SSL.Connection.set_connect_state, SSL.Connection.set_accept_state):
        context = SSL.Context(SSL.TLS_METHOD)
        context.use_certificate(pair.chain[0])
        context.use_privatekey(pair.key)
        openssl.observe_all(context)
        openssl.log_keys(context, whole=start is SSL.Connection.set_connect_state)
        sides.append(SSL.Connection(context, None))
        heard.append(Listener())
        sides[-1].set_app_data(heard[-1])
        openssl.observe(sides[-1])
        start(sides[-1])
    client, server = sides
    is_finished, hello = openssl.advance(client, b"")
    assert (is_finished, hello[0]) == (False, 22)
    assert openssl.advance(server, hello[:40]) == (False, b"")
    is_finished, flight = openssl.advance(server, hello[40:])
    assert not is_finished
    is_finished, finished = openssl.advance(client, flight)
    assert is_finished
    assert openssl.advance(server, finished)[0]
    labels = [line.split()[0] for line in heard[0].lines]
    assert {b"CLIENT_TRAFFIC_SECRET_0", b"EXPORTER_SECRET"} < set(labels)
    assert len(labels) == 5
    some = [line for line in heard[0].lines if not lean or b"_TRAFFIC_SECRET_0 " in line]
    assert sorted(heard[1].lines) == sorted(some)
    assert heard[0].messages
    assert heard[1].messages
    another = SSL.Connection(server.get_context(), None)
    another.set_app_data(Listener())
    another.set_accept_state()
    with pytest.raises(SSL.Error):
        openssl.advance(another, b"\x16\x03\x03\0\4\2\0\0\0")


@pytest.mark.parametrize(("number", "words"), [(0, "ok"), (10, "certificate has expired")])
def test_verify_error(number: int, words: str) -> None:
    """The words are OpenSSL's own."""
    assert openssl.verify_error(number) == words


def test_library_without_the_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build of cryptography that binds less costs information, not the connection."""
    monkeypatch.setattr(openssl, "_lib", SimpleNamespace())
    assert openssl.session_reused(_connection()) is False
    assert openssl.current_session(_connection()) is None
    assert openssl.dump_session(_connection()) is None
    assert openssl.load_session(_connection(), b"") is False
    assert openssl.verify_error(10) == "X.509 verification error 10"
    assert not openssl.set_groups(SSL.Context(SSL.TLS_METHOD), ["x25519"])
    assert not openssl.share_trust(SSL.Context(SSL.TLS_METHOD), SSL.Context(SSL.TLS_METHOD))


def test_groups_that_there_are() -> None:
    """One that OpenSSL lacks is refused with all others, and leaves no error behind."""
    context = SSL.Context(SSL.TLS_METHOD)
    assert openssl.set_groups(context, ["X25519MLKEM768", "x448"])
    assert not openssl.set_groups(context, ["x25519", "rubbish"])
    assert openssl._lib.ERR_peek_error() == 0


def test_moved_without_a_purpose(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where tickets cannot be told from each other there are none."""
    names = ("SSL_set_SSL_CTX", "SSL_set_options", "SSL_OP_NO_TICKET")
    some = {name: getattr(openssl._lib, name) for name in names}
    connection, context = _connection(), SSL.Context(SSL.TLS_METHOD)
    monkeypatch.setattr(openssl, "_lib", SimpleNamespace(**some))
    openssl.move(connection, context, b"x")
    assert connection.get_context() is context
    assert connection.set_options(0) & SSL.OP_NO_TICKET
