"""Tests of pump: data, ends, cuts and pressure, both ways."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.doubles import (
    CLOSE_NOTIFY,
    OFFLOADS,
    RELAY,
    Endpoint,
    check_descriptors,
    descriptors,
    recv_exactly,
    reset,
    until,
)
from tlsify.aio import pump
from tlsify.aio.pump import Carriage, buffer, carry, readable
from tlsify.codepoints import ContentType
from tlsify.config import ClosePolicy
from tlsify.connection.ending import patience
from tlsify.connection.ending.closing import Closing
from tlsify.connection.ending.patience import unacknowledged, unread
from tlsify.connection.plain import Plain
from tlsify.connection.relay.inline import InlineRelay
from tlsify.connection.stream import TLSSocket
from tlsify.errors import HandshakeError, Truncated
from tlsify.tls.messages import KeyUpdateRequest, encode_key_update

if TYPE_CHECKING:
    from tests.doubles import Lab, RawPeer
    from tlsify.config import KtlsPolicy
    from tlsify.connection.handoff import Handoff

both = pytest.mark.parametrize("policy", OFFLOADS)


@pytest.fixture(autouse=True)
def _inline(lab: Lab) -> None:
    """Make connections as forward does."""
    lab.is_inline = True


BIG = 2**22


def by(policy: ClosePolicy | None) -> Closing:
    """Make one connection's rule; nothing was agreed on."""
    return Closing(policy, None)


def carrying(handed: Handoff, plain: socket.socket, closing: ClosePolicy | None) -> Endpoint[None]:
    """Carry, in a thread with a loop of its own."""
    return Endpoint(
        lambda: asyncio.run(carry(handed, Plain(plain), by(closing), buffer()), debug=True)
    )


def arrange(
    lab: Lab, policy: KtlsPolicy, closing: ClosePolicy | None = ClosePolicy.STRICT
) -> tuple[RawPeer, socket.socket, Endpoint[None]]:
    """Return the TLS peer, the backend, and what is between them."""
    handed, peer = lab.server(policy)
    ours, backend = lab.tcp()
    return peer, backend, carrying(handed, ours, closing)


@both
def test_request_and_answer(lab: Lab, policy: KtlsPolicy) -> None:
    """Both directions, the client's ended first: the end of one is not that of the other."""
    peer, backend, work = arrange(lab, policy)
    peer.send_data(b"request")
    peer.close_notify()
    assert recv_exactly(backend, 99) == b"request"
    backend.sendall(b"answer")
    backend.close()
    assert peer.recv_data(6) == b"answer"
    assert peer.recv() == CLOSE_NOTIFY
    assert peer.recv() is None
    work.result()


@both
def test_backend_ends_first(lab: Lab, policy: KtlsPolicy) -> None:
    """A backend that has said all it had to say may go on listening."""
    peer, backend, work = arrange(lab, policy)
    backend.sendall(b"greeting")
    backend.shutdown(socket.SHUT_WR)
    assert peer.recv_data(8) == b"greeting"
    assert peer.recv() == CLOSE_NOTIFY
    peer.send_data(b"reply")
    peer.close_notify()
    assert recv_exactly(backend, 99) == b"reply"
    work.result()


@both
def test_cut_by_the_client(lab: Lab, policy: KtlsPolicy) -> None:
    """What may be half a message is no whole one for the backend: it sees a reset."""
    peer, backend, work = arrange(lab, policy)
    peer.send_data(b"DELETE /tmp")
    assert recv_exactly(backend, 11) == b"DELETE /tmp"
    peer.sock.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionResetError):
        backend.recv(1)
    with pytest.raises(Truncated):
        work.result()
    peer.sock.close()


@both
def test_end_without_close_notify_where_that_is_usual(lab: Lab, policy: KtlsPolicy) -> None:
    """Protocols that know the length of their messages need not be strict."""
    peer, backend, work = arrange(lab, policy, ClosePolicy.RELAXED)
    peer.send_data(b"request")
    peer.sock.shutdown(socket.SHUT_WR)
    assert recv_exactly(backend, 99) == b"request"
    backend.close()
    work.result()


