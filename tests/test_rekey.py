"""Tests of KeyUpdate in the kernel: by the thousand, at every point, in every shape.

Where a kernel cannot rekey, the documented end of the connection is asserted instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import select
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.doubles import (
    CLOSE_NOTIFY,
    KERNEL,
    Endpoint,
    Lab,
    RawPeer,
    new_session_ticket,
    queued,
    read_exactly,
    recv_exactly,
    until,
)
from tlsify.aio.loop_socket import LoopSocket
from tlsify.codepoints import Aead, AlertDescription, ContentType, ProtocolVersion
from tlsify.connection import sender, stream
from tlsify.connection.establish import accept
from tlsify.connection.stream import TLSSocket
from tlsify.errors import (
    HandshakeError,
    KeyUpdateRefused,
    PeerMisbehaved,
    RekeyUnsupported,
)
from tlsify.keys import Direction
from tlsify.ktls import ulp
from tlsify.ktls.diag import tls_stat
from tlsify.ktls.probe import capabilities, polls_partial_records
from tlsify.metrics.counters import counters
from tlsify.tls import ration
from tlsify.tls.messages import KeyUpdateRequest, encode_key_update
from tlsify.tls.ration import BYTES_FOR_ONE, MOST
from tlsify.tls.record import MAX_PLAINTEXT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tlsify.tls.session import Session

pytestmark = [pytest.mark.ktls, pytest.mark.each_kernel]

TLS12, TLS13 = ProtocolVersion.TLSv1_2, ProtocolVersion.TLSv1_3
HANDSHAKE = ContentType.handshake
MANY = 1000
PATIENCE = 60.0
NOT_REQUESTED, REQUESTED = KeyUpdateRequest
KEY_UPDATE = encode_key_update(NOT_REQUESTED)


@pytest.fixture(autouse=True)
def _probed() -> None:
    """Probe now: probing rekeys too, and moves the counters."""
    capabilities()
    polls_partial_records()


def _can_rekey() -> bool:
    return capabilities().rekey


class Watch:
    """How far the kernel's counters and our own move."""

    def __init__(self) -> None:
        """Begin."""
        self._kernel, self._ours = tls_stat(), counters()

    def kernel(self) -> dict[str, int]:
        """Return what the kernel counted; 0 for what it does not know."""
        names = ("RxRekeyReceived", "RxRekeyOk", "RxRekeyError", "TxRekeyOk", "TxRekeyError")
        now = tls_stat()
        return {
            name: now.get(f"Tls{name}", 0) - self._kernel.get(f"Tls{name}", 0)
            for name in (*names, "DecryptError")
        }

    def ours(self, name: str) -> int:
        """Return what we counted under a name."""
        return counters()[name] - self._ours[name]

    def check(self, *, received: int = 0, sent: int = 0) -> None:
        """Assert that so many keys were changed, and that nothing failed."""
        assert self.kernel() == {
            "RxRekeyReceived": received,
            "RxRekeyOk": received,
            "RxRekeyError": 0,
            "TxRekeyOk": sent,
            "TxRekeyError": 0,
            "DecryptError": 0,
        }
        assert self.ours("key_update_received") == received
        assert self.ours("key_update_sent") == sent


def _send_each(send: Callable[[bytes], None], pieces: list[bytes]) -> None:
    for piece in pieces:
        send(piece)


def _refused(tls: TLSSocket, peer: RawPeer) -> None:
    """Assert the end that a KeyUpdate means where the kernel cannot rekey."""
    for _ in range(2):
        with pytest.raises(KeyUpdateRefused, match="KeyUpdate"):
            tls.recv(100)
    assert peer.recv_alert() is AlertDescription.internal_error
    assert peer.recv() is None


# -- by the thousand


