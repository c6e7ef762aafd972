"""Tests of stream."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import tempfile
import threading
import traceback
from typing import IO, TYPE_CHECKING

import pytest

from tests.doubles import (
    CLOSE_NOTIFY,
    KERNEL,
    OFFLOADS,
    Endpoint,
    Lab,
    RawPeer,
    flipped,
    interrupted,
    new_session_ticket,
    readable,
    reset,
    until,
)
from tlsify.codepoints import AlertDescription, ContentType
from tlsify.config import ClosePolicy
from tlsify.connection.stream import TLSSocket
from tlsify.errors import HandshakeError, PeerAlert, PeerMisbehaved, Truncated
from tlsify.ktls.probe import capabilities
from tlsify.tls.messages import KeyUpdateRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tlsify.config import KtlsPolicy

pytestmark = pytest.mark.each_kernel

both = pytest.mark.parametrize("policy", OFFLOADS)
SHORT = 0.05


def _send_for_ever(send: Callable[[], object]) -> None:
    for _ in range(10000):
        send()


# -- receiving


@both
def test_recv_passes_over_control_records(lab: Lab, policy: KtlsPolicy) -> None:
    """A ticket between two pieces of data is none of the program's business."""
    client, peer = lab.client(policy)
    stream = TLSSocket(client)
    peer.send(ContentType.handshake, new_session_ticket())
    peer.send_data(b"one")
    assert stream.recv(100) == b"one"
    peer.send(ContentType.handshake, new_session_ticket(b"x" * 300))
    peer.send_data(b"two")
    buffer = bytearray(100)
    assert stream.recv_into(buffer) == 3
    assert buffer[:3] == b"two"


@both
def test_recv_of_less_than_a_record(lab: Lab, policy: KtlsPolicy) -> None:
    """What does not fit comes with the next call, as with any stream."""
    stream, peer = lab.stream(policy)
    peer.send_data(b"abcdef")
    assert stream.recv(1) == b"a"
    assert stream.recv_into(bytearray(2)) == 2
    target = bytearray(10)
    assert stream.recv_into(target, 1) == 1
    assert stream.recv(100) == b"ef"


@both
def test_recv_of_nothing(lab: Lab, policy: KtlsPolicy) -> None:
    """Zero bytes are given at once, although nothing has come."""
    stream, _peer = lab.stream(policy)
    assert stream.recv(0) == b""
    assert stream.recv_into(bytearray()) == 0


@both
@pytest.mark.parametrize("into", [False, True])
def test_end_of_stream(lab: Lab, policy: KtlsPolicy, *, into: bool) -> None:
    """After close_notify every call says so, and nothing else."""
    stream, peer = lab.stream(policy)
    peer.close_notify()
    for _ in range(2):
        assert (stream.recv_into(bytearray(9)) if into else stream.recv(9)) in {0, b""}


@both
@pytest.mark.parametrize("into", [False, True])
def test_truncation(lab: Lab, policy: KtlsPolicy, *, into: bool) -> None:
    """A FIN without close_notify is an error, for both ways of receiving."""
    stream, peer = lab.stream(policy)
    peer.sock.shutdown(socket.SHUT_WR)
    with pytest.raises(Truncated):
        stream.recv_into(bytearray(9)) if into else stream.recv(9)


@both
@pytest.mark.parametrize("into", [False, True])
def test_bad_record(lab: Lab, policy: KtlsPolicy, *, into: bool) -> None:
    """A record that does not authenticate raises, and the peer gets its alert."""
    stream, peer = lab.stream(policy)
    peer.sock.sendall(flipped(peer.data(b"data")))
    with pytest.raises(PeerMisbehaved):
        stream.recv_into(bytearray(9)) if into else stream.recv(9)
    assert peer.recv_alert() is AlertDescription.bad_record_mac


@both
def test_overlong_record(lab: Lab, policy: KtlsPolicy) -> None:
    """It raises at once instead of waiting for what it announces."""
    stream, peer = lab.stream(policy)
    peer.sock.sendall(b"\x17\x03\x03\x48\x01")
    with pytest.raises(PeerMisbehaved):
        stream.recv(9)
    assert peer.recv_alert() is AlertDescription.record_overflow


