"""Tests of pump; test_connect has what stdin and stdout do."""

from __future__ import annotations

import errno
import os
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.doubles import CLOSE_NOTIFY, OFFLOADS, RELAY, Endpoint, Lab, reset, until, vanish
from tlsify.cli import streams
from tlsify.cli.program.pump import _Sending, pump
from tlsify.config import ClosePolicy
from tlsify.connection.ending.patience import unread
from tlsify.connection.setup import keepalive
from tlsify.errors import DeadlineExceeded, PeerMisbehaved, Truncated
from tlsify.metrics.counters import counters

if TYPE_CHECKING:
    from tests.doubles import RawPeer
    from tlsify.config import KtlsPolicy

each_offload = pytest.mark.parametrize("policy", OFFLOADS)


class Pipes:
    """A pump between two pipes."""

    def __init__(
        self,
        lab: Lab,
        policy: KtlsPolicy,
        *,
        is_server: bool,
        closing: ClosePolicy = ClosePolicy.STRICT,
        idle: float | None = None,
    ) -> None:
        """Start it."""
        make = lab.server if is_server else lab.client
        handoff, self.peer = make(policy)
        source, self.into = os.pipe()
        self.out, sink = os.pipe()
        self._source = source

        def carry() -> None:
            try:
                pump(handoff, closing, source, sink, is_server=is_server, idle=idle)
            finally:
                if not is_server:
                    os.close(sink)

        self.carrier = Endpoint(carry)

    def close(self) -> None:
        """Close what is left."""
        for number in (self._source, self.out):
            os.close(number)


@each_offload
def test_answer_after_the_question_has_ended(lab: Lab, policy: KtlsPolicy) -> None:
    """A server's side goes on sending to a client that has closed."""
    pipes = Pipes(lab, policy, is_server=True)
    pipes.peer.send_data(b"question")
    assert os.read(pipes.out, 100) == b"question"
    pipes.peer.close_notify()
    assert os.read(pipes.out, 100) == b""
    os.write(pipes.into, b"answer")
    assert pipes.peer.recv_data(6) == b"answer"
    os.close(pipes.into)
    pipes.carrier.result()
    pipes.close()


@each_offload
def test_client_ends_with_its_server(lab: Lab, policy: KtlsPolicy) -> None:
    """Nobody waits for more input that nobody would take."""
    pipes = Pipes(lab, policy, is_server=False)
    pipes.peer.send_data(b"goodbye")
    pipes.peer.close_notify()
    pipes.carrier.result()
    assert os.read(pipes.out, 100) == b"goodbye"
    os.close(pipes.into)
    pipes.close()


@each_offload
def test_truncation(lab: Lab, policy: KtlsPolicy) -> None:
    """What came is written, and the error raised."""
    pipes = Pipes(lab, policy, is_server=False)
    pipes.peer.send_data(b"part")
    pipes.peer.sock.close()
    with pytest.raises(Truncated):
        pipes.carrier.result()
    assert os.read(pipes.out, 100) == b"part"
    os.close(pipes.into)
    pipes.close()


def test_reader_that_is_gone(lab: Lab) -> None:
    """The error says which descriptor failed."""
    pipes = Pipes(lab, RELAY, is_server=False)
    os.close(pipes.out)
    pipes.peer.send_data(b"for nobody")
    with pytest.raises(BrokenPipeError) as raised:
        pipes.carrier.result()
    assert str(raised.value.filename).startswith("descriptor ")
    os.close(pipes.into)
    os.close(pipes._source)


