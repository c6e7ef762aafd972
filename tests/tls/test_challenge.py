"""Tests of challenge."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.conftest import HOST
from tests.doubles import EnginePair
from tlsify.codepoints import AlertDescription, ProtocolVersion
from tlsify.config import ClientConfig, ServerConfig
from tlsify.credentials.self_signed import make_key_pair
from tlsify.errors import HandshakeError, NoCertificate, PeerAlert
from tlsify.tls.challenge import PROTOCOL, ChallengeAnswered

if TYPE_CHECKING:
    from tlsify.credentials.key_pair import KeyPair

_SHOWN = ServerConfig(key_pair=make_key_pair([HOST]), alpn=(PROTOCOL,))


def _client(
    *alpn: bytes, name: str | None = HOST, versions: frozenset[ProtocolVersion] | None = None
) -> ClientConfig:
    versions = versions or frozenset(ProtocolVersion)
    return ClientConfig(server_name=name, verify=False, alpn=alpn, versions=versions)


@pytest.fixture
def server(key_pair: KeyPair) -> ServerConfig:
    """A server with a certificate, and a challenge that is pending for it."""
    return ServerConfig(key_pair=key_pair, acme_challenge={HOST: _SHOWN}.get, alpn=(b"http/1.1",))


@pytest.mark.parametrize("version", ProtocolVersion)
def test_challenge(server: ServerConfig, version: ProtocolVersion) -> None:
    """The authority sees the challenge's certificate and protocol, and then a clean end."""
    asked = _client(PROTOCOL, versions=frozenset({version}))
    pair = EnginePair(asked, replace(server, resumption=True))
    with pytest.raises(ChallengeAnswered, match=HOST):
        pair.run()
    assert pair.server.result() is None
    assert pair.server.keys is None
    # What is left for the client: the end of its handshake in TLS 1.2, and close_notify.
    left = pair.server.output()
    while (outcome := pair.client.result()) is None and left:
        length = 5 + int.from_bytes(left[3:5], "big")
        pair.client.feed(left[:length])
        left = left[length:]
    assert outcome is not None
    assert outcome.alpn == PROTOCOL
    assert left
    connection = pair.client.take_connection()
    connection.bio_write(left)
    with pytest.raises(Exception, match=r"^$") as caught:
        connection.recv(1)
    assert type(caught.value).__name__ == "ZeroReturnError"
    shown = connection.get_peer_certificate()
    assert shown is not None
    assert shown.to_cryptography() == _SHOWN.key_pair.chain[0]


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (_client(PROTOCOL, name="other.example"), "no ACME challenge is pending for other.example"),
        (_client(PROTOCOL, name=None), "a client without a server name"),
    ],
)
def test_challenge_that_is_not_pending(
    server: ServerConfig, asked: ClientConfig, reason: str
) -> None:
    """It is refused as RFC 7301 has it, with a certificate or without."""
    for config in (server, replace(server, alpn=()), replace(server, provisional=True)):
        pair = EnginePair(asked, config)
        with pytest.raises(HandshakeError, match=reason) as caught:
            pair.run()
        assert caught.value.alert is AlertDescription.no_application_protocol
        with pytest.raises(PeerAlert, match="no_application_protocol"):
            pair.client.feed(pair.server.output())


@pytest.mark.parametrize("alpn", [(PROTOCOL, b"http/1.1"), (b"http/1.1",), ()])
def test_connection_all_the_same(server: ServerConfig, alpn: tuple[bytes, ...]) -> None:
    """A client that offers anything else as well wants a connection, and gets one."""
    pair = EnginePair(_client(*alpn), server)
    _, outcome = pair.run()
    assert outcome.alpn == (b"http/1.1" if alpn else None)
    # Without challenges the protocol is one like any other.
    other = replace(server, acme_challenge=None, alpn=(PROTOCOL,))
    _, outcome = EnginePair(_client(PROTOCOL), other).run()
    assert outcome.alpn == PROTOCOL


def test_certificate_that_is_to_come(server: ServerConfig) -> None:
    """Other clients get an alert; the challenge, by which it is to come, goes on."""
    waiting = replace(server, provisional=True)
    pair = EnginePair(_client(b"http/1.1"), waiting)
    with pytest.raises(NoCertificate, match="no certificate yet") as caught:
        pair.run()
    assert caught.value.server_name == HOST
    with pytest.raises(PeerAlert, match="internal_error"):
        pair.client.feed(pair.server.output())
    with pytest.raises(ChallengeAnswered):
        EnginePair(_client(PROTOCOL), waiting).run()
