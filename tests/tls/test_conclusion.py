"""Tests of conclusion; test_engine.py has those of whole handshakes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.conftest import HOST
from tests.doubles import VERSIONS, EnginePair
from tlsify.codepoints import ContentType, ProtocolVersion
from tlsify.config import ClientConfig, ServerConfig
from tlsify.credentials.anchors import TrustAnchors
from tlsify.credentials.self_signed import make_key_pair
from tlsify.errors import TlsifyError
from tlsify.names import ReferenceIdentifier
from tlsify.tls.conclusion import Seen, conclude
from tlsify.tls.record import encode_record

SERVER = ServerConfig(key_pair=make_key_pair([HOST]))
CLIENT = ClientConfig(
    identities=(ReferenceIdentifier.for_host(HOST),), trust=TrustAnchors(SERVER.key_pair.chain)
)
NOTHING = Seen(
    is_client=True,
    server_name=HOST,
    max_fragment_length=512,
    certificate=b"der",
    config=CLIENT,
    key_log=None,
    last_flight=b"",
    received=[],
    tickets=[],
    sends_tickets=False,
)


@pytest.mark.parametrize("version", VERSIONS)
def test_facts(version: ProtocolVersion) -> None:
    """What the engine has seen and what OpenSSL tells are in the outcome; keys only if wanted."""
    pair = EnginePair(replace(CLIENT, versions=frozenset({version})), SERVER)
    suite = pair.run()[0].suite
    assert pair.client._connection is not None
    found, keys = conclude(pair.client._connection, suite, NOTHING)
    assert (found.server_name, found.max_fragment_length) == (HOST, 512)
    assert (found.certificate, found.alpn, found.resumed) == (b"der", None, False)
    assert found.suite is suite
    assert keys is None


def test_key_log_without_a_secret() -> None:
    """Without a traffic secret there is an error, and no key of zeros."""
    pair = EnginePair(CLIENT, SERVER)
    suite = pair.run()[0].suite
    lines = [b"SERVER_TRAFFIC_SECRET_0 " + b"00" * 32 + b" " + b"11" * 32]
    assert pair.client._connection is not None
    with pytest.raises(TlsifyError, match="lacks a traffic secret"):
        conclude(pair.client._connection, suite, NOTHING._replace(key_log=lines))


def test_counting_behind_change_cipher_spec() -> None:
    """What a TLS 1.2 peer has protected is counted, however its records have come together."""
    pair = EnginePair(replace(CLIENT, versions=frozenset({ProtocolVersion.TLSv1_2})), SERVER)
    outcome = pair.run()[0]
    client = pair.client
    assert client._connection is not None
    *_, finished = client._received
    received = [
        encode_record(ContentType.handshake, b"x") * 2
        + encode_record(ContentType.change_cipher_spec, b"\1"),
        finished,
    ]
    seen = NOTHING._replace(key_log=[], last_flight=client._last_flight, received=received)
    _, keys = conclude(client._connection, outcome.suite, seen)
    assert keys is not None
    assert keys.rx.seq == pair.keys[0].rx.seq == 1