@pytest.fixture
def unrationed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control records earn themselves."""
    monkeypatch.setattr(ration, "BYTES_FOR_ONE", 1)
    monkeypatch.setattr(ration, "MOST", 10**6)


@pytest.mark.heavy
@pytest.mark.usefixtures("unrationed")
def test_a_thousand_received(lab: Lab) -> None:
    """A peer that changes its key after every third record loses nothing by it."""
    tls, peer = lab.stream(KERNEL)
    tls.settimeout(PATIENCE)
    watch = Watch()
    flight, expected = bytearray(), bytearray()
    for number in range(MANY if _can_rekey() else 1):
        for part in range(3):
            piece = b"%d.%d " % (number, part)
            expected += piece
            flight += peer.data(piece)
        flight += peer.key_update(NOT_REQUESTED)
    sender = Endpoint(lambda: peer.sock.sendall(flight))
    assert recv_exactly(tls, len(expected)) == expected
    sender.result()
    if not _can_rekey():
        _refused(tls, peer)
        return
    peer.send_data(b"last")
    assert tls.recv(100) == b"last"
    watch.check(received=MANY)


@pytest.mark.heavy
def test_a_thousand_sent(lab: Lab) -> None:
    """We change our key a thousand times, and a peer that follows can open every record."""
    tls, peer = lab.stream(KERNEL)
    tls.settimeout(PATIENCE)
    watch = Watch()
    if not _can_rekey():
        with pytest.raises(RekeyUnsupported, match="cannot rekey"):
            tls.handoff.key_update()
        tls.sendall(b"as before")
        assert peer.recv_data(9) == b"as before"
        watch.check()
        return

    def follow() -> list[bytes]:
        pieces: list[bytes] = []
        while len(pieces) < MANY:
            assert peer.recv() == (HANDSHAKE, KEY_UPDATE)
            peer.follow_key_update()
            pieces.append(peer.recv_data(1))
        return pieces

    following = Endpoint(follow)
    for number in range(MANY):
        tls.handoff.key_update()
        tls.sendall(b"%d" % number)
    assert following.result(PATIENCE) == [b"%d" % number for number in range(MANY)]
    watch.check(sent=MANY)


@pytest.mark.heavy
@pytest.mark.usefixtures("unrationed")
def test_a_thousand_both_ways_at_once(lab: Lab) -> None:
    """Both ends change their keys all the time, ask for as much, and no byte is lost."""
    if not _can_rekey():
        _refused_between_two_of_us(lab)
        return
    ends = [TLSSocket(handoff) for handoff in lab.pair(KERNEL)]
    watch = Watch()

    def write(tls: TLSSocket) -> None:
        for number in range(MANY // 2):
            for part in range(4):
                tls.sendall(b"%06d.%d " % (number, part))
            tls.handoff.key_update(request=number % 5 == 0)
        tls.shutdown(socket.SHUT_WR)

    def read(tls: TLSSocket) -> bytes:
        received = bytearray()
        while data := tls.recv(2**16):
            received += data
        return bytes(received)

    for tls in ends:
        tls.settimeout(PATIENCE)
    readers = [Endpoint(lambda tls=tls: read(tls)) for tls in ends]  # type: ignore[misc]
    writers = [Endpoint(lambda tls=tls: write(tls)) for tls in ends]  # type: ignore[misc]
    for writer in writers:
        writer.result(PATIENCE)
    expected = b"".join(b"%06d.%d " % it for it in itertools.product(range(MANY // 2), range(4)))
    for reader in readers:
        assert reader.result(PATIENCE) == expected
    # How many of the requests were answered by a KeyUpdate of their own is up to the threads.
    sent = watch.ours("key_update_sent")
    assert MANY <= sent <= MANY + MANY // 5
    watch.check(received=sent, sent=sent)


def _refused_between_two_of_us(lab: Lab) -> None:
    for handoff in lab.pair(KERNEL):
        with pytest.raises(RekeyUnsupported):
            handoff.key_update(request=True)


def test_requests_that_cross(lab: Lab) -> None:
    """Both ends ask at the same moment: each answers once, and neither asks again."""
    if not _can_rekey():
        _refused_between_two_of_us(lab)
        return
    ends = [TLSSocket(handoff) for handoff in lab.pair(KERNEL)]
    watch = Watch()
    for round_trip in range(5):
        for tls in ends:
            tls.handoff.key_update(request=True)
            tls.sendall(b"%d" % round_trip)
        for _ in range(2):  # the answer to the request comes in front of the second piece
            for tls in ends:
                assert tls.recv(1) == b"%d" % round_trip
                tls.sendall(b"%d" % round_trip)
        for tls in ends:
            assert tls.recv(1) == b"%d" % round_trip
    watch.check(received=20, sent=20)


# -- at every point of a transfer


def _read_waiting(tls: TLSSocket, size: int) -> bytes:
    tls.settimeout(None)
    return recv_exactly(tls, size)


def _read_within_a_time(tls: TLSSocket, size: int) -> bytes:
    tls.settimeout(PATIENCE)
    return recv_exactly(tls, size)


def _read_when_polled(tls: TLSSocket, size: int) -> bytes:
    """One receive for each event, as an event loop does."""
    tls.settimeout(0)
    poller = select.poll()
    poller.register(tls, select.POLLIN)
    received = bytearray()
    while len(received) < size:
        assert poller.poll(PATIENCE * 1000), "poll stays silent"
        with contextlib.suppress(BlockingIOError):
            data = tls.recv(size - len(received))
            if not data:
                break
            received += data
    return bytes(received)


class _Collector(asyncio.BufferedProtocol):
    """Takes a number of bytes, or what comes before the end; it gives no more room than needed."""

    def __init__(self, size: int) -> None:
        self.received = bytearray()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._left = bytearray(size)

    def get_buffer(self, sizehint: int) -> bytearray:
        del sizehint
        return self._left

    def buffer_updated(self, nbytes: int) -> None:
        self.received += self._left[:nbytes]
        self._left = bytearray(len(self._left) - nbytes)
        assert self._left, "more has come than was sent"

    def eof_received(self) -> None:
        self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and not self.done.done():
            self.done.set_exception(exc)
        self._finish()

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


READERS = [
    pytest.param(_read_waiting, id="waiting"),
    pytest.param(_read_within_a_time, id="timeout"),
    pytest.param(_read_when_polled, id="polling"),
]
each_reader = pytest.mark.parametrize("take", READERS)


def _in_front(peer: RawPeer) -> list[bytes]:
    return [peer.key_update(NOT_REQUESTED) + peer.data(b"abcd")]


def _between(peer: RawPeer) -> list[bytes]:
    return [peer.data(b"ab"), peer.key_update(NOT_REQUESTED), peer.data(b"cd")]


def _behind_data(peer: RawPeer) -> list[bytes]:
    return [peer.data(b"ab") + peer.key_update(NOT_REQUESTED), peer.data(b"cd")]


def _in_one_segment(peer: RawPeer) -> list[bytes]:
    return [peer.data(b"ab") + peer.key_update(NOT_REQUESTED) + peer.data(b"cd")]


def _last_of_all(peer: RawPeer) -> list[bytes]:
    return [peer.data(b"abcd") + peer.key_update(NOT_REQUESTED)]


def _requested(peer: RawPeer) -> list[bytes]:
    return [peer.data(b"ab") + peer.key_update(REQUESTED) + peer.data(b"cd")]


POINTS = (_in_front, _between, _behind_data, _in_one_segment, _last_of_all, _requested)
each_point = pytest.mark.parametrize("point", POINTS, ids=lambda it: it.__name__.strip("_"))


@each_reader
@each_point
def test_at_a_point(lab: Lab, point: Callable[[RawPeer], list[bytes]], take: Any) -> None:
    """Wherever it stands in front of close_notify, all data is given, and the end is in order."""
    tls, peer = lab.stream(KERNEL)
    watch = Watch()
    segments = [*point(peer), peer.seal(*CLOSE_NOTIFY)]
    sender = Endpoint(lambda: _send_each(peer.sock.sendall, segments))
    if not _can_rekey():
        with pytest.raises(KeyUpdateRefused):
            take(tls, 5)
        assert peer.recv_alert() is AlertDescription.internal_error
        return
    assert take(tls, 4) == b"abcd"
    assert take(tls, 1) == b""
    sender.result()
    answered = point is _requested
    assert not answered or peer.recv() == (HANDSHAKE, KEY_UPDATE)
    watch.check(received=1, sent=int(answered))


@each_point
def test_at_a_point_in_asyncio(lab: Lab, point: Callable[[RawPeer], list[bytes]]) -> None:
    """A transport's loop gets the same, without anybody polling twice."""
    server, peer = lab.server(KERNEL)
    tls = LoopSocket(server)
    tls.settimeout(0)
    segments = [*point(peer), peer.seal(*CLOSE_NOTIFY)]

    async def collect() -> bytes:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.connect_accepted_socket(lambda: _Collector(5), tls)
        sender = Endpoint(lambda: _send_each(peer.sock.sendall, segments))
        try:
            async with asyncio.timeout(PATIENCE):
                await protocol.done
        finally:
            transport.abort()
            # Who is refused half-way cannot send the rest.
            with contextlib.nullcontext() if _can_rekey() else contextlib.suppress(OSError):
                sender.result()
        return bytes(protocol.received)

    if _can_rekey():
        assert asyncio.run(collect()) == b"abcd"
    else:
        with pytest.raises(ConnectionAbortedError, match="KeyUpdate"):
            asyncio.run(collect())


