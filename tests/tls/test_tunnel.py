"""Tests of tunnel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import HOST
from tests.doubles import EnginePair, emitted, flipped, new_session_ticket, opened
from tests.meetings import Meeting
from tlsify.codepoints import Aead, AlertDescription, ContentType, ProtocolVersion
from tlsify.config import ClientConfig, ServerConfig
from tlsify.credentials.anchors import TrustAnchors
from tlsify.credentials.self_signed import make_key_pair
from tlsify.errors import (
    HandshakeError,
    PeerAlert,
    PeerMisbehaved,
    RekeyUnsupported,
    TlsifyError,
)
from tlsify.names import ReferenceIdentifier
from tlsify.tls import wear
from tlsify.tls.engine import Engine
from tlsify.tls.messages import KeyUpdateRequest, encode_key_update
from tlsify.tls.protection import open_record, seal_record
from tlsify.tls.ration import BYTES_FOR_ONE, MOST
from tlsify.tls.record import MAX_CIPHERTEXT, MAX_PLAINTEXT, split_records
from tlsify.tls.room import RecordBuffer
from tlsify.tls.schedule import next_secret, traffic_keys
from tlsify.tls.ticket_reader import MAX_TICKETS
from tlsify.tls.tunnel import Tunnel

if TYPE_CHECKING:
    from tlsify.keys import Keys

SERVER = ServerConfig(key_pair=make_key_pair([HOST]))
CLIENT = ClientConfig(
    server_name=HOST,
    identities=(ReferenceIdentifier.for_host(HOST),),
    trust=TrustAnchors(SERVER.key_pair.chain),
)
TLS12, TLS13 = ProtocolVersion.TLSv1_2, ProtocolVersion.TLSv1_3
VERSIONS = st.sampled_from(ProtocolVersion)


def tunnels(version: ProtocolVersion) -> tuple[Tunnel, Tunnel, Keys]:
    """Finish a handshake; gives client, server and the client's keys."""
    pair = EnginePair(replace(CLIENT, versions=frozenset({version})), SERVER)
    pair.run()
    return Tunnel(pair.client), Tunnel(pair.server), pair.keys[0]


def settled(version: ProtocolVersion) -> tuple[Tunnel, Tunnel, Keys]:
    """As `tunnels`, with the server's tickets delivered."""
    client, server, keys = tunnels(version)
    assert opened(client, emitted(server)) == b""
    return client, server, keys


@settings(max_examples=25)
@given(VERSIONS, st.binary(max_size=40_000), st.integers(1, 5000))
def test_data_both_ways(version: ProtocolVersion, data: bytes, piece: int) -> None:
    """What goes in comes out, however the records are cut on the way."""
    client, server, _ = settled(version)
    for source, sink in ((client, server), (server, client)):
        source.send(data)
        stream, found = emitted(source), bytearray()
        for start in range(0, len(stream), piece):
            found += opened(sink, stream[start : start + piece])
        assert found == data
        assert emitted(source) == b""


