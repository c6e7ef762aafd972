"""Tests of holder, by messages that no server of ours would send."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.doubles import until
from tests.system.test_scm_rights import Overtaken
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
    with _holding(theirs):
        made = Rendezvous(ours.detach())
        yield made
        made.leave()


@contextlib.contextmanager
def _holding(theirs: socket.socket) -> Iterator[None]:
    """Run a holder until its rendezvous is left."""
    thread = threading.Thread(target=Holder(theirs, SERVER, (SERVER.aeads,)).run)
    thread.start()
    yield
    thread.join(60)
    assert not thread.is_alive()


def _channel(rendezvous: Rendezvous, request: bytes) -> socket.socket:
    found = rendezvous.invite(request)
    assert found is not None
    found.settimeout(60)
    return found


def _answer(channel: socket.socket) -> wire.Reply:
    return wire.decode_reply(memoryview(bytearray(channel.recv(wire.MAX_REPLY))))


def _request(client: Engine) -> bytes:
    return wire.encode_request(Request(0, tuple(split_records(client.output()))))


def _works(rendezvous: Rendezvous, client: Engine | None = None) -> bool:
    """Do a handshake to its end; return whether it went well, and the channel was closed."""
    client = client or Engine(CLIENT)
    with _channel(rendezvous, _request(client)) as channel:
        while (reply := _answer(channel)).negotiated is None:
            for record in split_records(reply.output):
                client.feed(record)
            channel.send(_request(client))
        return channel.recv(1) == b""


_NONSENSE = [
    b"nonsense",
    b"\1\0",
    b"\1\7" + b"\x16\3\1\0\1\1",
    b"\1\0" + b"\x16\3\1\0\1\1" * 3000,
    b"\2\0\xff" + b"\x16\3\1\xff",
]


@pytest.mark.parametrize("said", _NONSENSE)
def test_nonsense_at_the_beginning(said: bytes, rendezvous: Rendezvous) -> None:
    """That handshake ends, with an error or without, and others go on."""
    with _channel(rendezvous, said) as channel:
        if answer := channel.recv(wire.MAX_REPLY):
            assert answer[0] == wire.Kind.FAILED
            assert channel.recv(1) == b""
    assert _works(rendezvous)


@pytest.mark.parametrize("said", [*_NONSENSE, bytes(wire.MAX_REQUEST + 1)])
def test_nonsense_later(said: bytes, rendezvous: Rendezvous) -> None:
    """Likewise."""
    with _channel(rendezvous, _request(Engine(CLIENT))) as channel:
        assert _answer(channel).output
        channel.send(said)
        if answer := channel.recv(wire.MAX_REPLY):
            assert answer[0] == wire.Kind.FAILED
            assert channel.recv(1) == b""
    assert _works(rendezvous)


def test_two_sizes_and_two_holders() -> None:
    """A request is received whole, although another holder took a shorter one just before."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    made = Rendezvous(ours.detach())
    with (
        _channel(made, b"short"),
        _channel(made, _request(Engine(CLIENT))) as channel,
        _holding(Overtaken(fileno=theirs.detach())),
    ):
        assert _answer(channel).output
        made.leave()


def test_too_much_at_the_beginning(rendezvous: Rendezvous, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused, and its descriptor closed; others do not wait for that."""
    monkeypatch.setattr(holders, "_PAUSE", 3600)
    with _channel(rendezvous, bytes(wire.MAX_REQUEST + 1)) as channel:
        assert channel.recv(1) == b""
    assert _works(rendezvous)


def test_handshake_that_is_given_up(rendezvous: Rendezvous) -> None:
    """The holder forgets it, whatever it has been sent."""
    for rest in (b"", b"\1\0\x14\3\3\0\1\1"):
        with _channel(rendezvous, _request(Engine(CLIENT))) as channel:
            if rest:
                channel.send(rest)
    assert _works(rendezvous)


def test_invitation_without_a_channel(rendezvous: Rendezvous) -> None:
    """It is passed over."""
    scm_rights.send(rendezvous._sock, _request(Engine(CLIENT)))
    assert _works(rendezvous)


def test_empty_message(rendezvous: Rendezvous) -> None:
    """It is not the end, which the kernel reports otherwise."""
    rendezvous._sock.send(b"")
    assert _works(rendezvous)


def test_channel_that_is_no_socket(rendezvous: Rendezvous) -> None:
    """It is closed, and passed over."""
    with Path(os.devnull).open("rb") as file:
        scm_rights.send(rendezvous._sock, _request(Engine(CLIENT)), file.fileno())
    assert _works(rendezvous)


def test_bug(rendezvous: Rendezvous, monkeypatch: pytest.MonkeyPatch) -> None:
    """One handshake fails by it, with an error that says where."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    client, again = Engine(CLIENT), Engine(CLIENT)
    monkeypatch.setattr(Engine, "feed", fail)
    with _channel(rendezvous, _request(client)) as channel:
        error = _answer(channel).error
        assert str(error) == "unexpected ZeroDivisionError in a key holder"
    monkeypatch.undo()
    assert _works(rendezvous, again)


def test_chores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ticket keys that have expired are dropped, although nobody comes."""
    dropped: list[float] = []
    monkeypatch.setattr(holders, "drop_past_keys", dropped.append)
    monkeypatch.setattr(holders, "CHORE_PAUSE", 0.0)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with _holding(theirs):
        until(lambda: len(dropped) > 1)
        ours.close()
