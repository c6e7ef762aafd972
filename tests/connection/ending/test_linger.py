"""Tests of linger: connections that end while the peer does not read, and what an end means."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
import time
import warnings
from typing import TYPE_CHECKING

import pytest

from tests.doubles import (
    CLOSE_NOTIFY,
    KERNEL,
    OFFLOADS,
    VERSIONS,
    Endpoint,
    Lab,
    RawPeer,
    check_descriptors,
    descriptors,
    reset,
    until,
)
from tests.want import Want
from tlsify.codepoints import ContentType, ProtocolVersion
from tlsify.config import ClosePolicy
from tlsify.connection import event_thread
from tlsify.connection.ending import linger, patience
from tlsify.connection.stream import TLSSocket
from tlsify.errors import Truncated
from tlsify.metrics.counters import counters

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlsify.config import KtlsPolicy

pytestmark = pytest.mark.each_kernel

BLOCK = bytes(range(256)) * 64
# Closing waits for nothing: what takes longer is stuck, whatever the machine's load.
AT_ONCE = 5.0
THREAD = "tlsify-linger"


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connections of other tests have ended before, and the thread does not wait for more."""
    monkeypatch.setattr(event_thread, "_IDLE", 0.0)
    until(lambda: _threads() == 0, timeout=60)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Until it is set no control record fits.

    The peer's TCP may well find room for a few bytes more than when data did not fit.
    """
    opened, has_room = threading.Event(), linger.has_room
    monkeypatch.setattr(linger, "has_room", lambda sock: opened.is_set() and has_room(sock))
    return opened


def _threads() -> int:
    return sum(thread.name == THREAD for thread in threading.enumerate())


def _full(
    lab: Lab, version: ProtocolVersion = ProtocolVersion.TLSv1_3
) -> tuple[TLSSocket, RawPeer, int]:
    """Connect to a peer that does not read, and send until nothing goes any more."""
    tls, peer = lab.stream(KERNEL, version)
    tls.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**15)
    tls.settimeout(0)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += tls.send(BLOCK)
    return tls, peer, sent


def _at_once(action: Callable[[], object]) -> None:
    started = time.monotonic()
    action()
    assert time.monotonic() - started < AT_ONCE


def _check_all_arrives(peer: RawPeer, sent: int) -> None:
    """All data, then close_notify, then FIN."""
    received = bytearray()
    while (record := peer.recv()) is not None and record[0] == ContentType.application_data:
        received += record[1]
    assert received == (BLOCK * (sent // len(BLOCK) + 1))[:sent]
    assert record == CLOSE_NOTIFY
    assert peer.recv() is None


def _shut_down(tls: TLSSocket) -> None:
    tls.shutdown(socket.SHUT_WR)


ENDINGS: dict[str, Callable[[TLSSocket], object]] = {
    "shutdown": _shut_down,
    "shutdown of both": lambda tls: tls.shutdown(socket.SHUT_RDWR),
    "close": lambda tls: tls.close(),
    "hand-off's shutdown": lambda tls: tls.handoff.shutdown(),
    "hand-off's close": lambda tls: tls.handoff.close(),
}


@pytest.mark.ktls
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("version", VERSIONS)
def test_full_buffer(lab: Lab, ending: str, version: ProtocolVersion) -> None:
    """Ending returns at once; a peer that reads on gets everything, close_notify and FIN."""
    tls, peer, sent = _full(lab, version)
    _at_once(lambda: ENDINGS[ending](tls))
    _check_all_arrives(peer, sent)
    until(lambda: _threads() == 0)
    tls.close()


@pytest.mark.ktls
@pytest.mark.parametrize("again", ENDINGS)
@pytest.mark.parametrize("first", ["shutdown", "hand-off's shutdown"])
def test_full_buffer_and_ended_twice(
    lab: Lab, gate: threading.Event, first: str, again: str
) -> None:
    """To end once more what is ending already does not take its close_notify from the peer."""
    tls, peer, sent = _full(lab)
    for ending in (first, again):
        _at_once(lambda ending=ending: ENDINGS[ending](tls))  # type: ignore[misc]
    gate.set()
    _check_all_arrives(peer, sent)
    until(lambda: _threads() == 0)
    tls.close()


@pytest.mark.ktls
def test_reading_goes_on_meanwhile(lab: Lab) -> None:
    """Half closed, data can be received before the peer reads, and afterwards."""
    tls, peer, sent = _full(lab)
    tls.settimeout(60)
    _at_once(lambda: tls.shutdown(socket.SHUT_WR))
    peer.send_data(b"before")
    assert tls.recv(9) == b"before"
    with pytest.raises(BrokenPipeError):
        tls.send(b"x")
    _check_all_arrives(peer, sent)
    peer.send_data(b"after")
    peer.close_notify()
    assert tls.recv(9) == b"after"
    assert tls.recv(9) == b""
    _at_once(tls.close)


@pytest.mark.ktls
@pytest.mark.usefixtures("gate")
def test_peer_that_never_reads(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up, and gets FIN without close_notify should it read after all."""
    monkeypatch.setattr(patience, "PATIENCE", 0.05)
    tls, peer, sent = _full(lab)
    _at_once(tls.close)
    until(lambda: _threads() == 0)
    received = 0
    while (record := peer.recv()) is not None:
        assert record[0] == ContentType.application_data
        received += len(record[1])
    assert received == sent