@each_reader
def test_together_with_finished(lab: Lab, take: Any) -> None:
    """A client may change its key before its first byte of data, in the segment of Finished."""
    ours, theirs = lab.tcp()
    client, server = lab.configs()
    other = Endpoint(lambda: accept(theirs, server, KERNEL))
    peer = RawPeer(ours, client, hold=True)
    ours.sendall(peer.held + peer.key_update(NOT_REQUESTED) + peer.data(b"data"))
    tls = TLSSocket(lab.keep(other.result()))
    if _can_rekey():
        assert take(tls, 4) == b"data"
    else:
        with pytest.raises(KeyUpdateRefused):
            take(tls, 4)


@each_reader
def test_from_a_server(lab: Lab, take: Any) -> None:
    """A client follows as well, behind tickets."""
    client, peer = lab.client(KERNEL)
    tls = TLSSocket(client)
    watch = Watch()
    ticket = peer.seal(HANDSHAKE, new_session_ticket())
    peer.sock.sendall(ticket + peer.key_update(NOT_REQUESTED) + peer.data(b"data"))
    if not _can_rekey():
        with pytest.raises(KeyUpdateRefused):
            take(tls, 4)
        return
    assert take(tls, 4) == b"data"
    watch.check(received=1)


@pytest.mark.parametrize("request_update", [NOT_REQUESTED, REQUESTED])
@each_reader
def test_after_our_close_notify(lab: Lab, take: Any, request_update: KeyUpdateRequest) -> None:
    """Half closed we still follow; there is nothing to answer with."""
    tls, peer = lab.stream(KERNEL)
    watch = Watch()
    tls.shutdown(socket.SHUT_WR)
    assert peer.recv() == CLOSE_NOTIFY
    assert peer.recv() is None
    segments = peer.data(b"ab") + peer.key_update(request_update) + peer.data(b"cd")
    peer.sock.sendall(segments + peer.key_update(request_update))
    if not _can_rekey():
        with pytest.raises(KeyUpdateRefused):
            take(tls, 4)
        return
    assert take(tls, 4) == b"abcd"
    peer.sock.sendall(peer.data(b"ef") + peer.seal(*CLOSE_NOTIFY))
    assert take(tls, 3) == b"ef"
    watch.check(received=2)