@both
@pytest.mark.parametrize("request_", [b"GET / HTTP/1.1\r\n\r\n", b"QUIT\r\n", b"GET /", b""])
def test_hang_up_where_the_protocol_decides(lab: Lab, policy: KtlsPolicy, request_: bytes) -> None:
    """After a whole exchange of HTTP the backend sees an end, of anything else a reset."""
    peer, backend, work = arrange(lab, policy, None)
    if request_:
        peer.send_data(request_)
        assert recv_exactly(backend, len(request_)) == request_
    backend.sendall(b"answer")
    assert peer.recv_data(6) == b"answer"
    peer.sock.shutdown(socket.SHUT_WR)
    if request_.startswith(b"GET / HTTP"):
        assert backend.recv(1) == b""
        backend.close()
        work.result()
    else:
        with pytest.raises(ConnectionResetError):
            backend.recv(1)
        with pytest.raises(Truncated):
            work.result()


@both
def test_reset_by_a_client_of_http(lab: Lab, policy: KtlsPolicy) -> None:
    """A reset is no end in any protocol."""
    peer, backend, work = arrange(lab, policy, None)
    peer.send_data(b"GET / HTTP/1.1\r\n\r\n")
    assert recv_exactly(backend, 18)
    reset(peer.sock)
    with pytest.raises(ConnectionResetError):
        backend.recv(1)
    with pytest.raises(ConnectionResetError):
        work.result()


@both
def test_cut_by_the_backend(lab: Lab, policy: KtlsPolicy) -> None:
    """An answer that was cut does not end with close_notify."""
    peer, backend, work = arrange(lab, policy)
    backend.sendall(b"half an ans")
    assert peer.recv_data(11) == b"half an ans"
    reset(backend)
    assert peer.recv() is None
    with pytest.raises(ConnectionResetError):
        work.result()


@both
def test_backend_that_takes_no_more(lab: Lab, policy: KtlsPolicy) -> None:
    """It has answered before it had read everything: what it sent arrives, and no good end."""
    peer, backend, work = arrange(lab, policy)
    peer.send_data(b"x" * 1000)
    assert backend.recv(10) == b"x" * 10
    backend.sendall(b"413 too much")
    backend.close()  # in front of unread data
    assert peer.recv_data(12) == b"413 too much"
    assert peer.recv() is None
    with pytest.raises(ConnectionResetError):
        work.result()


class _Full(socket.socket):
    """Has no room until it is told otherwise."""

    is_full = True

    def __init__(self, number: int) -> None:
        super().__init__(fileno=number)
        self.was_tried = asyncio.Event()

    def send(self, data: memoryview, *_: int) -> int:  # type: ignore[override]
        if self.is_full:
            self.was_tried.set()
            raise BlockingIOError
        return super().send(data)


@both
@pytest.mark.parametrize("is_for_a_client", [False, True])
def test_reset_amid_both_directions(lab: Lab, policy: KtlsPolicy, *, is_for_a_client: bool) -> None:
    """The side without TLS is reset while one task waits to send to it, the other to receive."""
    secure, peer = (lab.client if is_for_a_client else lab.server)(policy)
    ours, other = lab.tcp()
    peer.send_data(b"for one that crashes")

    async def run() -> None:
        with _Full(ours.detach()) as full:
            sides: list[Handoff | Plain] = [secure, Plain(full)]
            near, far = reversed(sides) if is_for_a_client else sides
            work = asyncio.ensure_future(carry(near, far, by(None), buffer()))
            await full.was_tried.wait()
            reset(other)
            await asyncio.sleep(0)  # whereupon both tasks' descriptors are ready
            full.is_full = False
            await work

    with pytest.raises(ConnectionResetError):
        asyncio.run(run(), debug=True)
    assert peer.recv() is None