@pytest.mark.parametrize("seconds", [0, 60])
def test_close_that_would_wait(seconds: int) -> None:
    """The thread of all endings waits for no peer; a reset that a program wants is one."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, seconds))
        linger.Ending(ours.dup(), None).close()
        found = ours.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)
        assert struct.unpack("=ii", found) == (not seconds, seconds)


@pytest.mark.ktls
def test_peer_that_resets(lab: Lab, gate: threading.Event) -> None:
    """Nothing is left to be sent to it."""
    tls, peer, _sent = _full(lab)
    _at_once(tls.close)
    assert _threads() == 1
    reset(peer.sock)
    gate.set()
    until(lambda: _threads() == 0)


@pytest.mark.ktls
@pytest.mark.parametrize("ending", ["shutdown", "hand-off's shutdown", "close"])
def test_writer_that_is_stuck(lab: Lab, ending: str) -> None:
    """Whoever is in the midst of sending is woken by FIN, be it in the midst of a record."""
    tls, peer, _sent = _full(lab)
    tls.settimeout(None)
    writer = Endpoint(lambda: tls.sendall(BLOCK * 2**10))
    channel = tls.handoff.channel
    assert channel is not None
    until(channel.writing.locked)
    ENDINGS[ending](tls)
    with pytest.raises(OSError, match=r"Broken pipe|Bad file"):
        writer.result()
    _read_all(peer.sock)
    tls.close()


@pytest.mark.ktls
def test_many_share_one_thread(lab: Lab, gate: threading.Event) -> None:
    """It begins with the first of them, and ends with the last, leaving no descriptor open."""
    made = [_full(lab) for _ in range(6)]
    before = descriptors()
    for tls, _, _ in made:
        _at_once(tls.close)
    assert _threads() == 1
    gate.set()
    for _, peer, sent in reversed(made):
        assert _threads() <= 1
        _check_all_arrives(peer, sent)
    until(lambda: _threads() == 0)
    assert len(descriptors()) == len(before) - len(made)


@pytest.mark.ktls
def test_forked_child_lets_go(lab: Lab, gate: threading.Event) -> None:
    """A child of another thread's process has none of its threads, and must hold no connection."""
    tls, peer, sent = _full(lab)
    tls.close()
    assert _threads() == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads and fork
        pid = os.fork()
    if not pid:
        left = len(linger._lingerer)
        os._exit(left)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    gate.set()
    _check_all_arrives(peer, sent)
    until(lambda: _threads() == 0)


# -- the thread, whatever the carrier


class _Nobody:
    """Has nothing to receive."""

    def discard(self, _: memoryview) -> int:
        """Wait."""
        raise BlockingIOError

    def wipe(self) -> None:
        """Return no secret."""


def _owing(
    lab: Lab, alert: bytes | None = None, *, receives: bool = True
) -> tuple[linger.Ending, socket.socket]:
    """Return a connection that is ending, and whose peer has much to read; and the peer."""
    ours, theirs = lab.tcp()
    ours.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            ours.send(bytes(2**16))
    own = socket.socket(fileno=ours.detach())  # whose end is the ending's alone
    return linger.Ending(own, alert, _Nobody() if receives else None), theirs


def _read_all(peer: socket.socket) -> None:
    while peer.recv(2**20):
        pass


def test_finalizer_in_the_midst(lab: Lab) -> None:
    """A connection that is collected while this thread has the lock is ended all the same."""
    ending, peer = _owing(lab)

    def collect() -> None:
        with linger._lingerer._lock:
            linger.finish(ending)

    Endpoint(collect).result()
    _read_all(peer)
    ending.wait()
    until(lambda: _threads() == 0)


@pytest.mark.parametrize("kind", ["epoll", "eventfd"])
def test_no_descriptor_for_the_thread(lab: Lab, kind: str) -> None:
    """It does without, and has what it lacked as soon as there is some again."""
    before = descriptors()
    with Want(kind, 0):
        first = _owing(lab)
        linger.finish(first[0])
        _read_all(first[1])
        first[0].wait()
        second = _owing(lab)
        linger.finish(second[0])
        until(lambda: linger._lingerer._watched)
    until(lambda: linger._lingerer._bell is not None)
    _read_all(second[1])
    second[0].wait()
    until(lambda: _threads() == 0)
    first[1].close()
    second[1].close()
    check_descriptors(before)


