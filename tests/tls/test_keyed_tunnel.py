"""Tests of keyed_tunnel, against OpenSSL's end of the same connection."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.doubles import EnginePair, emitted, flipped, opened
from tests.tls.test_tunnel import CLIENT, SERVER, TLS12, TLS13, VERSIONS
from tlsify.codepoints import Aead, AlertDescription, ContentType, ProtocolVersion
from tlsify.errors import HandshakeError, PeerAlert, PeerMisbehaved, RekeyUnsupported
from tlsify.tls.keyed_tunnel import KeyedTunnel
from tlsify.tls.messages import KeyUpdateRequest, encode_key_update
from tlsify.tls.protection import open_record, seal_record
from tlsify.tls.ration import MOST
from tlsify.tls.record import MAX_CIPHERTEXT, MAX_PLAINTEXT, encode_record, split_records
from tlsify.tls.room import RecordBuffer
from tlsify.tls.schedule import next_secret, traffic_keys
from tlsify.tls.tunnel import ROOM_BEYOND, Tunnel

if TYPE_CHECKING:
    from tlsify.keys import Keys


_UNEXPECTED, _OVERFLOW = AlertDescription.unexpected_message, AlertDescription.record_overflow
_RECORDS = st.lists(st.tuples(st.sampled_from(ContentType), st.binary(max_size=20)), max_size=4)


def tunnels(
    version: ProtocolVersion, aead: Aead = Aead.AES_GCM_128
) -> tuple[Tunnel, KeyedTunnel, Keys]:
    """Finish a handshake; return OpenSSL's client, our server and the client's keys."""
    pair = EnginePair(replace(CLIENT, versions=frozenset({version})), SERVER, (aead,))
    _, negotiated = pair.run()
    return Tunnel(pair.client), KeyedTunnel(negotiated, pair.keys[1]), pair.keys[0]


def said(server: KeyedTunnel, plaintext: bytes = b"") -> bytes:
    """Protect plaintext; return all records that are due."""
    room = RecordBuffer(len(plaintext) + ROOM_BEYOND)
    stream = bytes(room.view[: server.send_into(memoryview(plaintext), room)])
    while size := server.output_into(room):
        stream += bytes(room.view[:size])
    return stream


def told(server: KeyedTunnel, records: bytes) -> bytes:
    """Open what has come; return the plaintext."""
    room = RecordBuffer(len(records) + ROOM_BEYOND)
    return bytes(room.view[: server.receive(records, room)])


def sealed(keys: Keys, content_type: ContentType, payload: bytes, number: int = 0) -> bytes:
    """Build one of the client's next records by hand."""
    return seal_record(keys.tx, keys.tx.seq + number, content_type, payload)


@settings(max_examples=25)
@given(VERSIONS, st.sampled_from(Aead), st.binary(max_size=40_000), st.integers(1, 5000))
def test_data_both_ways(version: ProtocolVersion, aead: Aead, data: bytes, piece: int) -> None:
    """What goes in comes out, however the records are cut on the way."""
    client, server, _ = tunnels(version, aead)
    client.send(data)
    stream, found = emitted(client), b""
    for start in range(0, len(stream), piece):
        found += told(server, stream[start : start + piece])
    assert found == data
    assert opened(client, said(server, data)) == data


@pytest.mark.parametrize("version", ProtocolVersion)
def test_records_are_of_legal_size(version: ProtocolVersion) -> None:
    """Plaintext of any length leaves in records that every peer accepts, or has asked for."""
    pair = EnginePair(replace(CLIENT, versions=frozenset({version})), SERVER)
    _, negotiated = pair.run()
    for most, number in ((MAX_PLAINTEXT, 7), (512, 196)):
        server = KeyedTunnel(replace(negotiated, max_fragment_length=most), pair.keys[1])
        records = split_records(said(server, bytes(100_000)))
        assert len(records) == number
        assert max(len(record) for record in records) <= most + 29


@pytest.mark.parametrize("version", ProtocolVersion)
def test_close(version: ProtocolVersion) -> None:
    """close_notify ends one direction, once; the other one still carries data."""
    client, server, _ = tunnels(version)
    client.send(b"last words")
    client.close()
    assert told(server, emitted(client) + b"rubbish") == b"last words"
    assert server.peer_closed
    assert told(server, b"rubbish") == b""
    assert server.failure is None
    assert opened(client, said(server, b"answer")) == b"answer"
    server.close()
    assert server.waiting
    assert opened(client, said(server)) == b""
    assert client.peer_closed
    server.close()
    assert said(server) == b""


@pytest.mark.parametrize("version", ProtocolVersion)
def test_bad_record(version: ProtocolVersion) -> None:
    """It is answered with its alert, behind the data that came before; nothing follows."""
    client, server, keys = tunnels(version)
    stream = sealed(keys, ContentType.application_data, b"data")
    stream += flipped(sealed(keys, ContentType.application_data, b"data", 1))
    assert told(server, stream) == b"data"
    assert isinstance(server.failure, PeerMisbehaved)
    assert server.failure.alert is AlertDescription.bad_record_mac
    with pytest.raises(PeerAlert, match="bad_record_mac"):
        opened(client, said(server, b"too late"))
    server.close()
    assert said(server) == b""


@pytest.mark.parametrize("version", ProtocolVersion)
def test_fatal_alert(version: ProtocolVersion) -> None:
    """A peer's fatal alert is told by name, and not answered."""
    _, server, keys = tunnels(version)
    alert = bytes([2, AlertDescription.internal_error])
    assert told(server, sealed(keys, ContentType.alert, alert)) == b""
    assert isinstance(server.failure, PeerAlert)
    assert said(server) == b""
    assert not server.peer_closed