def test_renegotiation_asked_for_after_our_close_notify(lab: Lab) -> None:
    """Likewise in TLS 1.2: what cannot be declined any more is passed over."""
    client, peer = lab.client(KERNEL, TLS12)
    tls = TLSSocket(client)
    tls.shutdown(socket.SHUT_WR)
    peer.send(HANDSHAKE, bytes(4))
    peer.send_data(b"data")
    assert tls.recv(9) == b"data"
    peer.close_notify()
    assert tls.recv(9) == b""


def test_sending_after_our_close_notify(lab: Lab) -> None:
    """It is refused as on any socket, and what the peer still sends can be read."""
    tls, peer = lab.stream(KERNEL)
    tls.shutdown(socket.SHUT_WR)
    with pytest.raises(BrokenPipeError):
        tls.sendall(b"too late")
    peer.send_data(b"data")
    assert tls.recv(9) == b"data"


def _segments(record: bytes, tail: bytes) -> Iterator[tuple[bytes, bytes]]:
    stream_of = record + tail
    for cut in range(1, len(record)):
        yield stream_of[:cut], stream_of[cut:]


@pytest.mark.parametrize("timeout", [0, PATIENCE], ids=["polling", "timeout"])
def test_split_anywhere(lab: Lab, timeout: float) -> None:
    """Wherever the network cuts the KeyUpdate in two, the data behind it arrives."""
    tls, peer = lab.stream(KERNEL)
    tls.settimeout(timeout)
    cuts = range(1, 27 if _can_rekey() else 2)
    take = _read_when_polled if timeout == 0 else _read_within_a_time
    for cut in cuts:
        # Three records of data for each KeyUpdate: the budget is not what is tested here.
        record = peer.key_update(NOT_REQUESTED)
        assert len(record) == 27
        tail = b"".join(peer.data(b"%02d" % number) for number in (cut, 0, 1))
        peer.sock.sendall(record[:cut])
        until(lambda cut=cut: queued(tls) == cut)  # type: ignore[misc]
        tls.settimeout(0)
        with pytest.raises(BlockingIOError):
            tls.recv(9)
        rest = record[cut:] + tail
        peer.sock.sendall(rest)
        if not _can_rekey():
            with pytest.raises(KeyUpdateRefused):
                take(tls, 6)
            return
        assert take(tls, 6) == b"%02d0001" % cut


def test_data_is_taken_bytewise(lab: Lab) -> None:
    """A buffer of one byte holds neither the data nor the KeyUpdate, and loses none of them."""
    tls, peer = lab.stream(KERNEL)
    tls.settimeout(PATIENCE)
    peer.sock.sendall(peer.data(b"ab") + peer.key_update(NOT_REQUESTED) + peer.data(b"cd"))
    if not _can_rekey():
        assert tls.recv(1) + tls.recv(1) == b"ab"
        with pytest.raises(KeyUpdateRefused):
            tls.recv(1)
        return
    assert b"".join(tls.recv(1) for _ in range(4)) == b"abcd"


def test_served_by_a_plain_program(lab: Lab) -> None:
    """Reading the bare descriptor and calling ``service`` for EIO follows as well."""
    server, peer = lab.server(KERNEL)
    server.sock.settimeout(None)  # Python polls first, and poll hides a KeyUpdate
    flight = b"".join(
        peer.data(b"%d" % number) + peer.key_update(NOT_REQUESTED) for number in range(5)
    )
    peer.sock.sendall(flight + peer.seal(*CLOSE_NOTIFY))
    if not _can_rekey():
        with pytest.raises(KeyUpdateRefused):
            read_exactly(server, 6)
        return
    assert read_exactly(server, 6) == b"01234"


# -- in every shape


def _fragments(message: bytes, parts: int) -> list[bytes]:
    """Cut a message so that all parts but the last are single bytes."""
    return [message[i : i + 1] for i in range(parts - 1)] + [message[parts - 1 :]]


@pytest.mark.parametrize("parts", [2, 3, 4, 5])
@each_reader
def test_fragmented(lab: Lab, parts: int, take: Any) -> None:
    """The kernel waits for a key at the first fragment already; it gets the current one back."""
    tls, peer = lab.stream(KERNEL)
    watch = Watch()
    flight = peer.data(b"one ")
    for fragment in _fragments(KEY_UPDATE, parts):
        flight += peer.seal(HANDSHAKE, fragment)
    peer.turn_key()
    peer.sock.sendall(flight + peer.data(b"two"))
    if not _can_rekey():
        with pytest.raises(KeyUpdateRefused):
            take(tls, 7)
        return
    assert take(tls, 7) == b"one two"
    assert watch.kernel()["DecryptError"] == 0
    assert watch.ours("key_update_received") == 1


@each_reader
def test_coalesced_with_a_ticket(lab: Lab, take: Any) -> None:
    """The kernel does not notice a KeyUpdate behind a ticket in its record; the session does."""
    client, peer = lab.client(KERNEL)
    tls, watch = TLSSocket(client), Watch()
    flight = peer.data(b"one ") + peer.seal(HANDSHAKE, new_session_ticket() + KEY_UPDATE)
    peer.turn_key()
    peer.sock.sendall(flight + peer.data(b"two"))
    if not _can_rekey():
        with pytest.raises(KeyUpdateRefused):
            take(tls, 7)
        return
    assert take(tls, 7) == b"one two"
    assert watch.kernel()["DecryptError"] == 0
    assert watch.ours("ticket_received") == watch.ours("key_update_received") == 1