@both
def test_client_that_goes_away(lab: Lab, policy: KtlsPolicy) -> None:
    """The backend need not send to nobody."""
    peer, backend, work = arrange(lab, policy)
    backend.sendall(b"x" * 1000)
    peer.recv_data(1000)
    reset(peer.sock)
    with pytest.raises(ConnectionError):
        backend.sendall(bytes(2**28))
    with pytest.raises((ConnectionError, Truncated)):
        work.result()


@both
def test_client_that_says_goodbye_and_takes_no_more(lab: Lab, policy: KtlsPolicy) -> None:
    """What it sent is whole, whatever becomes of the answer."""
    peer, backend, work = arrange(lab, policy)
    peer.send_data(b"log line")
    peer.close_notify()
    assert recv_exactly(backend, 99) == b"log line"
    reset(peer.sock)
    backend.sendall(b"thanks")
    backend.close()
    work.result()


@both
def test_reset_that_is_told_to_a_send(lab: Lab, policy: KtlsPolicy) -> None:
    """What a client has sent in front of its close_notify is whole, and its end a good one."""
    handed, peer = lab.server(policy)
    ours, backend = lab.tcp()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    backend.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)
    work = carrying(handed, ours, ClosePolicy.STRICT)
    size = 7 * 2**14
    for _ in range(7):
        peer.send_data(bytes(2**14))
    peer.close_notify()
    until(lambda: not unacknowledged(peer.sock))
    reset(peer.sock)
    backend.sendall(b"an answer to nobody")
    until(lambda: not unread(ours))
    assert recv_exactly(backend, size + 1) == bytes(size)
    work.result()


@both
def test_pressure_from_both_sides(lab: Lab, policy: KtlsPolicy) -> None:
    """Who is not read from is held back, and nothing is lost once it is."""
    peer, backend, work = arrange(lab, policy)
    backend.settimeout(0.2)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < 2**28:
            sent += backend.send(bytes(2**16))
    assert sent < 2**28
    received = 0
    backend.settimeout(60)
    backend.shutdown(socket.SHUT_WR)
    while (record := peer.recv()) is not None and record[0] == ContentType.application_data:
        received += len(record[1])
    assert received == sent
    peer.close_notify()
    assert backend.recv(1) == b""
    work.result()


