"""Tests of upkeep: keys that change while a program writes without knowing of it."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.doubles import KERNEL, Endpoint, Lab, RawPeer, until
from tlsify.codepoints import Aead, ContentType
from tlsify.connection import sender, upkeep
from tlsify.connection.upkeep import Upkeep
from tlsify.keys import Direction
from tlsify.ktls import ulp
from tlsify.tls.messages import KeyUpdateRequest, encode_key_update

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tlsify.connection.handoff import Handoff

pytestmark = [pytest.mark.ktls, pytest.mark.rekey, pytest.mark.each_kernel]

_UPDATE = (ContentType.handshake, encode_key_update(KeyUpdateRequest.update_not_requested))
_CHANGES = 4


@contextmanager
def writers(sock: socket.socket, number: int, size: int) -> Iterator[list[int]]:
    """Have processes that write without end, each its own letter, blocking or not as the socket."""
    pids = []
    for at in range(number):
        pid = os.fork()
        if not pid:
            _write(sock, bytes([ord("a") + at]) * size)
        pids.append(pid)
    try:
        yield pids
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _write(sock: socket.socket, data: bytes) -> None:
    room = select.poll()
    room.register(sock, select.POLLOUT)
    try:
        while True:
            rest = memoryview(data)
            while rest:
                try:
                    rest = rest[os.write(sock.fileno(), rest) :]
                except BlockingIOError:
                    room.poll()
    finally:
        os._exit(1)


class Reader:
    """A peer that receives until the end, and follows each change of the key.

    Attributes:
        received: how much.
    """

    def __init__(self, peer: RawPeer, changes: int) -> None:
        """Begin; see `tend` for the number of changes."""
        self.received = 0
        self._peer, self._changes = peer, changes
        self._has_enough = threading.Event()
        self._end = Endpoint(self._read)

    def _read(self) -> bool:
        while (record := self._peer.recv()) is not None:
            if record[0] == ContentType.alert:
                return True
            if record == _UPDATE:
                self._peer.follow_key_update()
                self._changes -= 1
                continue
            assert record[0] == ContentType.application_data
            self.received += len(record[1])
            if self._changes <= 0:
                self._has_enough.set()
        return False

    def tend(self, kept: Upkeep) -> None:
        """Call `look` as its owners do, until data came behind the last change."""
        while not self._has_enough.is_set() and not self._end.done:
            time.sleep(min(kept.look(), 0.01))

    def is_closed(self) -> bool:
        """Wait for the end; return whether that was a clean one."""
        return self._end.result()


def end(kept: Upkeep, handoff: Handoff) -> None:
    """End the sending direction."""
    while (pause := kept.end()) is not None:
        time.sleep(pause)
    handoff.shutdown()


def held(handoff: Handoff) -> Upkeep:
    """Look after a connection."""
    assert handoff.channel is not None
    handoff.sock.settimeout(None)
    return Upkeep(handoff.channel)


@pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "not blocking"])
def test_writers_that_never_stop(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, *, blocking: bool
) -> None:
    """The key is changed again and again between the writes of several processes."""
    monkeypatch.setattr(Aead, "record_limit", property(lambda _: 40))
    monkeypatch.setattr(sender, "KEY_LIMIT_MARGIN", -(2**20))
    monkeypatch.setattr(upkeep, "_LOOK", 0.0)
    handoff, peer = lab.server(KERNEL)
    kept = held(handoff)
    options = _options(handoff.sock)
    os.set_blocking(handoff.sock.fileno(), blocking)
    with writers(handoff.sock, 2, 3 * 2**14):
        reader = Reader(peer, _CHANGES)
        reader.tend(kept)
    end(kept, handoff)
    assert reader.is_closed()
    assert _options(handoff.sock) == options


def _options(sock: socket.socket) -> list[int]:
    names = (socket.TCP_NODELAY, socket.TCP_CORK, socket.TCP_NOTSENT_LOWAT)
    return [sock.getsockopt(socket.IPPROTO_TCP, name) for name in names]


def test_peer_that_asks_while_the_program_writes(lab: Lab) -> None:
    """It is answered, though the program does not pause."""
    handoff, peer = lab.server(KERNEL)
    kept = held(handoff)
    with writers(handoff.sock, 1, 2**15):
        peer.sock.sendall(peer.key_update(KeyUpdateRequest.update_requested) + peer.data(b"x"))
        assert handoff.channel is not None
        assert handoff.channel.receive(1) == b"x"
        assert kept.is_due
        reader = Reader(peer, 1)
        reader.tend(kept)
        assert handoff.channel.session.updates_sent == 1
    end(kept, handoff)
    assert reader.is_closed()


@pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "not blocking"])
def test_end_while_the_peer_takes_nothing(lab: Lab, *, blocking: bool) -> None:
    """A change that is under way at the end costs the peer nothing: all data, and close_notify."""
    handoff, peer = lab.server(KERNEL)
    kept = held(handoff)
    sock = handoff.sock
    os.set_blocking(sock.fileno(), False)
    sent = 0
    try:
        while True:
            sent += sock.send(bytes(2**14), socket.MSG_DONTWAIT)
    except BlockingIOError:
        os.set_blocking(sock.fileno(), blocking)
    assert handoff.channel is not None
    handoff.channel.session.update_due = True
    for _ in range(3):
        kept.look()
    assert kept.is_due
    assert kept.end() is not None
    reader = Reader(peer, 1)
    end(kept, handoff)
    assert (reader.is_closed(), reader.received) == (True, sent)


def test_end_with_a_peer_that_never_takes_anything(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is given up, with FIN behind what it has not taken."""
    monkeypatch.setattr("tlsify.connection.ending.patience.PATIENCE", 0.05)
    handoff, _peer = lab.server(KERNEL)
    kept = held(handoff)
    with writers(handoff.sock, 1, 2**15):
        assert handoff.channel is not None
        until(lambda: not select.select([], [handoff.sock], [], 0)[1])
        handoff.channel.session.update_due = True
        kept.look()
        end(kept, handoff)
        assert handoff.channel.writing.acquire(blocking=False)


def test_no_thread(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The change is tried again later; writers are not held back until then."""
    handoff, peer = lab.server(KERNEL)
    kept = held(handoff)
    assert handoff.channel is not None
    handoff.channel.session.update_due = True
    options = _options(handoff.sock)

    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(upkeep, "_SHORTAGE", 0.01)
    with monkeypatch.context() as patch:
        patch.setattr("threading.Thread.start", refuse)
        assert kept.look() == upkeep._SHORTAGE
    assert _options(handoff.sock) == options
    reader = Reader(peer, 1)
    until(lambda: kept.look() > 1 and not kept.is_due)
    handoff.sock.sendall(b"x")
    reader.tend(kept)
    assert ulp.next_seq(handoff.sock, Direction.TX, handoff.negotiated.suite.aead) == 1