@pytest.fixture
def few_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a key protect ten full records of data at most."""
    monkeypatch.setattr(Aead, "record_limit", property(lambda _: 10 + wear._SPARE))


@pytest.mark.usefixtures("few_records")
@pytest.mark.parametrize("version", ProtocolVersion)
@pytest.mark.parametrize(("size", "times"), [(1, 2570), (MAX_PLAINTEXT, 10), (40_000, 4)])
def test_key_that_wears_out(version: ProtocolVersion, size: int, times: int) -> None:
    """OpenSSL does not change it: the connection ends before the limit, and says why."""
    client, server, _ = settled(version)
    for _ in range(times):
        client.send(bytes(size))
        assert client.failure is None
    assert emitted(client)
    for _ in range(2):
        client.send(bytes(size))
        assert isinstance(client.failure, RekeyUnsupported)
    client.close()
    assert emitted(client) == b""
    assert server.failure is None


@pytest.mark.usefixtures("few_records")
@pytest.mark.parametrize("with_data", [False, True])
def test_key_that_the_peer_has_changed(*, with_data: bool) -> None:
    """A KeyUpdate that asks for one begins the count anew; one that does not, does not."""
    client, server, keys = settled(TLS13)
    secret, now, number = bytes(keys.tx_secret), keys.tx, keys.tx.seq
    full = bytes(MAX_PLAINTEXT)
    kinds = [KeyUpdateRequest.update_requested] * 3 + [KeyUpdateRequest.update_not_requested]
    for request in kinds:
        for _ in range(9):
            server.send(full)
        assert server.failure is None
        update = seal_record(now, number, ContentType.handshake, encode_key_update(request))
        secret, number = bytes(next_secret(now.suite, secret)), 0
        now = traffic_keys(now.suite, secret)
        if with_data:  # else OpenSSL answers when something is sent
            update += seal_record(now, number, ContentType.application_data, b"data")
            number = 1
        assert opened(server, update) == (b"data" if with_data else b"")
    assert opened(client, emitted(server)) == full * 36
    server.send(full)
    assert server.failure is None
    server.send(b"x")
    assert server.failure is not None


@pytest.mark.parametrize("version", ProtocolVersion)
def test_records_are_of_legal_size(version: ProtocolVersion) -> None:
    """Plaintext of any length leaves in records that every peer accepts."""
    client, _, _ = settled(version)
    client.send(bytes(100_000))
    records = split_records(emitted(client))
    assert len(records) == 7
    assert all(len(record) <= MAX_CIPHERTEXT + 5 for record in records)


def test_much_at_once() -> None:
    """OpenSSL gets it in pieces; what a room does not take comes with the next."""
    client, server, _ = settled(TLS13)
    data, stream = bytes(range(250)) * 1000, b""
    client.send(b"before")
    room = RecordBuffer(240_000)
    size = client.send_into(memoryview(data), room)
    while size:
        stream += room.view[:size]
        size = client.output_into(room)
    assert opened(server, stream) == b"before" + data


def test_nothing_to_send() -> None:
    """No plaintext, no record."""
    client, _, _ = settled(TLS13)
    client.send(b"")
    assert emitted(client) == b""


def test_tickets_are_due_at_once() -> None:
    """The tickets that the engine held back go out in front of all data."""
    client, server, keys = tunnels(TLS13)
    server.send(b"data")
    records = split_records(emitted(server))
    assert len(records) > 1
    kinds = [open_record(keys.rx, seq, record)[0] for seq, record in enumerate(records)]
    assert kinds == [ContentType.handshake] * (len(records) - 1) + [ContentType.application_data]
    assert opened(client, b"".join(records)) == b"data"


def test_unfinished_engine() -> None:
    """A tunnel starts where a handshake has ended."""
    with pytest.raises(TlsifyError, match="not finished"):
        Tunnel(Engine(CLIENT))


@pytest.mark.parametrize("version", ProtocolVersion)
def test_close(version: ProtocolVersion) -> None:
    """close_notify ends one direction; the other one still carries data."""
    client, server, _ = settled(version)
    client.send(b"last words")
    client.close()
    assert opened(server, emitted(client)) == b"last words"
    assert server.peer_closed
    assert not client.peer_closed
    server.send(b"answer")
    server.close()
    assert opened(client, emitted(server)) == b"answer"
    assert client.peer_closed


@pytest.mark.parametrize("version", ProtocolVersion)
def test_bytes_behind_close_notify(version: ProtocolVersion) -> None:
    """What comes after the peer's end is not read."""
    client, server, _ = settled(version)
    client.close()
    assert opened(server, emitted(client) + b"rubbish") == b""
    assert opened(server, b"more rubbish") == b""
    assert server.peer_closed


@pytest.mark.parametrize("version", ProtocolVersion)
def test_closing_twice(version: ProtocolVersion) -> None:
    """A second close says nothing new and raises nothing."""
    client, _, _ = settled(version)
    client.close()
    assert emitted(client)
    client.close()
    assert emitted(client) == b""


def sealed(keys: Keys, content_type: ContentType, payload: bytes) -> bytes:
    """Build the client's next record by hand."""
    return seal_record(keys.tx, keys.tx.seq, content_type, payload)


@pytest.mark.parametrize("version", ProtocolVersion)
def test_fatal_alert(version: ProtocolVersion) -> None:
    """A peer's fatal alert is told by name, and not answered."""
    _, server, keys = settled(version)
    alert = bytes([2, AlertDescription.internal_error])
    with pytest.raises(PeerAlert, match="internal_error") as caught:
        opened(server, sealed(keys, ContentType.alert, alert))
    assert caught.value.alert is AlertDescription.internal_error
    assert emitted(server) == b""
    assert not server.peer_closed


