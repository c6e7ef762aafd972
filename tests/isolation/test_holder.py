"""Tests of holder, by messages that no server of ours would send."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest

from tests.doubles import until
from tests.tls.test_tunnel import CLIENT, SERVER
from tlsify.isolation import holder as holders
from tlsify.isolation import wire
from tlsify.isolation.holder import Holder
from tlsify.isolation.remote_engine import Rendezvous
from tlsify.isolation.wire import Request
from tlsify.system import scm_rights
from tlsify.tls.engine import Engine
from tlsify.tls.record import split_records

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def rendezvous() -> Iterator[Rendezvous]:
    """The way to a holder, which ends once that is left."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    thread = threading.Thread(target=Holder(theirs, SERVER, (SERVER.aeads,)).run)
    thread.start()
    made = Rendezvous(ours.detach())
    yield made
    made.leave()
    thread.join(60)
    assert not thread.is_alive()


def _channel(rendezvous: Rendezvous) -> socket.socket:
    found = rendezvous.invite()
    assert found is not None
    found.settimeout(60)
    return found


def _shake_hands(channel: socket.socket) -> wire.Reply:
    client = Engine(CLIENT)
    while True:
        records = tuple(split_records(client.output()))
        channel.send(wire.encode_request(Request(0, records)))
        reply = wire.decode_reply(memoryview(bytearray(channel.recv(wire.MAX_REPLY))))
        if reply.negotiated is not None:
            return reply
        for record in split_records(reply.output):
            client.feed(record)


@pytest.mark.parametrize(
    "said",
    [
        b"nonsense",
        b"\1\0",
        b"\1\7" + b"\x16\3\1\0\1\1",
        bytes(wire.MAX_REQUEST + 1),
        b"\1\0" + b"\x16\3\1\0\1\1" * 3000,
        b"\2\0\xff" + b"\x16\3\1\xff",
    ],
)
def test_nonsense(said: bytes, rendezvous: Rendezvous) -> None:
    """That handshake ends, with an error or without, and all others go on."""
    with _channel(rendezvous) as other, _channel(rendezvous) as channel:
        channel.send(said)
        answer = channel.recv(wire.MAX_REPLY)
        if answer:
            assert answer[0] in {wire.Kind.FAILED, wire.Kind.MORE}
            assert channel.recv(1) == b""
        assert _shake_hands(other).negotiated is not None
        assert other.recv(1) == b"", "one handshake for each channel"


def test_invitation_without_a_channel(rendezvous: Rendezvous) -> None:
    """It is passed over."""
    scm_rights.send(rendezvous._sock, b"\0")
    with _channel(rendezvous) as channel:
        assert _shake_hands(channel).negotiated


def test_bug(rendezvous: Rendezvous, monkeypatch: pytest.MonkeyPatch) -> None:
    """One handshake fails by it, with an error that says where."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    with _channel(rendezvous) as channel:
        monkeypatch.setattr(Engine, "feed", fail)
        records = tuple(split_records(Engine(CLIENT).output()))
        channel.send(wire.encode_request(Request(0, records)))
        error = wire.decode_reply(memoryview(bytearray(channel.recv(wire.MAX_REPLY)))).error
        assert str(error) == "unexpected ZeroDivisionError in a key holder"
        monkeypatch.undo()
    with _channel(rendezvous) as channel:
        assert _shake_hands(channel).negotiated


def test_chores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ticket keys that have expired are dropped, although nobody comes."""
    dropped: list[float] = []
    monkeypatch.setattr(holders, "drop_past_keys", dropped.append)
    monkeypatch.setattr(holders, "CHORE_PAUSE", 0.0)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    thread = threading.Thread(target=Holder(theirs, SERVER, (SERVER.aeads,)).run)
    thread.start()
    until(lambda: len(dropped) > 1)
    ours.close()
    thread.join(60)
    assert not thread.is_alive()