def test_no_thread(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """The peer gets FIN at once, behind all that was sent; the next one takes care of the rest."""
    before = descriptors()
    first, second, third = _owing(lab, b"alert"), _owing(lab), _owing(lab)
    lacking = counters()["shortage"]
    with Want("thread", 0):
        linger.finish(first[0])
        linger.finish(second[0])
    for ending, peer in (first, second):
        _read_all(peer)
        assert ending.sock.fileno() != -1
    assert counters()["shortage"] == lacking + 1, "the other one has had its FIN"
    assert [record.getMessage() for record in caplog.records] == [
        "a connection ends without close_notify: can't start new thread"
    ]
    linger.finish(third[0])
    _read_all(third[1])
    for ending, peer in (first, second, third):
        ending.wait()
        peer.close()
    until(lambda: _threads() == 0)
    check_descriptors(before)


def test_no_thread_for_a_half_close(lab: Lab) -> None:
    """A descriptor that nobody needs any more is closed at once."""
    ending, peer = _owing(lab, b"alert", receives=False)
    with Want("thread", 0):
        linger.finish(ending)
    assert ending.sock.fileno() == -1
    _read_all(peer)


def test_thread_that_dies(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has left is not lost: the next one begins with it."""
    first, second = _owing(lab, b"alert"), _owing(lab)
    deaths: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", deaths.append)
    with monkeypatch.context() as dying:
        dying.setattr(linger._lingerer, "_wait", lambda: 1 // 0)
        linger.finish(first[0])
        until(lambda: deaths)
    _read_all(first[1])
    linger.finish(second[0])
    first[0].wait()
    _read_all(second[1])
    second[0].wait()
    until(lambda: _threads() == 0)


def test_one_that_fails(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """A bug in one ending costs its own peer the rest, and no other."""

    class Broken(_Nobody):
        def discard(self, _: memoryview) -> int:
            raise LookupError("a bug")

    broken, peer = _owing(lab)
    whole, reader = _owing(lab)
    linger.finish(whole)
    assert broken.take(Broken())
    linger._lingerer.add(broken)
    assert broken.wait(60)
    assert [record.getMessage() for record in caplog.records] == ["bug at the end of a connection"]
    _read_all(reader)
    assert whole.wait(60)
    until(lambda: _threads() == 0)
    peer.close()
    reader.close()


# -- what the end of a stream is

both = pytest.mark.parametrize("policy", OFFLOADS)
each_version = pytest.mark.parametrize("version", VERSIONS)


@both
@each_version
@pytest.mark.parametrize("closing", ClosePolicy)
def test_cut_stream(
    lab: Lab, policy: KtlsPolicy, version: ProtocolVersion, closing: ClosePolicy
) -> None:
    """Strictly, an end without close_notify is an error; relaxed, an end as any other."""
    handoff, peer = lab.server(policy, version)
    tls = TLSSocket(handoff, closing)
    peer.send_data(b"data")
    peer.sock.shutdown(socket.SHUT_WR)
    assert tls.recv(9) == b"data"
    for _ in range(2):
        if closing is ClosePolicy.STRICT:
            with pytest.raises(Truncated):
                tls.recv(9)
            with pytest.raises(Truncated):
                tls.recv_into(bytearray(9))
        else:
            assert tls.recv(9) == b""
            assert tls.recv_into(bytearray(9)) == 0


@both
@each_version
@pytest.mark.parametrize("closing", ClosePolicy)
@pytest.mark.parametrize("we_first", [True, False])
def test_half_close(
    lab: Lab, policy: KtlsPolicy, version: ProtocolVersion, closing: ClosePolicy, *, we_first: bool
) -> None:
    """Either side may end first, and the other still sends."""
    handoff, peer = lab.server(policy, version)
    tls = TLSSocket(handoff, closing)
    if we_first:
        tls.shutdown(socket.SHUT_WR)
        assert peer.recv() == CLOSE_NOTIFY
        assert peer.recv() is None
        peer.send_data(b"more")
        peer.close_notify()
        assert tls.recv(9) == b"more"
        assert tls.recv(9) == b""
    else:
        peer.close_notify()
        assert tls.recv(9) == b""
        tls.sendall(b"more")
        assert peer.recv_data(4) == b"more"
        tls.close()
        assert peer.recv() == CLOSE_NOTIFY
        assert peer.recv() is None