@both
def test_error_alert(lab: Lab, policy: KtlsPolicy) -> None:
    """The peer's alert is named."""
    stream, peer = lab.stream(policy)
    peer.send_alert(AlertDescription.decode_error)
    with pytest.raises(PeerAlert, match="decode_error"):
        stream.recv(9)


@both
@pytest.mark.parametrize(("timeout", "error"), [(None, BlockingIOError), (0.01, TimeoutError)])
def test_not_waiting_for_once(
    lab: Lab, policy: KtlsPolicy, timeout: float | None, error: type[OSError]
) -> None:
    """MSG_DONTWAIT does what it does on any socket of Python's: a timeout is waited for first."""
    stream, _peer = lab.stream(policy)
    stream.settimeout(timeout)
    for attempt in (
        lambda: stream.recv(9, socket.MSG_DONTWAIT),
        lambda: stream.recv_into(bytearray(9), 0, socket.MSG_DONTWAIT),
    ):
        with pytest.raises(error):
            attempt()
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**14)

    def fill() -> None:
        while stream.send(bytes(2**14), socket.MSG_DONTWAIT):
            pass

    with pytest.raises(error):
        fill()


@both
def test_reset(lab: Lab, policy: KtlsPolicy) -> None:
    """RST raises as it does on any socket."""
    stream, peer = lab.stream(policy)
    reset(peer.sock)
    with pytest.raises(ConnectionResetError):
        stream.recv(9)


@pytest.mark.ktls
@pytest.mark.parametrize("timeout", [None, 0.0])
@pytest.mark.parametrize("into", [False, True])
def test_reset_behind_data(lab: Lab, timeout: float | None, *, into: bool) -> None:
    """What came before RST is given, and the error comes with the next call."""
    stream, peer = lab.stream(KERNEL)
    stream.settimeout(timeout)
    peer.send_data(b"data")
    assert readable(stream, 5000)
    reset(peer.sock)
    poller = select.poll()
    poller.register(stream, 0)
    assert poller.poll(5000)  # POLLHUP: the reset has come
    buffer = bytearray(9)
    assert (stream.recv_into(buffer) if into else stream.recv(9)) in {4, b"data"}
    with pytest.raises(ConnectionResetError):
        stream.recv_into(buffer) if into else stream.recv(9)


@pytest.mark.ktls
@pytest.mark.parametrize("timeout", [None, 5.0])
def test_key_update_behind_data(lab: Lab, timeout: float | None) -> None:
    """A KeyUpdate in the segment of the data is found with and without a timeout."""
    stream, peer = lab.stream(KERNEL)
    stream.settimeout(timeout)
    update = KeyUpdateRequest.update_not_requested
    peer.sock.sendall(peer.data(b"data") + peer.key_update(update))
    assert stream.recv(9) == b"data"
    if not capabilities().rekey:
        with pytest.raises(HandshakeError, match="KeyUpdate"):
            stream.recv(9)
        return
    peer.send_data(b"later")
    assert stream.recv(9) == b"later"


@both
@pytest.mark.parametrize("told", ["recv", "send"])
def test_broken_connection_stays_broken(lab: Lab, policy: KtlsPolicy, told: str) -> None:
    """Whoever was told of it, sending fails from then on: a kernel would take it, and drop it."""
    stream, peer = lab.stream(policy)
    if told == "recv":
        reset(peer.sock)
        with pytest.raises(ConnectionError):
            stream.recv(9)
    else:
        peer.sock.close()
    with pytest.raises(ConnectionError):
        until(lambda: not stream.send(b"x"))
    for _ in range(3):
        with pytest.raises(ConnectionError):
            stream.sendall(b"x")


@both
def test_reset_amid_a_send(lab: Lab, policy: KtlsPolicy) -> None:
    """It raises, whatever number of bytes the kernel says that it has taken."""
    stream, peer = lab.stream(policy)
    stream.settimeout(None)
    sending = Endpoint(lambda: _send_for_ever(lambda: stream.sendall(bytes(2**24))))
    until(lambda: not select.select([], [stream], [], 0)[1])
    reset(peer.sock)
    with pytest.raises(ConnectionError):
        sending.result()


