"""Tests of calls: an end while other threads are in calls on the connection."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import threading
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.connection.ending.test_forks import _fork, _status
from tests.doubles import (
    CLOSE_NOTIFY,
    KERNEL,
    OFFLOADS,
    RELAY,
    Endpoint,
    HalfRecord,
    Lab,
    RawPeer,
    call_within,
    readable,
    until,
)
from tlsify.connection.ending import calls
from tlsify.connection.ending.calls import Callers, CountedSocket
from tlsify.connection.stream import TLSSocket
from tlsify.metrics.counters import counters
from tlsify.sslcontext.socket import SSLSocket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tlsify.config import KtlsPolicy
    from tlsify.connection.handoff import Handoff

pytestmark = pytest.mark.each_kernel

both = pytest.mark.parametrize("policy", OFFLOADS)
DOORS: dict[str, Callable[[Handoff], socket.socket]] = {
    "Handoff": lambda handed: handed.sock,
    "TLSSocket": TLSSocket,
    "sslcontext": lambda handed: SSLSocket.established(handed, cast("Any", None)),
}
each_door = pytest.mark.parametrize("door", DOORS)
LARGE = bytes(2**24)  # more than fits on the way: a peer that reads nothing has little room
ROOM = 2**17


def _open(lab: Lab, policy: KtlsPolicy, door: str) -> tuple[Handoff, socket.socket, RawPeer]:
    handed, peer = lab.server(policy)
    sock = DOORS[door](handed)
    sock.settimeout(None)
    network = handed.sock if handed.relay is None else handed.relay.network
    assert network is not None
    network.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ROOM)
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM)
    return handed, sock, peer


def _is_full(sock: socket.socket) -> bool:
    return not select.select([], [sock], [], 0)[1]


def _ends_as_a_cut(peer: RawPeer) -> bool:
    """Read to the end; return whether it is without close_notify."""
    with contextlib.suppress(HalfRecord):
        return CLOSE_NOTIFY not in iter(peer.recv, None)
    return True


def _close(handed: Handoff, sock: socket.socket, door: str) -> None:
    handed.close() if door == "Handoff" else sock.close()


def _is_receiving(handed: Handoff) -> bool:
    if handed.channel is None:
        return bool(handed.calls.receives)
    return handed.channel.reading.locked()


def _bare_kernel(policy: KtlsPolicy, door: str) -> bool:
    return door == "Handoff" and policy is KERNEL


@both
@each_door
@pytest.mark.parametrize("end", ["close", "shutdown"])
def test_end_in_the_midst_of_a_send(
    lab: Lab, policy: KtlsPolicy, door: str, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer sees no clean end behind a part of the data, and the sender does not hang."""
    monkeypatch.setattr(calls, "_MOMENT", 0.01)
    handed, sock, peer = _open(lab, policy, door)

    def send() -> None:
        # Who writes to the bare descriptor holds this lock; on the relay there is none.
        with contextlib.nullcontext() if handed.channel is None else _held(handed, door):
            sock.sendall(LARGE)

    sending = Endpoint(send)
    until(lambda: _is_full(sock))
    if end == "close":
        _close(handed, sock, door)
    else:
        handed.shutdown() if door == "Handoff" else sock.shutdown(socket.SHUT_WR)
    with pytest.raises(OSError, match=r"Broken pipe|Bad file"):
        sending.result()
    assert _ends_as_a_cut(peer)


@contextlib.contextmanager
def _held(handed: Handoff, door: str) -> Iterator[None]:
    assert handed.channel is not None
    if door == "Handoff":
        with handed.channel.writing:
            yield
    else:
        yield


