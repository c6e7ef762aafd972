"""Tests of loop_socket."""

from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING

import pytest

from tests.doubles import KERNEL, OFFLOADS, RELAY, Lab
from tlsify.aio.loop_socket import LoopSocket
from tlsify.codepoints import AlertDescription, ContentType

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tlsify.config import KtlsPolicy

both = pytest.mark.parametrize("policy", OFFLOADS)


@both
@pytest.mark.parametrize("into", [False, True])
def test_receiving_raises_os_errors_only(lab: Lab, policy: KtlsPolicy, *, into: bool) -> None:
    """A transport can deal with nothing else."""
    handoff, peer = lab.server(policy)
    stream = LoopSocket(handoff)
    stream.settimeout(60)
    receive: Callable[[], object] = (
        (lambda: stream.recv_into(bytearray(9))) if into else (lambda: stream.recv(9))
    )
    peer.send_alert(AlertDescription.internal_error)
    with pytest.raises(ConnectionAbortedError, match="internal_error"):
        receive()
    other, peer = lab.server(policy)
    stream = LoopSocket(other)
    stream.settimeout(60)
    peer.sock.shutdown(socket.SHUT_WR)
    assert receive() in {0, b""}


@both
def test_sending(lab: Lab, policy: KtlsPolicy, tmp_path: Path) -> None:
    """In one piece, in several, and from a file; all of it is data."""
    path = tmp_path / "digits"
    path.write_bytes(b"0123456789")
    handoff, peer = lab.server(policy)
    with LoopSocket(handoff) as stream, path.open("rb") as file:
        stream.settimeout(0)
        assert stream.send(b"one ") == 4
        assert stream.sendmsg([b"two ", memoryview(b"three ")]) == 10
        assert stream.send_file(file.fileno(), 3, 4) == 4
        assert stream.send_file(file.fileno(), 10, 4) == 0
        assert peer.recv_data(18) == b"one two three 3456"


@pytest.mark.ktls
@pytest.mark.parametrize("pieces", [False, True])
def test_sending_learns_of_bytes_that_are_no_record(lab: Lab, *, pieces: bool) -> None:
    """The kernel's EINVAL is about the peer, which gets its alert."""
    handoff, peer = lab.server(KERNEL)
    with LoopSocket(handoff) as stream:
        stream.settimeout(0)
        peer.sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        poller = select.poll()
        poller.register(stream, 0)
        assert poller.poll(60_000) == [(stream.fileno(), select.POLLERR)]
        with pytest.raises(ConnectionAbortedError, match="a record header is not TLS"):
            stream.sendmsg([b"da", b"ta"]) if pieces else stream.send(b"data")
        while (record := peer.recv()) is not None and record[0] != ContentType.alert:
            pass
        assert record is not None
        assert record[1][1] == AlertDescription.protocol_version


@both
def test_sending_to_nobody(lab: Lab, policy: KtlsPolicy, tmp_path: Path) -> None:
    """Behind close_notify nothing goes out, whichever way."""
    path = tmp_path / "digits"
    path.write_bytes(b"0123456789")
    handoff, _peer = lab.server(policy)
    with LoopSocket(handoff) as stream, path.open("rb") as file:
        stream.shutdown(socket.SHUT_WR)
        with pytest.raises(BrokenPipeError):
            stream.send(b"data")
        with pytest.raises(BrokenPipeError):
            stream.sendmsg([b"da", b"ta"])
        with pytest.raises(BrokenPipeError):
            stream.send_file(file.fileno(), 0, 10)


def test_no_room(lab: Lab) -> None:
    """A full buffer is no error of the connection."""
    handoff, _peer = lab.server(RELAY)
    with LoopSocket(handoff) as stream:
        stream.settimeout(0)
        with pytest.raises(BlockingIOError):
            _fill(stream)
        with pytest.raises(BlockingIOError):
            stream.recv(1)


@both
def test_family(lab: Lab, policy: KtlsPolicy) -> None:
    """It is that of the addresses, also where the descriptor is a relay's."""
    handoff, peer = lab.server(policy)
    with LoopSocket(handoff) as stream:
        assert stream.family is socket.AF_INET
        assert stream.getpeername() == peer.sock.getsockname()
        assert stream.type == socket.SOCK_STREAM


def test_family_of_the_newer_protocol(lab: Lab) -> None:
    """So it is with IPv6, and with a connection that has no addresses."""
    handoff, _peer = lab.server(RELAY)
    assert handoff.relay is not None
    with LoopSocket(handoff) as stream:
        handoff.relay.peer_address = ("::1", 5, 0, 0)
        assert stream.family == socket.AF_INET6
    handoff, _peer = lab.server(RELAY)
    assert handoff.relay is not None
    with LoopSocket(handoff) as stream:
        handoff.relay.peer_address = handoff.relay.local_address = None
        assert stream.family == socket.AF_UNIX


def test_closed_once(lab: Lab) -> None:
    """Whoever waits for the end is told once, when files made from the socket are closed too."""
    handoff, _peer = lab.server(RELAY)
    told: list[int] = []
    stream = LoopSocket(handoff, on_close=lambda: told.append(stream.fileno()))
    file = stream.makefile("rb")
    stream.close()
    assert not told
    file.close()
    stream.close()
    assert told == [-1]


def _fill(stream: LoopSocket) -> None:
    for _ in range(1000):
        stream.send(bytes(2**20))