@each_offload
@pytest.mark.parametrize("is_server", [False, True])
@pytest.mark.parametrize("is_tcp", [False, True])
def test_reset_that_is_told_to_a_write(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, policy: KtlsPolicy, *, is_server: bool, is_tcp: bool
) -> None:
    """Behind it a read from the same socket finds an end, which the peer must not see as one."""
    handoff, peer = (lab.server if is_server else lab.client)(policy)
    ours, other = lab.tcp() if is_tcp else socket.socketpair()
    is_told, name, read, join = threading.Event(), streams._named, streams.read, _Sending.cause

    def note(error: OSError, number: int) -> OSError:
        is_told.set()
        return name(error, number)

    def read_behind_it(number: int, size: int) -> bytes:
        assert is_told.wait(60)
        return read(number, size)

    def wait_for_both(sending: _Sending, seen: Exception) -> Exception:
        assert sending.over.wait(60)
        return join(sending, seen)

    monkeypatch.setattr(streams, "_named", note)
    monkeypatch.setattr(streams, "read", read_behind_it)
    monkeypatch.setattr(_Sending, "cause", wait_for_both)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    source, sink = os.dup(ours.fileno()), os.dup(ours.detach())
    carrier = Endpoint(lambda: pump(handoff, ClosePolicy.STRICT, source, sink, is_server=is_server))
    sending = Endpoint(lambda: _send(peer, 64))
    until(lambda: unread(other) > 0)
    if is_tcp:
        reset(other)
    else:
        other.close()  # in front of unread data, and of a write that waits for room
    with pytest.raises(ConnectionError):
        carrier.result()
    sending.result()
    with suppress(OSError):
        assert peer.recv() is None
    for number in (source, sink):
        os.close(number)


def _send(peer: RawPeer, records: int) -> None:
    with suppress(OSError):
        for _ in range(records):
            peer.send_data(bytes(2**14))


@each_offload
@pytest.mark.parametrize("is_server", [False, True])
@pytest.mark.parametrize("closing", ClosePolicy)
def test_idle(lab: Lab, policy: KtlsPolicy, closing: ClosePolicy, *, is_server: bool) -> None:
    """It ends in good order for the peer, and not for who waits for more."""
    before = counters()["idle_ended"]
    pipes = Pipes(lab, policy, is_server=is_server, closing=closing, idle=0.5)
    pipes.peer.send_data(b"last")
    assert os.read(pipes.out, 100) == b"last"
    assert pipes.peer.recv() == CLOSE_NOTIFY
    with pytest.raises(DeadlineExceeded, match=r"nothing has come or gone for 0\.5 seconds"):
        pipes.carrier.result()
    assert counters()["idle_ended"] == before + 1
    os.close(pipes.into)
    pipes.close()


@each_offload
def test_idle_while_its_answer_is_waited_for(lab: Lab, policy: KtlsPolicy) -> None:
    """A client that has closed waits no longer than that, and neither do we."""
    pipes = Pipes(lab, policy, is_server=True, idle=0.2)
    pipes.peer.close_notify()
    assert os.read(pipes.out, 100) == b""
    assert pipes.peer.recv() == CLOSE_NOTIFY
    with pytest.raises(DeadlineExceeded):
        pipes.carrier.result()
    os.close(pipes.into)
    pipes.close()


@each_offload
def test_idle_in_the_midst_of_sending(lab: Lab, policy: KtlsPolicy) -> None:
    """A peer that takes nothing must not take what it has got for all."""
    pipes = Pipes(lab, policy, is_server=False, idle=0.2)
    feeding = Endpoint(lambda: _feed(pipes.into, 2**25))
    with pytest.raises(DeadlineExceeded, match="read nothing of the sent data"):
        pipes.carrier.result()
    with suppress(OSError, PeerMisbehaved):  # half of a record may be the last
        while (record := pipes.peer.recv()) is not None:
            assert record != CLOSE_NOTIFY
    pipes.close()
    feeding.result()


def _feed(number: int, size: int) -> None:
    with suppress(BrokenPipeError):
        for _ in range(0, size, 2**16):
            os.write(number, bytes(2**16))
    os.close(number)


@each_offload
def test_peer_that_has_vanished(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, policy: KtlsPolicy
) -> None:
    """TCP notices it, though stdin is open and nobody sends anything."""
    for name in ("IDLE", "INTERVAL", "COUNT"):
        monkeypatch.setattr(keepalive, name, 1)
    pipes = Pipes(lab, policy, is_server=False)
    pipes.peer.send_data(b"x")  # which acknowledges whatever we have sent
    assert os.read(pipes.out, 1)
    vanish(pipes.peer.sock)
    with pytest.raises(TimeoutError) as raised:
        pipes.carrier.result()
    assert raised.value.errno == errno.ETIMEDOUT
    os.close(pipes.into)
    pipes.close()
