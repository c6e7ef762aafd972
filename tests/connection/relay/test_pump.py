"""Tests of relay."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
from typing import TYPE_CHECKING

import pytest

from tests.doubles import (
    CLOSE_NOTIFY,
    RELAY,
    Endpoint,
    Lab,
    RawPeer,
    new_session_ticket,
    queued,
    read,
    read_exactly,
    reset,
    until,
)
from tlsify.codepoints import Aead, AlertDescription, ContentType
from tlsify.config import ClosePolicy
from tlsify.connection.ending import patience
from tlsify.connection.establish import accept, connect
from tlsify.connection.relay import loads
from tlsify.connection.relay import pump as relay_module
from tlsify.connection.relay.pump import Relay
from tlsify.connection.stream import TLSSocket
from tlsify.errors import (
    DeadlineExceeded,
    HandshakeError,
    PeerMisbehaved,
    RekeyUnsupported,
    TlsifyError,
    Truncated,
)
from tlsify.metrics.counters import counters
from tlsify.tls import wear
from tlsify.tls.messages import KeyUpdateRequest, encode_key_update
from tlsify.tls.record import MAX_PLAINTEXT

if TYPE_CHECKING:
    from tlsify.connection.handoff import Handoff

# What a relay has in memory of each direction, at most.
BOUND = loads.ROOM_SIZE


def running(handoff: Handoff) -> Relay:
    """Return the relay behind a hand-off."""
    assert isinstance(handoff.relay, Relay)
    return handoff.relay


def fill(sock: socket.socket, block: bytes) -> int:
    """Write until for a while there is no room; return the number of bytes."""
    sock.settimeout(0)
    poller = select.poll()
    poller.register(sock, select.POLLOUT)
    written = 0
    while poller.poll(200):
        try:
            written += sock.send(block[written % len(block) :])
        except BlockingIOError:
            continue
        assert written < 2**26, "nothing holds the writer back"
    return written


def test_what_is_not_tcps(lab: Lab) -> None:
    """What was sent over a UNIX domain socket arrives behind the close, too, however late."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        client, server = lab.configs()
        other = Endpoint(lambda: RawPeer(theirs, server))
        stream = TLSSocket(connect(ours, client, RELAY))
        peer = other.result()
        sent = fill(stream, os.urandom(2**14))
        stream.close()
        received = 0
        while (record := peer.recv()) != CLOSE_NOTIFY:
            assert record is not None
            received += len(record[1])
        assert received == sent


def test_program_that_does_not_read(lab: Lab) -> None:
    """The peer is held back, the relay's memory stays bounded, and nothing is lost afterwards."""
    server, peer = lab.server(RELAY)
    sent = bytearray()
    sender_done = False

    def send() -> None:
        nonlocal sender_done
        for _ in range(1500):
            piece = os.urandom(1000) * 16
            sent.extend(piece)
            peer.send_data(piece)
        peer.close_notify()
        sender_done = True

    sender = Endpoint(send)
    relay = running(server)
    until(lambda: len(relay._to_program) > 0)
    poller = select.poll()
    poller.register(peer.sock, select.POLLOUT)
    until(lambda: not poller.poll(50))
    assert not sender_done
    assert len(relay._to_program) <= BOUND
    assert read_exactly(server, 2**26) == sent
    sender.result()