@pytest.mark.parametrize("version", ProtocolVersion)
def test_damaged_record(version: ProtocolVersion) -> None:
    """A record that does not open is answered with bad_record_mac."""
    client, server, keys = settled(version)
    record = flipped(sealed(keys, ContentType.application_data, b"data"))
    with pytest.raises(PeerMisbehaved) as caught:
        opened(server, record)
    assert caught.value.alert is AlertDescription.bad_record_mac
    with pytest.raises(PeerAlert, match="bad_record_mac"):
        opened(client, emitted(server))
    server.close()
    assert emitted(server) == b""


@settings(max_examples=40)
@given(VERSIONS, st.lists(st.binary(max_size=60), max_size=4))
def test_arbitrary_bytes(version: ProtocolVersion, pieces: list[bytes]) -> None:
    """Whatever a peer sends raises HandshakeError and nothing else."""
    _, server, _ = settled(version)
    try:
        for piece in pieces:
            assert opened(server, piece) == b""
    except HandshakeError:
        server.close()
    emitted(server)


@settings(max_examples=60)
@given(VERSIONS, st.sampled_from(ContentType), st.binary(max_size=20))
def test_arbitrary_protected_record(
    version: ProtocolVersion, content_type: ContentType, payload: bytes
) -> None:
    """A peer that has the keys and misuses them raises HandshakeError and nothing else."""
    _, server, keys = settled(version)
    try:
        found = opened(server, sealed(keys, content_type, payload))
    except HandshakeError as error:
        assert isinstance(error, PeerAlert) or (error.alert is not None) == bool(emitted(server))
    else:
        assert found == (payload if content_type == ContentType.application_data else b"")


@pytest.mark.parametrize("request_update", KeyUpdateRequest)
def test_key_update(request_update: KeyUpdateRequest) -> None:
    """KeyUpdate is OpenSSL's affair: followed, and answered if that is wanted."""
    _, server, keys = settled(TLS13)
    update = encode_key_update(request_update)
    assert opened(server, sealed(keys, ContentType.handshake, update)) == b""
    server.send(b"data")
    records = split_records(emitted(server))
    assert len(records) == 1 + request_update


def test_renegotiation() -> None:
    """A TLS 1.2 server that wants to renegotiate is declined, and data goes on."""
    pair = EnginePair(replace(CLIENT, versions=frozenset({TLS12})), SERVER)
    pair.run()
    client, keys = Tunnel(pair.client), pair.keys[1]
    request = seal_record(keys.tx, 1, ContentType.handshake, bytes(4))
    assert opened(client, request) == b""
    (record,) = split_records(emitted(client))
    answer = open_record(keys.rx, 1, record)
    assert answer == (ContentType.alert, bytes([1, AlertDescription.no_renegotiation]))
    data = seal_record(keys.tx, 2, ContentType.application_data, b"data")
    assert opened(client, data) == b"data"


def test_warning_in_front_of_our_own_refusal() -> None:
    """A warning that was passed over does not get the blame for what follows."""
    _, server, keys = settled(TLS12)
    warning = bytes([1, AlertDescription.unrecognized_name])
    assert opened(server, sealed(keys, ContentType.alert, warning)) == b""
    with pytest.raises(PeerMisbehaved) as caught:
        opened(server, sealed(keys, ContentType.application_data, b"replayed number"))
    assert caught.value.alert is AlertDescription.bad_record_mac


@pytest.mark.parametrize("version", ProtocolVersion)
def test_plaintext_in_front_of_a_bad_record(version: ProtocolVersion) -> None:
    """Data that came in good order is not lost to what follows it."""
    client, server, keys = settled(version)
    client.send(b"data")
    stream = emitted(client) + b"\x17\x03\x03\x00\x20" + bytes(32)
    assert opened(server, stream) == b"data"
    with pytest.raises(PeerMisbehaved):
        opened(server, b"")
    assert keys.tx.suite.version is version


# -- sessions


def resuming(version: ProtocolVersion, session: bytes | None = None) -> tuple[Tunnel, bytes]:
    """Finish a handshake that wants sessions; return the client and what the server sent it."""
    met = Meeting(Engine(_storing(version), session=session), RESUMING)
    assert met.ours.resumed is (session is not None)
    return Tunnel(met.client), b"".join(met.beyond) + emitted(Tunnel(met.server))


def _storing(version: ProtocolVersion) -> ClientConfig:
    return replace(CLIENT, versions=frozenset({version}), session_store=Path("somewhere"))


RESUMING = replace(SERVER, resumption=True)