@both
@pytest.mark.parametrize("told", ["alert", "bad record"])
def test_end_amid_a_send_that_the_peer_does_not_read(
    lab: Lab, policy: KtlsPolicy, told: str
) -> None:
    """It raises at once, since nothing that is sent would be taken any more."""
    stream, peer = lab.stream(policy)
    stream.settimeout(None)
    sending = Endpoint(lambda: stream.sendall(bytes(2**24)))
    until(lambda: not select.select([], [stream], [], 0)[1])
    if told == "alert":
        peer.send_alert(AlertDescription.internal_error)
    else:
        peer.sock.sendall(flipped(peer.data(b"data")))
    with pytest.raises(PeerAlert if told == "alert" else PeerMisbehaved):
        stream.recv(9)
    with pytest.raises(BrokenPipeError):
        sending.result()
    reset(peer.sock)


_WAYS: dict[str, Callable[[TLSSocket, IO[bytes]], object]] = {
    "a byte": lambda stream, _: stream.sendall(b"x"),
    "a record": lambda stream, _: stream.sendall(bytes(2**14)),
    "sendmsg": lambda stream, _: stream.sendmsg([b"x", bytes(2**14)]),
    "sendfile": lambda stream, file: stream.sendfile(file, 0),
    "makefile": lambda stream, _: stream.makefile("wb", 0).write(bytes(2**14)),
}


@pytest.mark.ktls
@pytest.mark.parametrize("way", _WAYS)
def test_reset_that_no_call_was_told(lab: Lab, way: str) -> None:
    """Sending fails soon, though the kernel takes all of it without an error."""
    stream, peer = lab.stream(KERNEL)
    _reset_in_secret(stream, peer)
    with _file(2**14) as file, pytest.raises(ConnectionResetError):
        _send_for_ever(lambda: _WAYS[way](stream, file))


@pytest.mark.ktls
@pytest.mark.parametrize("way", ["sendall", "sendfile"])
def test_rest_after_such_a_reset(lab: Lab, way: str) -> None:
    """What cannot be sent any more is told by the same call, however little it is."""
    stream, peer = lab.stream(KERNEL)
    _reset_in_secret(stream, peer)
    with _file(2**15) as file, pytest.raises(ConnectionResetError):
        stream.sendall(bytes(2**15)) if way == "sendall" else stream.sendfile(file)


@pytest.mark.ktls
@pytest.mark.parametrize("closing", ClosePolicy)
def test_end_after_such_a_reset(lab: Lab, closing: ClosePolicy) -> None:
    """It is no end of the peer's, which a relaxed policy would take for a clean one."""
    handed, peer = lab.server(KERNEL)
    with TLSSocket(handed, closing) as stream:
        _reset_in_secret(stream, peer)
        with pytest.raises(ConnectionResetError):
            stream.recv(9)


def _reset_in_secret(stream: TLSSocket, peer: RawPeer) -> None:
    reset(peer.sock)
    until(lambda: stream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))  # that clears it


@contextlib.contextmanager
def _file(size: int) -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile() as file:
        file.write(bytes(size))
        file.seek(0)
        yield file


# -- timeouts


@both
def test_recv_times_out(lab: Lab, policy: KtlsPolicy) -> None:
    """TimeoutError, after which the connection is as good as before."""
    stream, peer = lab.stream(policy)
    stream.settimeout(SHORT)
    with pytest.raises(TimeoutError):
        stream.recv(9)
    with pytest.raises(TimeoutError):
        stream.recv_into(bytearray(9))
    peer.send_data(b"late")
    stream.settimeout(5)
    assert stream.recv(9) == b"late"


@pytest.mark.ktls
def test_recv_times_out_inside_a_record(lab: Lab) -> None:
    """Part of a record is nothing to give, so the time runs out on it as well."""
    stream, peer = lab.stream(KERNEL)
    stream.settimeout(SHORT)
    record = peer.data(b"data")
    peer.sock.sendall(record[:-1])
    with pytest.raises(TimeoutError):
        stream.recv(9)
    peer.sock.sendall(record[-1:])
    stream.settimeout(5)
    assert stream.recv(9) == b"data"