def test_peer_that_does_not_read(lab: Lab) -> None:
    """The program is held back likewise."""
    server, peer = lab.server(RELAY)
    block = os.urandom(MAX_PLAINTEXT)
    written = fill(server.sock, block)
    relay = running(server)
    assert len(relay.to_network) <= BOUND
    received = bytearray()
    while len(received) < written:
        record = peer.recv()
        assert record is not None
        received += record[1]
    assert received == (block * (written // len(block) + 1))[:written]


def test_peer_that_asks_and_does_not_read(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers to KeyUpdates that nobody takes do not pile up: no more of them are read."""
    server, peer = lab.server(RELAY)
    relay = running(server)
    # The kernel would find more room with each segment that comes.
    relay.network.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**14)
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)
    fill(server.sock, bytes(MAX_PLAINTEXT))
    limit = 2**8
    monkeypatch.setattr(relay_module, "_MAX_ANSWERS", limit)
    monkeypatch.setattr(relay_module, "READ_SIZE", limit)
    most = 0

    def ask() -> bool:
        nonlocal most
        peer.sock.sendall(peer.key_update(KeyUpdateRequest.update_requested))
        most = max(most, relay._tunnel.waiting)
        return most > limit and queued(relay.network) > 2 * limit

    until(ask)
    # An answer is as long as what it answers, and one read goes beyond the limit.
    assert most <= 2 * limit


def test_answer_in_two_pieces(lab: Lab) -> None:
    """The second does not wait until the peer has acknowledged the first."""
    server, _ = lab.server(RELAY)
    network = running(server).network
    assert network.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_rooms_are_left(lab: Lab) -> None:
    """A connection with nothing under way keeps no room."""
    server, peer = lab.server(RELAY)
    peer.send_data(b"data")
    assert read(server) == b"data"
    server.sock.sendall(b"answer")
    assert peer.recv_data(6) == b"answer"
    relay = running(server)
    until(lambda: relay.to_network._room is relay._to_program._room is None)
    assert 0 < len(loads.rooms) <= loads.SPARE_ROOMS


def watched(relay: Relay) -> list[tuple[bool, bool, bool]]:
    """Watch a relay; return what is known each time: settled, over, failed."""
    seen: list[tuple[bool, bool, bool]] = []
    relay.watch(lambda: seen.append((relay.is_settled, relay.is_over, relay.failure is not None)))
    return seen


def test_watched_to_a_good_end(lab: Lab) -> None:
    """Who watches is told of the peer's end, and then of the connection's."""
    server, peer = lab.server(RELAY)
    seen = watched(running(server))
    peer.close_notify()
    assert server.sock.recv(1) == b""
    until(lambda: len(seen) == 2)
    server.close()
    until(lambda: len(seen) == 3)
    assert seen == [(False, False, False), (True, False, False), (True, True, False)]


def test_watched_to_a_bad_end(lab: Lab) -> None:
    """A failure is told before the program can see the end of its stream."""
    server, peer = lab.server(RELAY)
    seen = watched(running(server))
    peer.sock.shutdown(socket.SHUT_WR)
    assert server.sock.recv(1) == b""
    assert seen[1] == (True, False, True)
    server.close()
    until(lambda: len(seen) == 3)
    assert watched(running(server)) == [(True, True, True)]


def test_relay_outlives_the_thread_that_started_it(lab: Lab) -> None:
    """And the end of Python's waiting for threads: atexit's callbacks may use connections."""
    made: list[Handoff] = []
    thread = threading.Thread(target=lambda: made.append(lab.server(RELAY)[0]))
    thread.start()
    thread.join()
    assert running(made[0]).join(0) is False
    assert {each.daemon for each in threading.enumerate() if each.name == "tlsify-relay"} == {True}


def test_close_with_bytes_under_way(lab: Lab) -> None:
    """What a program wrote before it closed still arrives, and close_notify behind it."""
    server, peer = lab.server(RELAY)
    content = os.urandom(2**18)
    sender = Endpoint(lambda: server.sock.sendall(content))
    received = peer.recv_data(10)
    sender.result()
    server.close()
    while len(received) < len(content):
        received += peer.recv_data(1)
    assert received == content
    assert peer.recv() == CLOSE_NOTIFY
    assert running(server).join(10)


@pytest.mark.parametrize("lingers", [False, True])
def test_program_gone_and_peer_stuck(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, *, lingers: bool
) -> None:
    """A peer that takes nothing keeps the relay of a closed program only so long."""
    monkeypatch.setattr(patience, "PATIENCE", 0.1)
    server, _peer = lab.server(RELAY)
    relay = running(server)
    relay.network.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**13)
    fill(server.sock, bytes(2**16))
    if lingers:  # which is of the program's close, not of one by a thread that has others to serve
        relay.network.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 60))
    server.sock.close()
    assert relay.join(10)
    assert isinstance(relay.failure, DeadlineExceeded)
    assert "hangs" in relay.failure.hint


def test_program_gone_and_peer_quiet(lab: Lab) -> None:
    """Once everything is out, nothing is waited for: the connection ends."""
    server, peer = lab.server(RELAY)
    server.close()
    assert running(server).join(10)
    assert peer.recv() == CLOSE_NOTIFY
    assert peer.recv() is None


def test_data_for_a_program_that_has_closed(lab: Lab) -> None:
    """It is dropped, and hurts nobody."""
    server, peer = lab.server(RELAY)
    server.close()

    def send_for_ever() -> None:
        while True:
            peer.send_data(bytes(MAX_PLAINTEXT))

    with pytest.raises(OSError, match=r"reset|[Bb]roken"):
        send_for_ever()
    assert running(server).join(10)


def test_half_close_by_the_program(lab: Lab) -> None:
    """A shutdown becomes close_notify and FIN; the other direction goes on until the peer's."""
    server, peer = lab.server(RELAY)
    server.sock.shutdown(socket.SHUT_WR)
    assert peer.recv() == CLOSE_NOTIFY
    assert peer.recv() is None
    for message in (b"one", b"two"):
        peer.send_data(message)
        assert read(server) == message
    assert not running(server).join(0)
    peer.close_notify()
    assert read(server) == b""
    assert running(server).join(10)
    assert running(server).failure is None


def test_service_of_a_relay(lab: Lab) -> None:
    """There is nothing to serve; it tells whether the relay goes on."""
    server, peer = lab.server(RELAY)
    assert server.service()
    peer.close_notify()
    server.shutdown()
    assert read(server) == b""
    assert running(server).join(10)
    assert not server.service()


@pytest.mark.parametrize("way", ["fin", "rst", "bad record"])
def test_failure_is_kept(lab: Lab, way: str) -> None:
    """What a descriptor cannot tell stands in ``failure``; the peer's FIN is not our end."""
    server, peer = lab.server(RELAY)
    expected: type[Exception]
    if way == "fin":
        peer.sock.shutdown(socket.SHUT_WR)
        expected = Truncated
    elif way == "rst":
        reset(peer.sock)
        expected = ConnectionResetError
    else:
        peer.sock.sendall(b"\x17\x03\x03\x00\x11" + bytes(17))
        expected = PeerMisbehaved
    assert server.sock.recv(1) == b""
    assert isinstance(running(server).failure, expected)
    if way == "fin":
        server.sock.sendall(b"data")
        assert peer.recv_data(4) == b"data"
        server.close()
        assert peer.recv() == CLOSE_NOTIFY
    assert running(server).join(60)
    with pytest.raises(expected):
        server.raise_failure()


def test_tickets_come_first(lab: Lab) -> None:
    """The engine's held-back tickets are the relay's first records."""
    ours, theirs = lab.tcp()
    client, server_config = lab.configs()
    other = Endpoint(lambda: accept(theirs, server_config, RELAY))
    peer = RawPeer(ours, client)
    server = lab.keep(other.result())
    server.sock.sendall(b"data")
    # Passing over them, the peer can open the data only with the right sequence number.
    assert peer.recv() == (ContentType.application_data, b"data")
    server.sock.close()


def test_close_behind_user_canceled(lab: Lab) -> None:
    """RFC 8446 6.1: that is where close_notify is wanted, and it is an end in good order."""
    handoff, peer = lab.client(RELAY)
    peer.send_data(b"some")
    peer.send_alert(AlertDescription.user_canceled, level=1)
    peer.close_notify()
    assert read_exactly(handoff, 100) == b"some"
    assert running(handoff).failure is None
    handoff.close()


@pytest.mark.parametrize("orderly", [True, False], ids=["closed", "failed"])
def test_end_in_front_of_unread_data(lab: Lab, *, orderly: bool) -> None:
    """A relay that can send no more closes on what the program wrote: its end is told as it was."""
    handoff, peer = lab.client(RELAY)
    stream, relay = TLSSocket(handoff), running(handoff)
    if orderly:
        peer.send_data(b"some")
        peer.close_notify()
        until(lambda: relay._inbound.name == "DONE")
    else:
        peer.sock.sendall(peer.data(b"some") + b"\x17\x03\x03\x00\x20" + bytes(32))
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        write_on(stream, peer)
    assert relay.join(10)
    assert stream.recv(100) == b"some"
    if orderly:
        assert stream.recv(100) == b""
        assert stream.recv_into(bytearray(1)) == 0
    else:
        with pytest.raises(PeerMisbehaved):
            stream.recv(100)
    stream.close()


def write_on(stream: TLSSocket, peer: RawPeer) -> None:
    """Write until that is an error, to a peer that closes on unread data."""
    try:
        fill(stream, bytes(2**16))
    finally:  # the relay may take no more before it is full
        peer.sock.close()
    stream.settimeout(60)
    while True:
        stream.sendall(bytes(2**16))


def test_what_is_under_way(lab: Lab) -> None:
    """It grows with what the program writes, and shrinks to nothing as the peer takes it."""
    handoff, peer = lab.client(RELAY)
    relay = running(handoff)
    until(lambda: relay.under_way() == 0)  # the handshake's last flight
    written = fill(handoff.sock, bytes(2**16))
    before = relay.under_way()
    assert before > 0
    peer.recv_data(written)
    until(lambda: relay.under_way() == 0)
    handoff.close()
    assert relay.join(10)
    assert relay.under_way() == 0


# -- a handshake message of the peer's that is here in part

_TICKET = new_session_ticket(b"t" * 200)
_REQUEST = encode_key_update(KeyUpdateRequest.update_requested)


@pytest.mark.parametrize(
    ("message", "split"),
    [(_TICKET, 4), (_TICKET, 40), (_TICKET, len(_TICKET) - 1), (_REQUEST, 2), (_REQUEST, 4)],
)
def test_writing_meanwhile(lab: Lab, message: bytes, split: int) -> None:
    """What the program writes waits for the rest of the message, and nothing is lost."""
    handed, peer = lab.client(RELAY)
    stream, relay = TLSSocket(handed), running(handed)
    peer.send_data(b"first")
    peer.send(ContentType.handshake, message[:split])
    assert stream.recv(9) == b"first"
    until(lambda: not queued(relay.network))
    stream.sendall(b"request")
    stream.sendall(b", and more" * 20_000)
    stream.shutdown(socket.SHUT_WR)
    peer.send(ContentType.handshake, message[split:])
    if message is _REQUEST:
        peer.turn_key()
        peer.recv_data(0)
    peer.send_data(b"second")
    peer.close_notify()
    assert stream.recv(9) == b"second"
    assert stream.recv(9) == b""
    received = bytearray()
    while (record := peer.recv()) not in {None, CLOSE_NOTIFY}:
        assert record is not None
        if record == (
            ContentType.handshake,
            encode_key_update(KeyUpdateRequest.update_not_requested),
        ):
            peer.follow_key_update()
        else:
            received += record[1]
    assert record == CLOSE_NOTIFY
    assert received == b"request" + b", and more" * 20_000
    stream.close()


@pytest.mark.parametrize("end", ["close", "shutdown"])
@pytest.mark.parametrize("rest", [True, False])
def test_ending_meanwhile(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, end: str, *, rest: bool
) -> None:
    """An end waits likewise, so that it is one in good order; not for ever, and then it is not."""
    if not rest:
        monkeypatch.setattr(patience, "PATIENCE", 0.1)
    handed, peer = lab.client(RELAY)
    relay = running(handed)
    peer.send(ContentType.handshake, _TICKET[:40])
    until(lambda: not queued(relay.network))
    handed.sock.sendall(b"last")
    handed.close() if end == "close" else handed.shutdown()
    if rest:
        peer.send(ContentType.handshake, _TICKET[40:])
        assert peer.recv_data(4) == b"last"
        assert peer.recv() == CLOSE_NOTIFY
        assert peer.recv() is None
        with contextlib.suppress(OSError):  # it may be too late
            peer.close_notify()
        handed.close()
    else:
        assert peer.recv() is None
        assert isinstance(relay.failure, HandshakeError)
        assert "hangs" in relay.failure.hint
    assert relay.join(60)


def test_cut_meanwhile(lab: Lab) -> None:
    """The rest will never come: what waits for it is given up, and the end is told as it was."""
    handed, peer = lab.client(RELAY)
    stream, relay = TLSSocket(handed), running(handed)
    peer.send(ContentType.handshake, _TICKET[:40])
    until(lambda: not queued(relay.network))
    stream.sendall(b"lost")
    until(lambda: relay._tunnel.is_waiting)
    until(lambda: relay.under_way() == 4)
    peer.sock.shutdown(socket.SHUT_WR)
    with pytest.raises(Truncated):
        stream.recv(9)
    assert peer.recv() is None
    stream.close()
    assert relay.join(60)


def test_wrong_meanwhile(lab: Lab) -> None:
    """What comes instead of the rest is answered, and told, though a write has found it."""
    handed, peer = lab.client(RELAY)
    stream, relay = TLSSocket(handed), running(handed)
    peer.send(ContentType.handshake, _TICKET[:40])
    until(lambda: not queued(relay.network))
    peer.send_data(b"not the rest")
    with pytest.raises(PeerMisbehaved):
        stream.recv(9)
    assert peer.recv_alert() is AlertDescription.unexpected_message
    stream.close()


# -- a relay that fails


@pytest.mark.parametrize("where", ["receive", "send_into", "output_into"])
def test_crash(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    """It is an end in good order for neither side, and has a name."""
    handed, peer = lab.server(RELAY)
    stream, relay = TLSSocket(handed, ClosePolicy.RELAXED), running(handed)

    def fail(*_: object) -> int:
        raise RuntimeError("planted")

    monkeypatch.setattr(relay._tunnel, where, fail)
    peer.send_data(b"data")
    with contextlib.suppress(OSError):
        stream.sendall(b"data")
    assert relay.join(60)
    with contextlib.suppress(TlsifyError):
        assert stream.recv(9) == b"data", "which came before"
    with pytest.raises(TlsifyError, match="planted"):
        stream.recv(9)
    with contextlib.suppress(ConnectionResetError):
        assert peer.recv() is None
    assert "the relay of a connection failed" in caplog.text
    stream.close()


@pytest.mark.parametrize("closing", ClosePolicy)
def test_sending_goes_on_behind_a_cut(lab: Lab, closing: ClosePolicy) -> None:
    """A peer's FIN ends its direction: ours has its end in good order."""
    handed, peer = lab.server(RELAY)
    stream = TLSSocket(handed, closing)
    peer.send_data(b"request")
    peer.sock.shutdown(socket.SHUT_WR)
    assert stream.recv(9) == b"request"
    if closing is ClosePolicy.STRICT:
        with pytest.raises(Truncated):
            stream.recv(9)
    else:
        assert stream.recv(9) == b""
    stream.sendall(b"answer")
    stream.close()
    assert peer.recv_data(6) == b"answer"
    assert peer.recv() == CLOSE_NOTIFY
    assert peer.recv() is None


def test_program_that_reads_no_more(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may write all the same, and ends in order; its relay does not turn in circles."""
    handed, peer = lab.server(RELAY)
    relay, turns = running(handed), 0
    act = relay._act

    def counted(network: int, program: int) -> None:
        nonlocal turns
        turns += 1
        act(network, program)

    monkeypatch.setattr(relay, "_act", counted)
    handed.sock.shutdown(socket.SHUT_RD)
    for piece in (b"one", b"two"):
        peer.send_data(b"unread")
        until(lambda: not queued(relay.network))
        handed.sock.sendall(piece)
        assert peer.recv_data(3) == piece
    assert turns < 50
    handed.shutdown()
    assert peer.recv() == CLOSE_NOTIFY
    with contextlib.suppress(OSError):  # the relay may be done already
        peer.close_notify()
    handed.sock.close()
    assert relay.join(60)


def test_lost_end(lab: Lab) -> None:
    """A descriptor that is merely closed is no end in good order, but loses nothing."""
    handed, peer = lab.server(RELAY)
    handed.sock.sendall(b"some")
    handed.sock.close()
    assert peer.recv_data(4) == b"some"
    assert peer.recv() is None


def test_unread_data_costs_nothing(lab: Lab) -> None:
    """A program that reads nothing of what has come loses nothing of what it sends."""
    stream, peer = lab.stream(RELAY)
    content = os.urandom(600_000)
    peer.send_data(b"unread" * 1000)
    stream.sendall(content)
    stream.close()
    peer.send_data(b"late" * 1000)
    assert peer.recv_data(len(content)) == content
    assert peer.recv() == CLOSE_NOTIFY
    assert peer.recv() is None


def test_key_that_wears_out(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both directions end before the limit: the peer sees a cut, the program the cause."""
    before = counters()["key_limit_reached"]
    monkeypatch.setattr(Aead, "record_limit", property(lambda _: 10 + wear._SPARE))
    stream, peer = lab.stream(RELAY)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        stream.sendall(bytes(2**20))
    size = 0
    while (record := peer.recv()) is not None:
        assert record[0] == ContentType.application_data
        size += len(record[1])
    assert 0 < size <= 10 * MAX_PLAINTEXT
    for _ in range(2):
        with pytest.raises(RekeyUnsupported, match="could not be changed"):
            stream.recv(9)
    assert counters()["key_limit_reached"] == before + 1