@each_reader
def test_ticket_that_looks_like_one_in_the_middle(lab: Lab, take: Any) -> None:
    """A fragment that begins with a KeyUpdate's first byte is none: the key stays as it is."""
    client, peer = lab.client(KERNEL)
    tls, watch = TLSSocket(client), Watch()
    message = new_session_ticket(b"\x18" * 40)
    cut = message.index(b"\x18\x18\x18") + 5
    flight = peer.data(b"one ")
    for fragment in (message[:cut], message[cut : cut + 20], message[cut + 20 :]):
        flight += peer.seal(HANDSHAKE, fragment)
    peer.sock.sendall(flight + peer.data(b"two"))
    assert take(tls, 7) == b"one two"
    assert watch.kernel()["DecryptError"] == 0
    assert watch.ours("ticket_received") == 1
    assert watch.ours("key_update_received") == 0


def _read_when_it_comes(tls: TLSSocket) -> None:
    while tls.recv(2**16):
        pass


def _ends_with(
    tls: TLSSocket, peer: RawPeer, alert: AlertDescription, match: str | None = None
) -> None:
    """Assert that the connection ends with an alert, that nothing hangs, and that it stays so."""
    for _ in range(2):
        with pytest.raises(PeerMisbehaved, match=match) as raised:
            _read_when_it_comes(tls)
        assert raised.value.alert is alert
    assert peer.recv_alert() is alert
    assert peer.recv() is None


@pytest.mark.parametrize(
    ("payload", "alert"),
    [
        pytest.param(KEY_UPDATE * 2, AlertDescription.unexpected_message, id="two"),
        pytest.param(KEY_UPDATE + b"\x18", AlertDescription.unexpected_message, id="one and more"),
        pytest.param(
            KEY_UPDATE + new_session_ticket(), AlertDescription.unexpected_message, id="not last"
        ),
        pytest.param(b"\x18\0\0\1\2", AlertDescription.illegal_parameter, id="no such request"),
        pytest.param(b"\x18\0\0\0", AlertDescription.decode_error, id="empty"),
        pytest.param(b"\x18\0\0\2\0\0", AlertDescription.decode_error, id="too long"),
        pytest.param(b"\x18\xff\xff\xff", None, id="endless"),
    ],
)
def test_malformed(lab: Lab, payload: bytes, alert: AlertDescription | None) -> None:
    """What is not exactly one KeyUpdate at the end of its record ends the connection."""
    client, peer = lab.client(KERNEL)
    tls = TLSSocket(client)
    tls.settimeout(PATIENCE)
    peer.sock.sendall(peer.data(b"data") + peer.seal(HANDSHAKE, payload))
    assert tls.recv(100) == b"data"
    peer.send_data(b"never given")
    if alert is None:
        with pytest.raises(PeerMisbehaved) as raised:
            tls.recv(100)
        assert raised.value.alert is peer.recv_alert()
    else:
        _ends_with(tls, peer, alert)


def test_data_inside_a_fragmented_one(lab: Lab) -> None:
    """Between the fragments of a message no other record may come (RFC 8446 5.1)."""
    tls, peer = lab.stream(KERNEL)
    peer.send(HANDSHAKE, KEY_UPDATE[:1])
    peer.send_data(b"never given")
    _ends_with(tls, peer, AlertDescription.unexpected_message, "fragmented")


@pytest.mark.parametrize("payload", [KEY_UPDATE, KEY_UPDATE[:1]], ids=["whole", "one byte"])
@pytest.mark.parametrize("to_client", [False, True], ids=["to a server", "to a client"])
def test_in_tls12(lab: Lab, payload: bytes, *, to_client: bool) -> None:
    """TLS 1.2 has no KeyUpdate, and a kernel that thinks it saw one gives nothing any more."""
    make = lab.client if to_client else lab.server
    handoff, peer = make(KERNEL, TLS12)
    tls = TLSSocket(handoff)
    tls.settimeout(PATIENCE)
    peer.sock.sendall(peer.data(b"data") + peer.seal(HANDSHAKE, payload))
    assert tls.recv(100) == b"data"
    peer.send_data(b"never given")
    _ends_with(tls, peer, AlertDescription.unexpected_message)


# -- the answer, and who is sending