@pytest.mark.parametrize(
    ("version", "stream", "alert"),
    [
        (TLS13, encode_record(ContentType.alert, b"\2\50"), _UNEXPECTED),
        (TLS13, encode_record(ContentType.change_cipher_spec, b"\1"), _UNEXPECTED),
        (TLS13, b"\x17\3\3" + (MAX_PLAINTEXT + 257).to_bytes(2, "big"), _OVERFLOW),
        (TLS12, b"\x17\3\3" + (MAX_CIPHERTEXT + 1).to_bytes(2, "big"), _OVERFLOW),
        (TLS12, b"\x17\2\0\0\1x", AlertDescription.protocol_version),
        (TLS12, b"GET / HTTP/1.0", _UNEXPECTED),
    ],
)
def test_bytes_that_are_no_record(
    version: ProtocolVersion, stream: bytes, alert: AlertDescription
) -> None:
    """Each has its alert, which the peer can open."""
    client, server, _ = tunnels(version)
    assert told(server, stream) == b""
    assert isinstance(server.failure, HandshakeError)
    assert server.failure.alert is alert
    with pytest.raises(PeerAlert, match=alert.name):
        opened(client, said(server))


@settings(max_examples=60)
@given(
    VERSIONS, st.lists(st.tuples(st.sampled_from(ContentType), st.binary(max_size=20)), max_size=4)
)
def test_arbitrary_protected_records(
    version: ProtocolVersion, records: list[tuple[ContentType, bytes]]
) -> None:
    """A peer that has the keys and misuses them gets an alert, and no exception comes of it."""
    _, server, keys = tunnels(version)
    for number, (content_type, payload) in enumerate(records):
        told(server, sealed(keys, content_type, payload, number))
    error = server.failure
    assert error is None or isinstance(error, HandshakeError)
    if error is not None and not isinstance(error, PeerAlert):
        assert said(server)


@pytest.mark.parametrize("request_update", KeyUpdateRequest)
def test_key_update(request_update: KeyUpdateRequest) -> None:
    """It is followed, and answered if that is wanted; OpenSSL's end goes on with both keys."""
    client, server, keys = tunnels(TLS13)
    update = encode_key_update(request_update)
    assert told(server, sealed(keys, ContentType.handshake, update)) == b""
    secret = next_secret(keys.tx.suite, bytes(keys.tx_secret))
    following = traffic_keys(keys.tx.suite, secret)
    data = seal_record(following, 0, ContentType.application_data, b"under the next key")
    assert told(server, data) == b"under the next key"
    records = split_records(said(server, b"data"))
    assert len(records) == 1 + request_update
    assert opened(client, b"".join(records)) == b"data"


def test_key_that_wears_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sending key is changed in time, without the peer's asking."""
    client, server, _ = tunnels(TLS13)
    monkeypatch.setattr(Aead, "record_limit", property(lambda _: 8))
    records = b"".join(said(server, bytes([number])) for number in range(20))
    assert opened(client, records) == bytes(range(20))
    assert len(split_records(records)) == 24


def test_key_that_wears_out_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """TLS 1.2 cannot change it: within the limit there is still an alert."""
    client, server, _ = tunnels(TLS12)
    monkeypatch.setattr(Aead, "record_limit", property(lambda _: 8))
    records = split_records(b"".join(said(server, b"x") for _ in range(20)))
    assert len(records) == 8 - 1  # Finished was the first
    assert opened(client, b"".join(records)) == b"x" * 6
    with pytest.raises(PeerAlert, match="internal_error"):
        opened(client, b"")
    assert isinstance(server.failure, RekeyUnsupported)
    server.close()
    assert not said(server)


def test_flood() -> None:
    """Control records beyond their ration end the connection."""
    _, server, keys = tunnels(TLS13)
    for number in range(MOST + 1):
        assert server.failure is None
        told(server, sealed(keys, ContentType.application_data, b"", number))
    assert isinstance(server.failure, HandshakeError)
    assert server.failure.alert is AlertDescription.unexpected_message


def test_data_inside_a_message() -> None:
    """RFC 8446 5.1 forbids it."""
    _, server, keys = tunnels(TLS13)
    update = encode_key_update(KeyUpdateRequest.update_requested)
    assert told(server, sealed(keys, ContentType.handshake, update[:3])) == b""
    assert not said(server), "no alert yet"
    told(server, sealed(keys, ContentType.application_data, b"data", 1))
    assert isinstance(server.failure, HandshakeError)
    assert server.failure.alert is AlertDescription.unexpected_message


def test_renegotiation() -> None:
    """A TLS 1.2 client that wants to renegotiate is declined, and data goes on."""
    _, server, keys = tunnels(TLS12)
    hello = bytes([1, 0, 0, 0])
    assert told(server, sealed(keys, ContentType.handshake, hello)) == b""
    (record,) = split_records(said(server))
    answer = open_record(keys.rx, keys.rx.seq, record)
    assert answer == (ContentType.alert, bytes([1, AlertDescription.no_renegotiation]))
    assert told(server, sealed(keys, ContentType.application_data, b"data", 1)) == b"data"


def test_release() -> None:
    """The keys are overwritten, and only the tunnel's own copies of them."""
    pair = EnginePair(CLIENT, SERVER)
    _, negotiated = pair.run()
    server = KeyedTunnel(negotiated, pair.keys[1])
    assert server.take_sessions() == []
    assert not server.is_waiting
    server.drop()
    server.release()
    for sequence in (server._tx, server._rx):
        assert not any(sequence.keys.key)
    assert any(pair.keys[1].tx.key)