def test_sessions_of_tls13() -> None:
    """Each ticket that comes by itself brings a session, once; what was resumed is not given."""
    client, tickets = resuming(TLS13)
    assert client.take_sessions() == []
    found = []
    for record in split_records(tickets):
        assert opened(client, record) == b""
        found += client.take_sessions()
        assert client.take_sessions() == []
    assert len({each.session for each in found}) == 2
    for each in found:
        assert not each.resumed
        again, tickets = resuming(TLS13, each.session)
        assert again.take_sessions() == []
        opened(again, tickets)
        (next_one,) = again.take_sessions()
        assert next_one.resumed


def test_tickets_in_one_piece() -> None:
    """Of tickets read at once OpenSSL keeps the last, which is one to resume with."""
    client, tickets = resuming(TLS13)
    opened(client, tickets)
    (found,) = client.take_sessions()
    resuming(TLS13, found.session)


def test_sessions_of_tls12() -> None:
    """The ticket came in the handshake; a session resumed may be used again until it expires."""
    client, _ = resuming(TLS12)
    (found,) = client.take_sessions()
    assert client.take_sessions() == []
    again, _ = resuming(TLS12, found.session)
    (same,) = again.take_sessions()
    assert same.expires == found.expires
    assert same.resumed


def test_enough_sessions() -> None:
    """A server that goes on sending tickets is not listened to for ever."""
    pair = EnginePair(_storing(TLS13), SERVER)
    pair.run()
    client, found, keys = Tunnel(pair.client), [], pair.keys[1]
    for seq in range(MAX_TICKETS + 2):
        message = new_session_ticket(bytes([seq]))
        record = seal_record(keys.tx, seq, ContentType.handshake, message)
        assert opened(client, record) == b""
        found += client.take_sessions()
    assert len(found) == MAX_TICKETS


@pytest.mark.parametrize("version", ProtocolVersion)
def test_sessions_nobody_wants(version: ProtocolVersion) -> None:
    """Without a place for them there are none, and never any at a server."""
    client, server, _ = settled(version)
    assert client.take_sessions() == []
    assert server.take_sessions() == []


# -- how many control records there may be


def _updates(given: Keys, count: int, data: bytes = b"") -> bytes:
    """Records of a server that changes its key again and again, with data under each key."""
    keys, secret, records = given.rx, given.rx_secret, b""
    seq = keys.seq
    update = encode_key_update(KeyUpdateRequest.update_not_requested)
    for _ in range(count):
        records += seal_record(keys, seq, ContentType.handshake, update)
        secret = next_secret(keys.suite, secret)
        keys = traffic_keys(keys.suite, secret)
        pieces = [data[at : at + MAX_PLAINTEXT] for at in range(0, len(data), MAX_PLAINTEXT)]
        for number, piece in enumerate(pieces):
            records += seal_record(keys, number, ContentType.application_data, piece)
        seq = len(pieces)
    return records


@pytest.mark.parametrize(("count", "passes"), [(MOST - 4, True), (MOST + 1, False)])
def test_flood_of_key_updates(count: int, *, passes: bool) -> None:
    """A peer that sends nothing else is refused with an alert, and said to be what it is."""
    client, server, keys = tunnels(TLS13)
    records = _updates(keys, count)
    if passes:
        assert opened(client, records) == b""
        assert client.failure is None
        return
    with pytest.raises(PeerMisbehaved, match="too many control records") as caught:
        opened(client, records)
    assert caught.value.alert is AlertDescription.unexpected_message
    with pytest.raises(PeerAlert, match="unexpected_message"):
        opened(server, emitted(client))


def test_flood_that_ends_within_a_record() -> None:
    """Whatever OpenSSL has already, there is an alert."""
    client, _, keys = tunnels(TLS13)
    with pytest.raises(PeerMisbehaved, match="too many control records"):
        opened(client, _updates(keys, MOST + 1) + b"\x17\x03\x03\x01")
    assert emitted(client)


def test_key_updates_with_data_between_them() -> None:
    """With as much data as they are worth, there may be any number of them."""
    client, _, keys = tunnels(TLS13)
    data = bytes(BYTES_FOR_ONE)
    assert opened(client, _updates(keys, 2 * MOST, data)) == data * 2 * MOST
    assert client.failure is None


def test_key_updates_with_time_between_them() -> None:
    """Somebody who changes the key each second does so for ever."""
    pair = EnginePair(CLIENT, SERVER)
    pair.run()
    now, keys = 0.0, pair.keys[0]
    client = Tunnel(pair.client, lambda: now)
    for record in split_records(_updates(keys, 3 * MOST)):
        opened(client, record)
        now += 1
    assert client.failure is None