@pytest.mark.heavy
def test_answer_gets_in_front_of_the_next_data(lab: Lab) -> None:
    """A writer stuck in a full buffer neither holds up the reader nor loses the answer."""
    tls, peer = lab.stream(KERNEL)
    tls.settimeout(None)
    tls.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**15)
    content = bytes(range(256)) * 2**12  # one turn of the writer would be 4 MiB
    watch = Watch()
    writer = Endpoint(lambda: tls.sendall(content * 2))
    until(lambda: not select.select([], [tls], [], 0)[1])
    for number in range(3):
        request = REQUESTED if _can_rekey() else NOT_REQUESTED
        updates = peer.key_update(request) if _can_rekey() else b""
        peer.sock.sendall(updates + peer.data(b"%d" % number))
        assert Endpoint(lambda: tls.recv(9)).result() == b"%d" % number
    assert not writer.done
    received, updates_seen = bytearray(), 0
    while len(received) < 2 * len(content):
        record = peer.recv()
        assert record is not None
        if record[0] == HANDSHAKE:
            assert record[1] == KEY_UPDATE
            peer.follow_key_update()
            updates_seen += 1
        else:
            received += record[1]
    writer.result()
    assert received == content * 2
    if not _can_rekey():
        return
    tls.sendall(b"more")
    if not updates_seen:  # all of it was one turn, behind which there may have been no room
        assert peer.recv() == (HANDSHAKE, KEY_UPDATE)
        peer.follow_key_update()
    assert peer.recv_data(4) == b"more"
    watch.check(received=3, sent=1)  # one answer for all requests that came meanwhile


@pytest.mark.rekey
def test_answer_between_the_turns_of_a_writer(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long sendall answers in the midst of its data, at the end of its turn."""
    monkeypatch.setattr(stream, "TURN", 2**16)
    tls, peer = lab.stream(KERNEL)
    tls.settimeout(None)
    tls.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**15)
    content = bytes(range(256)) * 2**11
    writer = Endpoint(lambda: tls.sendall(content))
    until(lambda: not select.select([], [tls], [], 0)[1])
    peer.sock.sendall(peer.key_update(REQUESTED) + peer.data(b"x"))
    assert Endpoint(lambda: tls.recv(9)).result() == b"x"
    received, seen_at = bytearray(), []
    while len(received) < len(content):
        record = peer.recv()
        assert record is not None
        if record[0] == HANDSHAKE:
            assert record[1] == KEY_UPDATE
            peer.follow_key_update()
            seen_at.append(len(received))
        else:
            received += record[1]
    writer.result()
    assert received == content
    assert len(seen_at) == 1
    assert seen_at[0] % 2**16 == 0


@pytest.mark.rekey
@pytest.mark.parametrize("call", ["refresh", "service"])
def test_answer_behind_a_writer_to_the_bare_descriptor(lab: Lab, call: str) -> None:
    """What ``service`` could not answer while it wrote is answered before its next data."""
    handoff, peer = lab.server(KERNEL)
    handoff.sock.settimeout(None)
    assert handoff.channel is not None
    with handoff.channel.writing:
        handoff.sock.sendall(b"one")
        peer.sock.sendall(peer.key_update(REQUESTED))
        assert handoff.service()
        handoff.sock.sendall(b"two")
    peer.send_data(b"x")
    getattr(handoff, call)()
    with handoff.channel.writing:
        handoff.sock.sendall(b"three")
    assert [peer.recv() for _ in range(3)] == [
        (ContentType.application_data, b"one"),
        (ContentType.application_data, b"two"),
        (HANDSHAKE, KEY_UPDATE),
    ]
    peer.follow_key_update()
    assert peer.recv_data(5) == b"three"
    assert handoff.sock.recv(9) == b"x"


@pytest.mark.heavy
@pytest.mark.rekey
def test_answer_beside_the_end(lab: Lab) -> None:
    """Who ends its direction while another thread answers ends it in good order, one way or other.

    Either the peer gets no answer, or one in front of close_notify, which the new key opens.
    """
    for _ in range(50):
        tls, peer = lab.stream(KERNEL)
        tls.settimeout(PATIENCE)
        reader = Endpoint(lambda tls=tls: tls.recv(9))  # type: ignore[misc]
        peer.sock.sendall(peer.key_update(REQUESTED) + peer.seal(*CLOSE_NOTIFY))
        tls.shutdown(socket.SHUT_WR)
        record = peer.recv()
        if record == (HANDSHAKE, KEY_UPDATE):
            peer.follow_key_update()
            record = peer.recv()
        assert record == CLOSE_NOTIFY
        assert peer.sock.recv(1) == b""
        assert reader.result() == b""
        tls.close()
        peer.sock.close()


def test_stuck_writer_does_not_hold_up_the_end(lab: Lab) -> None:
    """A bad record is told at once, though the alert cannot be: somebody is in the way."""
    tls, peer = lab.stream(KERNEL)
    tls.settimeout(PATIENCE)
    # A record each: of an error in the midst of a send the kernel tells nobody (docs/handoff.md).
    writer = Endpoint(lambda: _send_each(tls.sendall, [bytes(MAX_PLAINTEXT)] * 6400))
    until(lambda: not select.select([], [tls], [], 0)[1])
    peer.sock.sendall(b"\x17\x03\x03\0\x01x")
    with pytest.raises(PeerMisbehaved):
        Endpoint(lambda: tls.recv(9)).result()
    with pytest.raises(OSError, match=r"Broken pipe|Bad message"):
        writer.result()


def test_writer_is_told_of_a_bad_record(lab: Lab) -> None:
    """The kernel tells once, here the writer; the reader learns of it nevertheless."""
    tls, peer = lab.stream(KERNEL)
    tls.settimeout(0)
    with pytest.raises(BlockingIOError):
        tls.sendall(bytes(2**27))
    peer.sock.sendall(b"\x17\x03\x03\0\x01x")
    poller = select.poll()
    poller.register(tls, 0)
    assert poller.poll(1000 * PATIENCE) == [(tls.fileno(), select.POLLERR)]
    with pytest.raises(OSError, match="Bad message"):
        tls.send(b"more")
    with pytest.raises(PeerMisbehaved, match="EBADMSG"):
        tls.recv(9)
    with pytest.raises(BrokenPipeError):
        tls.send(b"more")


@pytest.mark.parametrize("how", [socket.SHUT_WR, socket.SHUT_RDWR])
def test_stuck_writer_is_woken_by_shutdown(lab: Lab, how: int) -> None:
    """Whoever ends a connection that another thread is stuck in does not get stuck himself."""
    tls, peer = lab.stream(KERNEL)
    tls.settimeout(None)
    writer = Endpoint(lambda: _send_each(tls.sendall, [bytes(2**20)] * 100))
    until(lambda: not select.select([], [tls], [], 0)[1])
    Endpoint(lambda: tls.shutdown(how)).result()
    with pytest.raises(OSError, match="Broken pipe"):
        writer.result()
    del peer


# -- storms

STORM = 10_000
# Records that a peer may send for nothing before it is told to stop, plus a margin for those
# that it has sent meanwhile.
_BOUND = 4 * MOST  # time earns some, too


def _storm(tls: TLSSocket, peer: RawPeer, records: Callable[[], bytes]) -> HandshakeError:
    """Send records until the other side has had enough; return what it says."""

    def send() -> int:
        for number in range(STORM // 50):
            try:
                peer.sock.sendall(b"".join(records() for _ in range(50)))
            except OSError:
                return number
        return STORM

    tls.settimeout(PATIENCE)
    sender = Endpoint(send)
    with pytest.raises(HandshakeError) as raised:
        tls.recv(9)
    tls.close()
    sender.result()
    return raised.value


STORMS: dict[str, tuple[ProtocolVersion, Callable[[RawPeer], bytes]]] = {
    "key updates": (TLS13, lambda peer: peer.key_update(NOT_REQUESTED)),
    "key updates with requests": (TLS13, lambda peer: peer.key_update(REQUESTED)),
    "user_canceled": (TLS13, lambda peer: peer.seal(ContentType.alert, b"\x01\x5a")),
    "empty data between": (
        TLS13,
        lambda peer: peer.data(b"") + peer.seal(ContentType.alert, b"\x01\x5a"),
    ),
    "empty handshake records": (TLS13, lambda peer: peer.seal(HANDSHAKE, b"")),
    "warnings": (TLS12, lambda peer: peer.seal(ContentType.alert, b"\x01\x5a")),
    "client hellos": (TLS12, lambda peer: peer.seal(HANDSHAKE, b"\x01\0\0\0")),
}


@pytest.mark.heavy
@pytest.mark.parametrize("storm", STORMS)
def test_storm(lab: Lab, storm: str) -> None:
    """Control records without data between them end the connection after a bounded number."""
    version, make = STORMS[storm]
    tls, peer = lab.stream(KERNEL, version)
    channel = tls.handoff.channel
    assert channel is not None
    session, served = channel.session, 0
    receive = session.receive

    def counting(content_type: int, payload: bytes) -> Any:
        nonlocal served
        served += 1
        return receive(content_type, payload)

    channel.session = cast("Session", _Counting(session, counting))
    error = _storm(tls, peer, lambda: make(peer))
    if storm.startswith("key updates") and not _can_rekey():
        assert isinstance(error, KeyUpdateRefused)
        return
    assert error.alert is AlertDescription.unexpected_message
    assert served <= _BOUND


class _Counting:
    """A session whose ``receive`` is somebody else's; everything else is its own."""

    def __init__(self, session: Any, receive: Callable[..., Any]) -> None:
        object.__setattr__(self, "_session", session)
        object.__setattr__(self, "receive", receive)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._session, name, value)