@both
def test_send_times_out(lab: Lab, policy: KtlsPolicy) -> None:
    """A peer that does not read cannot hold up a sender with a timeout."""
    stream, _peer = lab.stream(policy)
    stream.settimeout(SHORT)
    block = bytes(2**20)
    with pytest.raises(TimeoutError):
        _send_for_ever(lambda: stream.sendall(block))
    with pytest.raises(TimeoutError):
        _send_for_ever(lambda: stream.send(block))


@both
def test_never_waiting(lab: Lab, policy: KtlsPolicy) -> None:
    """Timeout 0 means BlockingIOError in both directions, and poll says when to go on."""
    stream, peer = lab.stream(policy)
    stream.setblocking(False)
    assert stream.gettimeout() == 0
    with pytest.raises(BlockingIOError):
        stream.recv(9)
    with pytest.raises(BlockingIOError):
        stream.recv_into(bytearray(9))
    peer.send_data(b"data")
    assert readable(stream, 5000)
    assert stream.recv(9) == b"data"
    with pytest.raises(BlockingIOError):
        _send_for_ever(lambda: stream.sendall(bytes(2**20)))
    with pytest.raises(BlockingIOError):
        _send_for_ever(lambda: stream.send(bytes(2**20)))


@both
def test_timeout_is_told(lab: Lab, policy: KtlsPolicy) -> None:
    """It is what settimeout and setblocking have set, and the hand-off's at first."""
    server, _peer = lab.server(policy)
    server.sock.settimeout(7)
    stream = TLSSocket(server)
    assert stream.gettimeout() == 7
    stream.setblocking(True)
    assert stream.gettimeout() is None
    stream.settimeout(1.5)
    assert stream.gettimeout() == 1.5


@both
def test_waiting_for_all(lab: Lab, policy: KtlsPolicy) -> None:
    """MSG_WAITALL waits for all without a timeout only, as with any socket of Python's."""
    stream, peer = lab.stream(policy)
    peer.send_data(b"one")
    stream.settimeout(600)
    assert stream.recv(6, socket.MSG_WAITALL) == b"one"
    stream.settimeout(None)
    peer.send_data(b"two")
    peer.send_data(b"three")
    assert stream.recv(8, socket.MSG_WAITALL) == b"twothree"


@both
def test_buffer_of_a_call_that_would_block(lab: Lab, policy: KtlsPolicy) -> None:
    """It is the caller's again, also to change its size."""
    stream, _peer = lab.stream(policy)
    stream.setblocking(False)
    buffer = bytearray(2**20)
    for call in (stream.recv_into, stream.send):
        with contextlib.suppress(BlockingIOError):
            while True:
                call(buffer)
        buffer.extend(b"more")


@pytest.mark.ktls
def test_partial_record_does_not_wake_poll(lab: Lab) -> None:
    """After BlockingIOError poll stays silent until more has come, also before Linux 6.5."""
    stream, peer = lab.stream(KERNEL)
    stream.setblocking(False)
    record = peer.data(b"whole")
    for start in range(0, 20, 10):
        peer.sock.sendall(record[start : start + 10])
        select.select([stream], [], [], 0.02)  # wakes before Linux 6.5, is silent afterwards
        with pytest.raises(BlockingIOError):
            stream.recv(9)
        assert not readable(stream, 20)
    peer.sock.sendall(record[20:])
    assert readable(stream, 5000)
    assert stream.recv(9) == b"whole"
    peer.send_data(b"x")
    assert readable(stream, 5000)
    assert stream.recv_into(bytearray(9)) == 1


@both
def test_error_that_is_raised_again(lab: Lab, policy: KtlsPolicy) -> None:
    """Its traceback is that of the call, whose frames it keeps, and not of all calls before."""
    cut, peer = lab.stream(policy)
    peer.sock.shutdown(socket.SHUT_WR)
    refused, peer = lab.stream(policy)
    peer.send_alert(AlertDescription.internal_error)
    for stream, kind in ((cut, Truncated), (refused, PeerAlert)):
        lengths = []
        for _ in range(4):
            with pytest.raises(kind) as raised:
                stream.recv(9)
            lengths.append(len(list(traceback.walk_tb(raised.value.__traceback__))))
        assert lengths[1:] == lengths[1:2] * 3


# -- closing