def _send(sock: socket.socket, seed: int) -> None:
    block = hashlib.sha256(bytes([seed])).digest() * 2**10
    for _ in range(BIG // len(block)):
        sock.sendall(block)
    sock.shutdown(socket.SHUT_WR)


def _receive(sock: socket.socket, seed: int) -> bool:
    digest = hashlib.sha256()
    while data := sock.recv(2**16):
        digest.update(data)
    expected = hashlib.sha256(bytes([seed])).digest() * (BIG // 32)
    return digest.digest() == hashlib.sha256(expected).digest()


@both
def test_many_at_once(lab: Lab, policy: KtlsPolicy) -> None:
    """Connections share a buffer, and none sees a byte of another."""
    ends: list[tuple[socket.socket, socket.socket]] = []
    between = []
    for _ in range(6):
        client, server = lab.pair(policy)
        ours, backend = lab.tcp()
        ends.append((TLSSocket(client), backend))
        between.append((server, Plain(ours)))

    async def run() -> None:
        scratch = buffer()
        await asyncio.gather(
            *(carry(server, ours, by(ClosePolicy.STRICT), scratch) for server, ours in between)
        )

    work = Endpoint(lambda: asyncio.run(run()))
    senders, receivers = [], []
    for at, pair in enumerate(ends):
        for seed, (sock, other) in ((2 * at, pair), (2 * at + 1, pair[::-1])):
            senders.append(Endpoint(partial(_send, sock, seed)))
            receivers.append(Endpoint(partial(_receive, other, seed)))
    assert all(each.result(40) for each in receivers)
    for each in senders:
        each.result()
    work.result()


def test_busy_connection_leaves_room(lab: Lab) -> None:
    """One that never has to wait lets others have their turn."""
    handed, peer = lab.server(RELAY)
    quiet_plain, quiet_backend = lab.tcp()

    class Endless(socket.socket):
        """Always has something to give."""

        def recv_into(self, into: memoryview, *_: int) -> int:  # type: ignore[override]
            return len(into)

        def send(self, data: memoryview, *_: int) -> int:  # type: ignore[override]
            return len(data)

    async def run() -> None:
        left, right = socket.socketpair()
        with right, Endless(fileno=left.detach()) as endless:
            carriage = Carriage(Plain(endless), Plain(right), by(None), buffer())
            busy = asyncio.ensure_future(carriage._flow(endless, endless))
            await carry(handed, Plain(quiet_plain), by(None), buffer())
            busy.cancel()
            await asyncio.gather(busy, return_exceptions=True)

    work = Endpoint(lambda: asyncio.run(run()))
    peer.send_data(b"small")
    assert recv_exactly(quiet_backend, 5) == b"small"
    peer.close_notify()
    quiet_backend.close()
    work.result()


@both
def test_cancelled(lab: Lab, policy: KtlsPolicy) -> None:
    """Where time is over both sides are told that this was no good end, and nothing stays open."""
    before = descriptors()
    handed, peer = lab.server(policy)
    ours, backend = lab.tcp()

    async def run() -> None:
        async with asyncio.timeout(0.05):
            await carry(handed, Plain(ours), by(None), buffer())

    with pytest.raises(TimeoutError):
        asyncio.run(run())
    assert peer.recv() is None
    with pytest.raises(ConnectionResetError):
        backend.recv(1)
    backend.close()
    peer.sock.close()
    if handed.relay is not None:
        assert handed.relay.join(10)
    check_descriptors(before)


# -- TLS on both sides, or on the backend's alone


def between(lab: Lab, policy: KtlsPolicy, **how: Any) -> tuple[RawPeer, RawPeer, Endpoint[None]]:
    """Return a TLS client, a TLS backend, and what is between them."""
    (near, client), (far, backend) = lab.server(policy), lab.client(policy)

    async def run() -> None:
        await carry(near, far, by(how.pop("closing", None)), buffer(), **how)

    return client, backend, Endpoint(lambda: asyncio.run(run(), debug=True))


@both
def test_tls_on_both_sides(lab: Lab, policy: KtlsPolicy) -> None:
    """Each direction ends for itself; a greeting comes first."""
    client, backend, work = between(lab, policy, greeting=b"220 ")
    client.send_data(b"request")
    assert backend.recv_data(7) == b"request"
    client.close_notify()
    assert backend.recv() == CLOSE_NOTIFY
    backend.send_data(b"answer")
    backend.close_notify()
    assert client.recv_data(10) == b"220 answer"
    assert client.recv() == CLOSE_NOTIFY
    work.result()


@both
@pytest.mark.parametrize(
    ("request_", "is_relaxed", "is_after", "is_cut"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", False, False, True),
        (b"GET / HTTP/1.1\r\n\r\n", False, True, False),  # it has hung up behind its client
        (b"QUIT\r\n", False, True, True),
        (b"QUIT\r\n", True, False, False),
    ],
)
def test_backend_that_hangs_up(
    lab: Lab,
    policy: KtlsPolicy,
    request_: bytes,
    *,
    is_relaxed: bool,
    is_after: bool,
    is_cut: bool,
) -> None:
    """Without close_notify it has cut its answer, unless that cannot be."""
    client, backend, work = between(lab, policy, is_relaxed=is_relaxed)
    client.send_data(request_)
    assert backend.recv_data(len(request_)) == request_
    backend.send_data(b"answer")
    assert client.recv_data(6) == b"answer"
    if is_after:
        client.close_notify()
        assert backend.recv() == CLOSE_NOTIFY
    backend.sock.shutdown(socket.SHUT_WR)
    if is_cut:
        with contextlib.suppress(ConnectionResetError):
            assert client.recv() is None
        with pytest.raises(Truncated):
            work.result()
    elif is_after:  # which may also be half an answer, if the client reads on
        with contextlib.suppress(ConnectionResetError):
            assert client.recv() is None
        work.result()
    else:
        assert client.recv() == CLOSE_NOTIFY
        client.close_notify()
        work.result()


@both
def test_half_an_answer_behind_the_client(lab: Lab, policy: KtlsPolicy) -> None:
    """What is sent after the client's end may be cut, in HTTP as well."""
    client, backend, work = between(lab, policy)
    client.send_data(b"GET / HTTP/1.1\r\n\r\n")
    client.close_notify()
    backend.recv_data(18)
    assert backend.recv() == CLOSE_NOTIFY
    backend.send_data(b"half")
    assert client.recv_data(4) == b"half"
    backend.sock.shutdown(socket.SHUT_WR)
    with contextlib.suppress(ConnectionResetError):
        assert client.recv() is None
    with pytest.raises(Truncated):
        work.result()


@both
def test_client_without_tls(lab: Lab, policy: KtlsPolicy) -> None:
    """It gets all that has come before a cut, and then a reset."""
    far, backend = lab.client(policy)
    ours, client = lab.tcp()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**12)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**12)
    sides = Plain(ours), far
    work = Endpoint(lambda: asyncio.run(carry(*sides, by(None), buffer()), debug=True))
    for _ in range(8):
        backend.send_data(bytes(2**12))
    backend.sock.shutdown(socket.SHUT_WR)
    assert recv_exactly(client, 2**15) == bytes(2**15)
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with pytest.raises(Truncated):
        work.result()