def test_storm_of_tickets(lab: Lab) -> None:
    """Likewise for a client, also if they come many to a record."""
    client, peer = lab.client(KERNEL)
    tls = TLSSocket(client)
    watch = Watch()
    error = _storm(tls, peer, lambda: peer.seal(HANDSHAKE, new_session_ticket() * 3))
    assert error.alert is AlertDescription.unexpected_message
    assert watch.ours("ticket_received") <= _BOUND


@pytest.mark.heavy
def test_plenty_of_data_between(lab: Lab) -> None:
    """Far more control records than the budget are fine for who sends data in between."""
    client, peer = lab.client(KERNEL)
    tls = TLSSocket(client)
    tls.settimeout(PATIENCE)
    flight = bytearray()
    rounds, piece = 2 * MOST, bytes(BYTES_FOR_ONE)
    for _ in range(rounds):
        flight += peer.seal(HANDSHAKE, new_session_ticket())
        for start in range(0, len(piece), MAX_PLAINTEXT):
            flight += peer.data(piece[start : start + MAX_PLAINTEXT])
    sender = Endpoint(lambda: peer.sock.sendall(flight))
    assert recv_exactly(tls, len(piece) * rounds) == piece * rounds
    sender.result()


# -- how long a key is good for

GCM = (Aead.AES_GCM_128, Aead.AES_GCM_256)
LIMITED = [*itertools.product(GCM, (TLS13, TLS12)), (Aead.AES_CCM_128, TLS13)]
limited = pytest.mark.parametrize(
    ("aead", "version"), LIMITED, ids=lambda it: it.label if it in (TLS12, TLS13) else it.value
)


