"""Tests of handshake."""

from __future__ import annotations

import errno
import socket
import threading
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import HOST
from tests.doubles import Endpoint, give_up, keys_of
from tlsify.codepoints import AlertDescription, ContentType, ProtocolVersion
from tlsify.config import ClientConfig, ServerConfig
from tlsify.connection.setup import handshake
from tlsify.connection.setup.handshake import part, run
from tlsify.credentials.anchors import TrustAnchors
from tlsify.credentials.self_signed import make_key_pair
from tlsify.errors import (
    DeadlineExceeded,
    HandshakeError,
    IdentityError,
    PeerAlert,
    PeerMisbehaved,
    Truncated,
)
from tlsify.names import ReferenceIdentifier
from tlsify.tls.engine import Engine
from tlsify.tls.protection import open_record, seal_record
from tlsify.tls.record import FIRST_FLIGHT, SHORTEST_LAST, encode_plain_alert, split_records

# How near to the edge of a record each byte is tried.
_EDGE = 24
SERVER = ServerConfig(key_pair=make_key_pair([HOST]))
CLIENT = ClientConfig(
    server_name=HOST,
    identities=(ReferenceIdentifier.for_host(HOST),),
    trust=TrustAnchors(SERVER.key_pair.chain),
)
TLS12, TLS13 = ProtocolVersion.TLSv1_2, ProtocolVersion.TLSv1_3
SocketPair = tuple[socket.socket, socket.socket]


def client_for(version: ProtocolVersion) -> ClientConfig:
    """Offer one version only."""
    return replace(CLIENT, versions=frozenset({version}))