def test_data_that_was_held(lab: Lab) -> None:
    """It waits for a message of the peer's to be whole, and then for room in the network."""
    handed, peer = lab.server(RELAY)
    relay = handed.sock
    assert isinstance(relay, InlineRelay)
    relay.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    update = encode_key_update(KeyUpdateRequest.update_not_requested)
    data = memoryview(bytes(2**18))

    async def receive(piece: bytes) -> None:
        peer.sock.sendall(peer.seal(ContentType.handshake, piece))
        await readable(relay)
        with pytest.raises(BlockingIOError):
            relay.receive(buffer())

    async def work() -> None:
        await receive(update[:4])
        relay.put(data)
        assert relay.is_waiting
        sealed = asyncio.ensure_future(pump._sealed(relay))
        await receive(update[4:])
        assert relay.has_records
        received = asyncio.ensure_future(asyncio.to_thread(peer.recv_data, len(data)))
        await sealed
        assert relay.is_out
        assert await received == data

    asyncio.run(work())


@both
def test_neither_side_reads(lab: Lab, policy: KtlsPolicy) -> None:
    """Both wait for as long as that lasts, and then have all of it."""
    client, backend, work = between(lab, policy)

    def send(peer: RawPeer) -> None:
        for _ in range(400):
            peer.send_data(bytes(2**14))
        peer.close_notify()

    senders = [Endpoint(partial(send, peer)) for peer in (client, backend)]
    for peer in (client, backend):
        assert peer.recv_data(400 * 2**14) == bytes(400 * 2**14)
        assert peer.recv() == CLOSE_NOTIFY
    for each in senders:
        each.result()
    work.result()


def test_half_a_message(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that never completes one is given up, idle though it is."""
    monkeypatch.setattr(patience, "PATIENCE", 0)
    peer, backend, work = arrange(lab, RELAY)
    peer.sock.sendall(peer.data(b"?") + peer.seal(ContentType.handshake, b"\x18\0\0\1"))
    assert recv_exactly(backend, 1) == b"?"
    backend.sendall(b"answer")
    with pytest.raises(HandshakeError, match="midst of a handshake message"):
        work.result()
    assert peer.recv() is None
    with pytest.raises(ConnectionResetError):
        backend.recv(1)