@both
def test_close_is_idempotent(lab: Lab, policy: KtlsPolicy) -> None:
    """However often and in whatever way it is closed, close_notify goes out once."""
    stream, peer = lab.stream(policy)
    peer.close_notify()
    assert stream.recv(9) == b""
    stream.shutdown(socket.SHUT_WR)
    stream.close()
    stream.close()
    assert peer.recv() == CLOSE_NOTIFY
    assert peer.recv() is None


@both
def test_close_of_the_hand_off(lab: Lab, policy: KtlsPolicy) -> None:
    """Closing the hand-off under the stream sends close_notify once as well."""
    stream, peer = lab.stream(policy)
    stream.handoff.close()
    assert stream.fileno() == -1
    assert peer.recv() == CLOSE_NOTIFY
    assert peer.recv() is None


@both
def test_block(lab: Lab, policy: KtlsPolicy) -> None:
    """``with`` closes in good order."""
    stream, peer = lab.stream(policy)
    with stream:
        stream.sendall(b"bye")
    assert peer.recv_data(3) == b"bye"
    assert peer.recv() == CLOSE_NOTIFY


@both
def test_shutdown_of_the_receiving_side(lab: Lab, policy: KtlsPolicy) -> None:
    """SHUT_RD tells the peer nothing, so that sending goes on."""
    stream, peer = lab.stream(policy)
    stream.shutdown(socket.SHUT_RD)
    stream.sendall(b"more")
    assert peer.recv_data(4) == b"more"


@both
def test_unwrap(lab: Lab, policy: KtlsPolicy) -> None:
    """Both sides say goodbye; what the peer still sends is discarded."""
    stream, peer = lab.stream(policy)
    unwrapping = Endpoint(stream.unwrap)
    assert peer.recv() == CLOSE_NOTIFY
    peer.send_data(b"too late")
    peer.close_notify()
    unwrapping.result()


@both
def test_unwrap_of_a_peer_that_goes_on(lab: Lab, policy: KtlsPolicy) -> None:
    """The timeout is that of the whole, whatever comes meanwhile."""
    stream, peer = lab.stream(policy)
    stream.settimeout(SHORT)
    ended = threading.Event()

    def go_on() -> None:
        with contextlib.suppress(OSError):
            while not ended.is_set():
                peer.send_data(b"x")

    sending = Endpoint(go_on)
    with pytest.raises(TimeoutError):
        stream.unwrap()
    ended.set()
    stream.close()
    sending.result()


@both
def test_unwrap_of_a_cut_connection(lab: Lab, policy: KtlsPolicy) -> None:
    """A peer that does not say goodbye is reported."""
    stream, peer = lab.stream(policy)
    peer.sock.shutdown(socket.SHUT_WR)
    with pytest.raises(Truncated):
        stream.unwrap()


@pytest.mark.ktls
def test_close_with_a_full_send_buffer(lab: Lab) -> None:
    """Closing never waits for a peer that does not read."""
    stream, peer = lab.stream(KERNEL)
    stream.settimeout(SHORT)
    with pytest.raises(TimeoutError):
        _send_for_ever(lambda: stream.sendall(bytes(2**20)))
    stream.settimeout(None)
    stream.close()
    assert stream.fileno() == -1
    reset(peer.sock)


# -- signal handlers, which run in the midst of this thread's own calls


@both
def test_send_amid_a_send(lab: Lab, policy: KtlsPolicy) -> None:
    """What a handler sends goes out between two records of the send that it has interrupted."""
    stream, peer = lab.stream(policy)
    stream.settimeout(None)
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
    is_heard = threading.Event()
    channel = stream.handoff.channel

    def send() -> None:
        is_sending = channel is None or channel.writing.is_mine()
        if is_sending and not is_heard.is_set() and not select.select([], [stream], [], 0)[1]:
            is_heard.set()
            stream.sendall(b"!")

    def read() -> None:
        assert is_heard.wait(60)
        assert any(b"!" in payload for _, payload in iter(peer.recv, None))
        reset(peer.sock)

    reading = Endpoint(read)
    with interrupted(send), pytest.raises(ConnectionError):
        stream.sendall(bytes(2**24))
    reading.result()