@dataclass
class Wire:
    """One direction of a connection: may end early, flip a bit, or deliver in small pieces."""

    cut: int | None = None
    flip: int | None = None
    piece: int = 2**14
    carried: bytearray = field(default_factory=bytearray)
    position: int = 0

    def put(self, data: bytes) -> None:
        """Return what was sent."""
        start = len(self.carried)
        self.carried += data
        if self.flip is not None and start <= self.flip // 8 < len(self.carried):
            self.carried[self.flip // 8] ^= 1 << self.flip % 8

    def take(self, size: int) -> bytes | None:
        """Return at most so many bytes: none at the end of the stream, None if nothing is there."""
        size = min(size, self.piece, len(self.carried) - self.position)
        if self.cut is not None:
            size = min(size, self.cut - self.position)
            if size == 0 and self.position == self.cut:
                return b""
        self.position += size
        return bytes(self.carried[self.position - size : self.position]) if size else None


class Side:
    """One engine, driven without a socket."""

    def __init__(self, engine: Engine, incoming: Wire, outgoing: Wire) -> None:
        """Start; the first flight is on the wire."""
        self.engine = engine
        self.incoming, self.outgoing = incoming, outgoing
        self.error: HandshakeError | None = None
        self.outgoing.put(engine.output())

    @property
    def over(self) -> bool:
        """Whether its handshake has ended, well or badly."""
        return self.error is not None or self.engine.result() is not None

    def receive(self, *, at_end: bool = False) -> bool:
        """Receive what has come, or the end of the stream; return False if there was nothing."""
        if self.over:
            return False
        data = b"" if at_end else self.incoming.take(self.engine.need())
        if data is None:
            return False
        try:
            self.engine.feed(data)
        except HandshakeError as error:
            self.error = error
        self.outgoing.put(self.engine.output())
        return True


def converse(
    client: ClientConfig, to_server: Wire, to_client: Wire, server: ServerConfig = SERVER
) -> tuple[Side, Side]:
    """Run two conversations until both are over."""
    ours = Side(Engine(client), to_client, to_server)
    theirs = Side(Engine(server), to_server, to_client)
    while not (ours.over and theirs.over):
        # One that waits in vain sees the other hang up.
        if not (ours.receive() or theirs.receive()):
            assert ours.receive(at_end=True) or theirs.receive(at_end=True)
    return ours, theirs


# -- engines, on a wire in memory


@pytest.mark.parametrize("version", ProtocolVersion)
@settings(max_examples=15)
@given(pieces=st.tuples(st.integers(1, 200), st.integers(1, 200)))
def test_stream_in_pieces(version: ProtocolVersion, pieces: tuple[int, int]) -> None:
    """However small the pieces that arrive, the outcome is the same and nothing is over-read."""
    wires = Wire(piece=pieces[0]), Wire(piece=pieces[1])
    ours, theirs = converse(client_for(version), *wires)
    client, server = keys_of(ours.engine), keys_of(theirs.engine)
    assert (client.tx.key, client.tx.seq) == (server.rx.key, server.rx.seq)
    for wire in wires:
        assert wire.position == len(wire.carried)


@pytest.mark.parametrize("version", ProtocolVersion)
def test_data_behind_the_handshake_is_left_alone(version: ProtocolVersion) -> None:
    """Bytes that follow the last handshake record are never asked for."""
    to_client = Wire()
    ours = Side(Engine(client_for(version)), to_client, to_server := Wire())
    theirs = Side(Engine(SERVER), to_server, to_client)
    while not ours.over:
        theirs.receive()
        if theirs.over or version is ProtocolVersion.TLSv1_3:
            before = len(to_client.carried)
        ours.receive()
    assert ours.error is None
    to_client.put(b"application data")
    assert to_client.position == before
    assert ours.engine.result() is not None


@pytest.mark.parametrize("version", ProtocolVersion)
@pytest.mark.parametrize("towards", ["server", "client"])
def test_end_of_stream_anywhere(version: ProtocolVersion, towards: str) -> None:
    """Wherever the stream ends, the side that waits says Truncated, and the other one, too.

    At each byte around the edges of records, and at every ninth in what lies between.
    """
    whole = Wire(), Wire()
    converse(client_for(version), *whole)
    carried = bytes(whole[towards == "client"].carried)
    length, edges = len(carried), [0]
    for record in split_records(carried):
        edges.append(edges[-1] + len(record))
    for cut in range(length):
        if cut % 9 and all(abs(cut - edge) > _EDGE for edge in edges):
            continue
        wires = Wire(), Wire()
        wires[towards == "client"].cut = cut
        sides = converse(client_for(version), *wires)
        victim, other = (sides[1], sides[0]) if towards == "server" else sides
        if victim.error is None:  # signatures vary in length, so the whole flight went through
            assert cut >= length - 16
        else:
            assert isinstance(victim.error, Truncated)
        assert other.error is None or isinstance(other.error, Truncated | PeerAlert)


@pytest.mark.parametrize("version", ProtocolVersion)
@pytest.mark.parametrize("towards", ["server", "client"])
def test_flipped_bits(version: ProtocolVersion, towards: str) -> None:
    """A bit flipped anywhere fails the handshake, or changed nothing that matters: no other end."""
    whole = Wire(), Wire()
    converse(client_for(version), *whole)
    length = len(whole[towards == "client"].carried)
    told = 0
    for position in range(0, length, 5):
        wires = Wire(), Wire()
        wires[towards == "client"].flip = 8 * position + position // 5 % 8
        for side in (sides := converse(client_for(version), *wires)):
            assert side.over
            assert side.error is not None or side.engine.result() is not None
        errors = [side.error for side in sides]
        told += any(isinstance(error, PeerAlert) for error in errors)
    assert told > length // 5 // 2  # in most cases one side got an alert that says what happened


def receives(side: Side) -> list[int]:
    """Drive a fresh side's peer to the end; return how much was read at a time."""
    taken: list[int] = []
    take = side.incoming.take

    def counted(size: int) -> bytes | None:
        data = take(size)
        if data:
            taken.append(len(data))
        return data

    side.incoming.take = counted  # type: ignore[method-assign]
    return taken


@pytest.mark.parametrize(("version", "most"), [(TLS12, 5), (TLS13, 3)])
def test_few_reads(version: ProtocolVersion, most: int) -> None:
    """What cannot be behind the handshake is read at once."""
    to_server, to_client = Wire(), Wire()
    ours = Side(Engine(client_for(version)), to_client, to_server)
    theirs = Side(Engine(SERVER), to_server, to_client)
    taken = receives(theirs)
    while not (ours.over and theirs.over):
        assert theirs.receive() or ours.receive()
    assert len(taken) <= most
    assert to_server.position == len(to_server.carried)


def test_more_than_a_hello_in_the_first_flight() -> None:
    """What a client says before it was answered is handled record by record, and harms nobody."""
    to_server, to_client = Wire(), Wire()
    ours = Side(Engine(client_for(TLS13)), to_client, to_server)
    to_server.put(b"\x14\x03\x03\x00\x01\x01" * 2 + b"\x17\x03\x03\x00\x20" + bytes(32))
    theirs = Side(Engine(SERVER), to_server, to_client)
    while theirs.receive():
        pass
    assert isinstance(theirs.error, PeerMisbehaved)
    assert ours.receive()


def test_stranger_to_a_server() -> None:
    """Plain HTTP is told apart at its fifth byte, and answered with an alert."""
    engine = Engine(SERVER)
    assert engine.need() == FIRST_FLIGHT
    with pytest.raises(PeerMisbehaved, match='plain text beginning "GET /"'):
        engine.feed(b"GET /")
    assert engine.output() == encode_plain_alert(AlertDescription.unexpected_message)


def test_stranger_to_a_client() -> None:
    """A server that answers in plain text is told apart, too."""
    to_client, to_server = Wire(), Wire()
    client = Side(Engine(CLIENT), to_client, to_server)
    hello = bytes(to_server.carried)
    to_client.put(b"HTTP/1.1 400 Bad Request\r\n")
    while client.receive():
        pass
    assert isinstance(client.error, PeerMisbehaved)
    assert 'plain text beginning "HTTP/"' in str(client.error)
    # OpenSSL does not answer everything; what the error says must be what went out.
    alert = client.error.alert
    assert to_server.carried[len(hello) :] == (b"" if alert is None else encode_plain_alert(alert))
    assert to_client.position == SHORTEST_LAST


@settings(max_examples=60)
@given(stream=st.binary(max_size=60), is_client=st.booleans())
def test_arbitrary_stream(stream: bytes, *, is_client: bool) -> None:
    """Whatever a peer sends before it hangs up, the end is a HandshakeError."""
    wire = Wire(cut=len(stream))
    wire.put(stream)
    side = Side(Engine(CLIENT if is_client else SERVER), wire, Wire())
    while side.receive():
        pass
    assert side.over
    assert side.error is not None


# -- run, over real sockets


def test_both_sides(tcp_pair: SocketPair) -> None:
    """Two sides over loopback agree, and leave the sockets as they were."""
    ours, theirs = tcp_pair
    ours.settimeout(None)
    client, server = Engine(CLIENT), Engine(SERVER)
    other = Endpoint(lambda: run(theirs, server, 10))
    run(ours, client, 10)
    other.result()
    keys, peer = keys_of(client), keys_of(server)
    assert ours.gettimeout() is None
    assert theirs.gettimeout() == 60
    assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0
    ours.sendall(seal_record(keys.tx, keys.tx.seq, ContentType.application_data, b"x"))
    record = theirs.recv(2**14)
    assert open_record(peer.rx, peer.rx.seq, record) == (ContentType.application_data, b"x")


@pytest.mark.parametrize("version", ProtocolVersion)
def test_data_sent_at_once_stays_in_the_socket(
    tcp_pair: SocketPair, version: ProtocolVersion
) -> None:
    """What the peer sends right behind its handshake is there, from its first byte."""
    ours, theirs = tcp_pair

    def serve() -> bytes:
        engine = Engine(SERVER)
        run(theirs, engine, 10)
        keys = keys_of(engine)
        record = seal_record(keys.tx, keys.tx.seq, ContentType.application_data, b"early")
        theirs.sendall(record)
        return record

    other = Endpoint(serve)
    run(ours, Engine(client_for(version)), 10)
    record = other.result()
    assert ours.recv(len(record), socket.MSG_WAITALL) == record


def test_nodelay_is_left_as_it_was(tcp_pair: SocketPair) -> None:
    """A caller that wants TCP_NODELAY keeps it."""
    ours, theirs = tcp_pair
    ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    other = Endpoint(lambda: run(theirs, Engine(SERVER), 10))
    run(ours, Engine(CLIENT), 10)
    other.result()
    assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


def test_silent_peer(tcp_pair: SocketPair) -> None:
    """A peer that says nothing costs no more than the timeout."""
    ours, _ = tcp_pair
    with pytest.raises(DeadlineExceeded, match=r"within 0\.05 seconds") as raised:
        run(ours, Engine(CLIENT), 0.05)
    assert raised.value.server_name == HOST
    assert ours.gettimeout() == 60


def test_peer_that_tcp_has_given_up(tcp_pair: SocketPair) -> None:
    """TCP's time-out is not the handshake's, which may have had more time left."""
    ours, theirs = tcp_pair
    give_up(ours)
    with pytest.raises(TimeoutError) as raised:
        run(ours, Engine(CLIENT), 60)
    assert raised.value.errno == errno.ETIMEDOUT
    assert not isinstance(raised.value, DeadlineExceeded)
    theirs.close()


def test_no_time_at_all(tcp_pair: SocketPair) -> None:
    """A deadline in the past is not a hang."""
    with pytest.raises(DeadlineExceeded):
        run(tcp_pair[0], Engine(CLIENT), 0)


def test_peer_that_trickles(tcp_pair: SocketPair) -> None:
    """The deadline is for the whole handshake, not for each byte."""
    ours, theirs = tcp_pair
    stop = threading.Event()

    def trickle() -> None:
        theirs.sendall(b"\x16\x03\x01\x40\x00")
        while not stop.wait(0.01):
            theirs.sendall(b"\0")

    other = Endpoint(trickle)
    try:
        with pytest.raises(DeadlineExceeded):
            run(ours, Engine(SERVER), 0.1)
    finally:
        stop.set()
    other.result()


@pytest.mark.parametrize("sent", [b"", b"\x16", b"\x16\x03\x03\x00\x05\x02"])
def test_peer_hangs_up(tcp_pair: SocketPair, sent: bytes) -> None:
    """A peer that closes instead of answering is Truncated."""
    ours, theirs = tcp_pair
    theirs.sendall(sent)
    theirs.shutdown(socket.SHUT_WR)
    other = Endpoint(lambda: _read_all(theirs))
    with pytest.raises(Truncated):
        run(ours, Engine(CLIENT), 10)
    assert split_records(other.result())[0][0] == ContentType.handshake


def _read_all(sock: socket.socket) -> bytes:
    found = bytearray()
    while data := sock.recv(2**14):
        found += data
    sock.close()
    return bytes(found)


def test_stranger_gets_its_alert(tcp_pair: SocketPair) -> None:
    """A stranger that has sent more than was read gets the alert, and no reset in front of it."""
    ours, theirs = tcp_pair
    theirs.sendall(b"GET / HTTP/1.1\r\n\r\n" * 100)
    other = Endpoint(lambda: _read_all(theirs))
    with pytest.raises(PeerMisbehaved, match="plain text"):
        run(ours, Engine(SERVER), 10)
    assert other.result() == encode_plain_alert(AlertDescription.unexpected_message)


def test_wrong_peer_over_a_socket(tcp_pair: SocketPair) -> None:
    """The server hears why the client left."""
    ours, theirs = tcp_pair

    def serve() -> None:
        with theirs:
            run(theirs, Engine(SERVER), 10)

    other = Endpoint(serve)
    wanted = (ReferenceIdentifier.for_host("example.com"),)
    with pytest.raises(IdentityError):
        run(ours, Engine(replace(CLIENT, identities=wanted)), 10)
    with pytest.raises(PeerAlert) as caught:
        other.result()
    assert caught.value.alert is AlertDescription.bad_certificate


def test_reset(tcp_pair: SocketPair) -> None:
    """A reset is the system's error, not one of ours."""
    ours, theirs = tcp_pair
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    theirs.close()
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        run(ours, Engine(CLIENT), 10)


def test_socket_that_is_not_tcp() -> None:
    """A Unix socket has no TCP_NODELAY and does as well."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        other = Endpoint(lambda: run(theirs, Engine(SERVER), 10))
        client = Engine(CLIENT)
        run(ours, client, 10)
        other.result()
        assert client.result() is not None


# -- part


def test_parting_from_a_peer_that_stays(
    tcp_pair: SocketPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that neither reads nor closes keeps us for the parting time only."""
    monkeypatch.setattr(handshake, "PARTING_TIME", 0.05)
    part(tcp_pair[0])
    assert tcp_pair[1].recv(1) == b""


def test_parting_from_a_peer_that_goes_on_talking(
    tcp_pair: SocketPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that sends without end is not listened to without end."""
    monkeypatch.setattr(handshake, "PARTING_BYTES", 2**10)
    monkeypatch.setattr(handshake, "PARTING_TIME", 60)
    tcp_pair[1].sendall(bytes(2**14))
    part(tcp_pair[0])


def test_parting_from_nobody(tcp_pair: SocketPair) -> None:
    """A socket that is closed already is no error."""
    tcp_pair[0].close()
    part(tcp_pair[0])