def _far_on(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, aead: Aead, version: ProtocolVersion, seq: int
) -> tuple[TLSSocket, RawPeer]:
    """Make a connection on which we have sent ``seq`` records already."""
    handoff, peer = lab.far_on(monkeypatch, aead, version, seq)
    monkeypatch.setattr(stream, "_CHECK_EVERY", 4)
    tls = TLSSocket(handoff)
    tls.settimeout(PATIENCE)
    return tls, peer


@limited
def test_key_is_changed_in_time(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, aead: Aead, version: ProtocolVersion
) -> None:
    """At half of what the cipher bears the key is changed, where that is possible."""
    limit = aead.record_limit
    assert limit is not None
    tls, peer = _far_on(lab, monkeypatch, aead, version, limit // 2 - 6)
    watch = Watch()
    changes = version is TLS13 and _can_rekey()
    for number in range(20):
        tls.sendall(b"%02d" % number)
    seen: list[bytes] = []
    changed_at = None
    while len(seen) < 20:
        record = peer.recv()
        assert record is not None
        if record == (HANDSHAKE, KEY_UPDATE):
            assert changed_at is None
            changed_at = peer._rx_seq - 1
            peer.follow_key_update()
        else:
            seen.append(record[1])
    assert seen == [b"%02d" % number for number in range(20)]
    watch.check(sent=int(changes))
    if changes:
        assert changed_at is not None
        assert limit // 2 <= changed_at < limit // 2 + 8
        tx = ulp.next_seq(tls, Direction.TX, aead)
        assert tx < 20
    else:
        assert changed_at is None


@limited
def test_key_that_has_protected_enough(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, aead: Aead, version: ProtocolVersion
) -> None:
    """Where no key can follow, the connection ends before the limit, and says why."""
    limit = aead.record_limit
    assert limit is not None
    start = limit - sender.KEY_LIMIT_MARGIN - 6
    tls, peer = _far_on(lab, monkeypatch, aead, version, start)
    watch = Watch()
    if version is TLS13 and _can_rekey():
        for _ in range(20):
            tls.sendall(b"x")
        watch.check(sent=1)
        return
    with pytest.raises(RekeyUnsupported, match="could not be changed") as raised:
        _send_each(tls.sendall, [b"x"] * 20)
    assert "connect again" in raised.value.hint
    assert watch.ours("key_limit_reached") == 1
    assert peer.recv_alert() is AlertDescription.internal_error
    assert start + 6 <= peer._rx_seq - 1 < limit
    assert peer.recv() is None
    with pytest.raises((RekeyUnsupported, BrokenPipeError)):
        tls.sendall(b"x")


@pytest.mark.parametrize("version", [TLS13, TLS12], ids=lambda it: it.label)
def test_chacha_has_no_limit(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, version: ProtocolVersion
) -> None:
    """ChaCha20-Poly1305 bears more records than the sequence number can count."""
    tls, peer = _far_on(lab, monkeypatch, Aead.CHACHA20_POLY1305, version, 2**40)
    watch = Watch()
    for _ in range(20):
        tls.sendall(b"x")
    assert peer.recv_data(20) == b"x" * 20
    watch.check()


@pytest.mark.rekey
def test_short_records_count_each(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data for a peer that wants short records wears a key out sooner."""
    limit = Aead.AES_GCM_128.record_limit
    assert limit is not None
    handoff, peer = lab.far_on(monkeypatch, Aead.AES_GCM_128, TLS13, limit // 2)
    monkeypatch.setattr(stream, "_CHECK_EVERY", 4)
    handoff.negotiated = replace(handoff.negotiated, max_fragment_length=512)
    tls = TLSSocket(handoff)
    tls.sendall(bytes(2000))
    assert peer.recv_data(2000) == bytes(2000)
    tls.sendall(b"x")
    assert peer.recv() == (HANDSHAKE, KEY_UPDATE)


def test_sendfile_counts_too(lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Records that leave by sendfile are among those that a key has protected."""
    limit = Aead.AES_GCM_128.record_limit
    assert limit is not None
    tls, peer = _far_on(lab, monkeypatch, Aead.AES_GCM_128, TLS13, limit // 2 - 2)
    watch = Watch()
    (tmp_path / "file").write_bytes(bytes(5 * MAX_PLAINTEXT))
    reader = Endpoint(lambda: _collect(peer, 10 * MAX_PLAINTEXT))
    for _ in range(2):
        with (tmp_path / "file").open("rb") as file:
            assert tls.sendfile(file) == 5 * MAX_PLAINTEXT
    assert reader.result() == int(_can_rekey())
    watch.check(sent=int(_can_rekey()))


def _collect(peer: RawPeer, size: int) -> int:
    """Receive that much data; return the number of KeyUpdates among it."""
    updates = 0
    while size:
        record = peer.recv()
        assert record is not None
        if record[0] == HANDSHAKE:
            peer.follow_key_update()
            updates += 1
        else:
            size -= len(record[1])
    return updates
