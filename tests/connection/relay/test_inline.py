"""Tests of relays without a thread; test_pump of aio, and the endings by forward, have the rest."""

from __future__ import annotations

import socket
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.doubles import CLOSE_NOTIFY, RELAY, Lab, readable, reset, until
from tlsify.codepoints import Aead, ContentType
from tlsify.connection.relay import inline
from tlsify.connection.relay.inline import InlineRelay
from tlsify.connection.relay.loads import ROOM_SIZE
from tlsify.errors import PeerMisbehaved, RekeyUnsupported, Truncated
from tlsify.metrics.counters import counters
from tlsify.tls import wear
from tlsify.tls.messages import KeyUpdateRequest
from tlsify.tls.record import MAX_PLAINTEXT
from tlsify.tls.room import RecordBuffer

if TYPE_CHECKING:
    from tests.doubles import RawPeer
    from tlsify.connection.handoff import Handoff

BIG = memoryview(bytes(2**18))


@pytest.fixture
def pair(lab: Lab) -> tuple[Handoff, InlineRelay, RawPeer]:
    """Return a server's connection, and its client."""
    lab.is_inline = True
    handed, peer = lab.server(RELAY)
    assert isinstance(handed.sock, InlineRelay)
    assert handed.relay is handed.sock
    return handed, handed.sock, peer


def receive(sock: InlineRelay) -> bytes:
    """Receive once, as soon as there is something."""
    room, found = RecordBuffer(ROOM_SIZE), []

    def is_there() -> bool:
        try:
            found.append(bytes(room.view[: sock.receive(room)]))
        except BlockingIOError:
            return False
        return True

    until(is_there)
    return found[0]


def fill(sock: InlineRelay) -> int:
    """Send until the network takes no more; return how much."""
    size = 0
    while sock.flush():
        sock.put(BIG)
        size += len(BIG)
    return size


def test_data_and_a_key_update(pair: tuple[Handoff, InlineRelay, RawPeer]) -> None:
    """Requests of the peer's are answered beside the data."""
    handed, sock, peer = pair
    before = sock.progress()
    peer.sock.sendall(peer.key_update(KeyUpdateRequest.update_requested))
    peer.send_data(b"under the new key")
    assert receive(sock) == b"under the new key"
    assert sock.progress().received > before.received
    sock.put(memoryview(b"answer"))
    assert sock.flush()
    found = peer.recv()
    assert found is not None
    assert found[0] == ContentType.handshake
    peer.follow_key_update()
    assert peer.recv_data(6) == b"answer"
    handed.close()
    assert peer.recv() == CLOSE_NOTIFY


def test_rest_of_the_data_at_a_close(pair: tuple[Handoff, InlineRelay, RawPeer]) -> None:
    """It goes out in the background, and close_notify behind it, though input is left unread."""
    handed, sock, peer = pair
    peer.send_data(b"never read")
    size = fill(sock)
    assert sock.under_way() > 0
    handed.close()
    assert sock.fileno() == -1
    assert peer.recv_data(size) == bytes(size)
    assert peer.recv() == CLOSE_NOTIFY
    assert peer.recv() is None


def test_more_than_a_room_has(pair: tuple[Handoff, InlineRelay, RawPeer]) -> None:
    """It arrives, too, however much was put here before there was room in the network."""
    handed, sock, peer = pair
    size = fill(sock)
    for _ in range(4):
        sock.put(BIG)
    handed.close()
    size += 4 * len(BIG)
    assert peer.recv_data(size) == bytes(size)
    assert peer.recv() == CLOSE_NOTIFY


def test_rest_of_the_data_at_an_abort(pair: tuple[Handoff, InlineRelay, RawPeer]) -> None:
    """What was taken arrives; the end is a cut."""
    handed, sock, peer = pair
    size = fill(sock)
    handed.abort()
    assert peer.recv_data(size) == bytes(size)
    assert peer.recv() is None


def test_no_thread_for_the_rest(
    pair: tuple[Handoff, InlineRelay, RawPeer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then there is FIN without close_notify, and it is counted."""
    handed, sock, peer = pair
    fill(sock)
    for _ in range(8):  # the network may have a little room again by then
        sock.put(BIG)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(inline, "_Remainder", fail)
    before = counters()["shortage"]
    handed.close()
    assert counters()["shortage"] == before + 1
    with suppress(PeerMisbehaved):  # of the last record there is a part at most
        while (found := peer.recv()) is not None:
            assert found != CLOSE_NOTIFY


def test_ends(pair: tuple[Handoff, InlineRelay, RawPeer]) -> None:
    """One direction ends; the other goes on, and ends likewise."""
    handed, sock, peer = pair
    sock.shutdown(socket.SHUT_WR)
    sock.shutdown(socket.SHUT_WR)
    assert peer.recv() == CLOSE_NOTIFY
    with pytest.raises(BrokenPipeError):
        sock.put(BIG)
    peer.send_data(b"last")
    peer.close_notify()
    assert receive(sock) == b"last"
    assert receive(sock) == b""
    assert sock.join()
    handed.close()


@pytest.mark.parametrize("end", ["cut", "reset", "garbage"])
def test_no_good_end(pair: tuple[Handoff, InlineRelay, RawPeer], end: str) -> None:
    """It is an error each time it is asked for, behind the data in front of it."""
    handed, sock, peer = pair
    peer.send_data(b"data")
    assert receive(sock) == b"data"
    expected: type[Exception] = Truncated
    if end == "cut":
        peer.sock.shutdown(socket.SHUT_WR)
    elif end == "reset":
        reset(peer.sock)
        expected = ConnectionResetError
    else:
        peer.sock.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
        expected = PeerMisbehaved
    for _ in range(2):
        with pytest.raises(expected):
            receive(sock)
    assert isinstance(sock.failure, expected)
    handed.abort()


@pytest.mark.parametrize("name", ["send", "sendall", "sendmsg", "sendfile", "recv", "recv_into"])
def test_sockets_own_calls(pair: tuple[Handoff, InlineRelay, RawPeer], name: str) -> None:
    """What would put plain text beside the records, or read these, is refused."""
    _, sock, _ = pair
    with pytest.raises(TypeError, match="use receive and put"):
        getattr(sock, name)(b"plain text")


def test_key_that_wears_out(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both directions end before the limit: the peer sees a cut, the program the cause."""
    before = counters()["key_limit_reached"]
    monkeypatch.setattr(Aead, "record_limit", property(lambda _: 10 + wear._SPARE))
    lab.is_inline = True
    handed, peer = lab.server(RELAY)
    sock = handed.sock
    assert isinstance(sock, InlineRelay)
    sock.put(memoryview(bytes(10)))
    sock.put(BIG)
    assert readable(sock, 0)
    frames = []
    for _ in range(2):
        with pytest.raises(RekeyUnsupported, match="could not be changed") as raised:
            receive(sock)
        frames.append(len(list(traceback.walk_tb(raised.value.__traceback__))))
    assert frames[0] == frames[1]
    with pytest.raises(BrokenPipeError):
        sock.put(BIG)
    until(sock.flush)
    assert peer.recv_data(10) == bytes(10)
    rest = 0
    while (record := peer.recv()) is not None:
        assert record[0] == ContentType.application_data
        rest += len(record[1])
    assert rest <= 9 * MAX_PLAINTEXT
    handed.close()
    assert counters()["key_limit_reached"] == before + 1