@both
@each_door
def test_close_lets_a_send_finish(
    lab: Lab, policy: KtlsPolicy, door: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data that the peer takes at once is all there, and the end behind it is a clean one."""
    if _bare_kernel(policy, door):
        pytest.skip("the lock is the program's")
    monkeypatch.setattr(calls, "_MOMENT", 60)
    handed, sock, peer = _open(lab, policy, door)
    sending = Endpoint(lambda: sock.sendall(LARGE))
    until(lambda: _is_full(sock))
    closing = Endpoint(lambda: _close(handed, sock, door))
    received = 0
    while (record := peer.recv()) not in {None, CLOSE_NOTIFY}:
        received += len(cast("Any", record)[1])
    assert (record, received) == (CLOSE_NOTIFY, len(LARGE))
    sending.result()
    closing.result()


@both
@each_door
@pytest.mark.parametrize("into", [False, True])
def test_close_while_another_thread_receives(
    lab: Lab, policy: KtlsPolicy, door: str, *, into: bool
) -> None:
    """The peer sees the end at once; the receiver does not take it for the peer's."""
    handed, sock, peer = _open(lab, policy, door)
    receiving = Endpoint(lambda: sock.recv_into(bytearray(9)) if into else sock.recv(9))
    until(lambda: _bare_kernel(policy, door) or _is_receiving(handed))
    assert not readable(sock, 10)
    _close(handed, sock, door)
    assert peer.recv() == CLOSE_NOTIFY
    assert peer.recv() is None
    if _bare_kernel(policy, door):
        assert not receiving.result()  # R4: what it means is `handoff.service` to say
        return
    with pytest.raises(OSError, match="Bad file"):
        receiving.result()


@both
def test_receiver_at_a_slow_end(lab: Lab, policy: KtlsPolicy) -> None:
    """It does not wait for ever either where data has to arrive first, and the peer sends none."""
    handed, sock, peer = _open(lab, policy, "TLSSocket")
    receiving = Endpoint(lambda: sock.recv(9))
    until(lambda: _is_receiving(handed))
    assert not readable(sock, 10)
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(bytes(2**16), socket.MSG_DONTWAIT)
    sock.close()
    *_, last = iter(peer.recv, None)
    assert last == CLOSE_NOTIFY
    with pytest.raises(OSError, match="Bad file"):
        receiving.result()


@both
@each_door
def test_calls_after_close(lab: Lab, policy: KtlsPolicy, door: str) -> None:
    """They fail, though unread data has the connection end in the background."""
    handed, sock, peer = _open(lab, policy, door)
    peer.send_data(b"unread")
    until(lambda: select.select([sock], [], [], 0)[0])
    _close(handed, sock, door)
    for call in (
        lambda: sock.recv(9),
        lambda: sock.recv_into(bytearray(9)),
        lambda: sock.send(b"x"),
        lambda: sock.sendall(b"x"),
    ):
        with pytest.raises(OSError, match="Bad file") as caught:
            call()
        assert caught.value.errno == errno.EBADF


@both
@pytest.mark.parametrize("door", ["TLSSocket", "sslcontext"])
@pytest.mark.parametrize("timeout", [None, 0.0])
def test_our_own_end_of_receiving(
    lab: Lab, policy: KtlsPolicy, door: str, timeout: float | None
) -> None:
    """It wakes a receiver, who gets what came before, and then the end: that is no cut."""
    handed, sock, peer = _open(lab, policy, door)
    before = counters()["truncated"]
    receiving = Endpoint(lambda: sock.recv(9))
    until(lambda: _is_receiving(handed))
    peer.send_data(b"one")
    assert receiving.result() == b"one"
    peer.send_data(b"two")
    until(lambda: select.select([sock], [], [], 0)[0])
    sock.settimeout(timeout)
    sock.shutdown(socket.SHUT_RDWR)
    assert sock.recv(9) == b"two"
    assert sock.recv(9) == b""
    assert sock.recv_into(bytearray(9)) == 0
    assert counters()["truncated"] == before


@both
def test_signal_handler_that_closes(lab: Lab, policy: KtlsPolicy) -> None:
    """It interrupts its own thread's send: there is nothing to wait for, and no clean end."""
    _handed, sock, peer = _open(lab, policy, "TLSSocket")
    before = signal.signal(signal.SIGUSR1, lambda *_: sock.close())
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        until(lambda: _is_full(sock))
        signal.pthread_kill(main, signal.SIGUSR1)

    try:
        interrupting = Endpoint(interrupt)
        with pytest.raises(OSError, match=r"Broken pipe|Bad file"):
            sock.sendall(LARGE)
        interrupting.result()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert _ends_as_a_cut(peer)


# -- what an end leaves alone


@each_door
def test_copies_that_were_passed_on(lab: Lab, door: str) -> None:
    """Without a call under way closing is closing: whoever has another descriptor goes on."""
    handed, sock, peer = _open(lab, RELAY, door)
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket(fileno=os.dup(sock.fileno())) as copy:
        socket.send_fds(ours, [b"."], [sock.fileno()])
        _close(handed, sock, door)
        copy.sendall(b"copy")
        assert peer.recv_data(4) == b"copy"
        copy.close()
        with socket.socket(fileno=socket.recv_fds(theirs, 1, 1)[1][0]) as passed:
            passed.sendall(b"passed")
            peer.send_data(b"back")
            assert passed.recv(9) == b"back"
        assert peer.recv_data(6) == b"passed"
    assert peer.recv() == CLOSE_NOTIFY
    assert peer.recv() is None


@both
@each_door
def test_child_that_closes_while_the_parent_receives(
    lab: Lab, policy: KtlsPolicy, door: str
) -> None:
    """The call under way is not the child's."""
    handed, sock, peer = _open(lab, policy, door)
    receiving = Endpoint(lambda: sock.recv(9))
    until(lambda: _bare_kernel(policy, door) or _is_receiving(handed))
    assert _status(_fork(lambda: _close(handed, sock, door))) == 0
    peer.send_data(b"data")
    assert receiving.result() == b"data"
    sock.sendall(b"more")
    assert peer.recv_data(4) == b"more"


def test_callers() -> None:
    """A call may be part of another, and a child has none of its parent's."""
    callers = Callers()

    def child() -> None:
        assert not callers
        assert callers.wait(60)
        with callers:
            assert callers
        assert not callers

    def call() -> None:
        assert callers.wait(0)
        with callers:
            with callers:
                assert callers
            assert callers
            assert not callers.wait(60)  # not for itself
            assert not Endpoint(lambda: callers.wait(0)).result()
            assert _status(_fork(child)) == 0
        assert not callers

    call_within(call)


def test_call_that_an_exception_has_left() -> None:
    """It is none any more, for its own thread and for others."""
    callers = Callers()
    callers.__enter__()
    assert Endpoint(lambda: callers.wait(60)).result()
    callers.__enter__()
    assert callers.wait(60)
    assert not callers


def test_every_call_is_counted() -> None:
    """Those of the program's end, by each of its methods, and of its copies."""
    ours, theirs = socket.socketpair()
    counted = calls.Calls()
    counted.refusal = errno.EBADF
    with theirs, CountedSocket(ours, counted) as end, end.dup() as copy:
        theirs.sendall(b"abcdef")
        buffer = bytearray(1)
        for sock in (end, copy):
            sock.settimeout(5)
        assert end.recv(1) == b"a"
        assert copy.recv_into(buffer) == end.recvfrom_into(buffer)[0] == 1
        assert end.recvfrom(1)[0] == b"d"
        assert end.recvmsg(1)[0] == b"e"
        assert end.recvmsg_into([buffer])[0] == 1
        end.sendall(b"1")
        assert end.send(b"2") == end.sendmsg([b"3"]) == 1
        with open(__file__, "rb") as file:
            assert end.sendfile(file, 0, 3) == 3
        assert theirs.recv(9) == b'123"""'
        theirs.shutdown(socket.SHUT_WR)
        for call in (
            lambda: end.recv(1),
            lambda: end.recv_into(buffer),
            lambda: end.recvmsg(1),
            lambda: copy.recvmsg_into([buffer]),
        ):
            with pytest.raises(OSError, match="Bad file"):
                call()