@pytest.mark.heavy
@both
def test_sends_amid_any_step(lab: Lab, policy: KtlsPolicy) -> None:
    """A handler may send whenever the signal comes."""
    stream, peer = lab.stream(policy)
    stream.settimeout(None)
    marks = sent = 0

    def send() -> None:
        nonlocal marks
        stream.sendall(b"!")
        marks += 1

    reading = Endpoint(lambda: b"".join(payload for _, payload in iter(peer.recv, None)))
    with interrupted(send):
        while marks < 500:
            stream.sendall(b".")
            sent += 1
    stream.shutdown(socket.SHUT_WR)
    data = reading.result()
    assert (data.count(b"!"), data.count(b".")) == (marks, sent)


class _Alarm(Exception):
    """A signal handler's."""


def _raise_amid(call: Callable[[], object], times: int) -> None:
    """Have a handler raise in the midst of calls, at any step."""
    is_armed, raised = False, 0

    def alarm() -> None:
        nonlocal is_armed, raised
        if is_armed:
            is_armed = False
            raised += 1
            raise _Alarm

    with interrupted(alarm):
        while raised < times:
            with contextlib.suppress(_Alarm):
                is_armed = True
                call()
                is_armed = False


@pytest.mark.heavy
@both
def test_handler_that_raises_amid_a_send(lab: Lab, policy: KtlsPolicy) -> None:
    """Wherever it comes, later sends go out, other threads' too, and the end is in order."""
    stream, peer = lab.stream(policy)
    stream.settimeout(60)
    reading = Endpoint(lambda: list(iter(peer.recv, None)))
    _raise_amid(lambda: stream.send(b"data"), 300)
    assert Endpoint(lambda: stream.send(b"more")).result() == 4
    stream.shutdown(socket.SHUT_WR)
    *_, more, end = reading.result()
    assert more is not None
    assert (more[1], end) == (b"more", CLOSE_NOTIFY)


@pytest.mark.heavy
@both
def test_handler_that_raises_amid_a_receive(lab: Lab, policy: KtlsPolicy) -> None:
    """Wherever it comes, later calls receive what comes."""
    stream, peer = lab.stream(policy)
    stream.settimeout(60)
    is_over = threading.Event()

    def feed() -> None:
        while not is_over.is_set():
            peer.send_data(b"data")
        peer.send_data(b"last")

    feeding = Endpoint(feed)
    _raise_amid(lambda: stream.recv(9), 1000)
    is_over.set()
    while not stream.recv(2**16).endswith(b"last"):
        pass
    feeding.result()


@both
def test_dontwait_while_another_thread_is_in_a_call(lab: Lab, policy: KtlsPolicy) -> None:
    """It does not wait for that one, either."""
    stream, peer = lab.stream(policy)
    stream.settimeout(None)
    calls = stream.handoff.calls
    receiving = Endpoint(lambda: stream.recv(9))
    until(lambda: calls.receives or _is_taken(stream, "reading"))
    with pytest.raises(BlockingIOError):
        stream.recv(9, socket.MSG_DONTWAIT)
    peer.send_data(b"data")
    assert receiving.result() == b"data"
    sending = Endpoint(lambda: stream.sendall(bytes(2**24)))
    until(lambda: calls.sends and not select.select([], [stream], [], 0)[1])
    with pytest.raises(BlockingIOError):
        stream.send(bytes(2**24), socket.MSG_DONTWAIT)
    reset(peer.sock)
    with pytest.raises(ConnectionError):
        sending.result()


def _is_taken(stream: TLSSocket, name: str) -> bool:
    channel = stream.handoff.channel
    return channel is not None and bool(getattr(channel, name).locked())


@pytest.mark.ktls
def test_receive_amid_a_receive(lab: Lab) -> None:
    """It is refused: it would wait for ever for the one that it has interrupted."""
    stream, peer = lab.stream(KERNEL)
    stream.settimeout(None)
    said: list[int | None] = []
    channel = stream.handoff.channel
    assert channel is not None

    def receive() -> None:
        if said or not channel.reading.is_mine():
            return
        try:
            stream.recv(9)
        except OSError as exc:
            said.append(exc.errno)
        peer.send_data(b"data")

    with interrupted(receive):
        assert stream.recv(9) == b"data"
    assert said == [errno.EDEADLK]
