"""Tests of message_calls."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.doubles import CLOSE_NOTIFY, KERNEL, OFFLOADS, Lab, reset, until
from tlsify.aio.loop_socket import LoopSocket
from tlsify.codepoints import ContentType
from tlsify.connection.stream import TLSSocket
from tlsify.errors import Truncated
from tlsify.tls.messages import KeyUpdateRequest, encode_key_update

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlsify.config import KtlsPolicy

pytestmark = pytest.mark.each_kernel

UPDATE = encode_key_update(KeyUpdateRequest.update_not_requested)
both = pytest.mark.parametrize("policy", OFFLOADS)


def _into(call: Callable[[bytearray], Any]) -> bytes:
    room = bytearray(9)
    return bytes(room[: call(room)[0]])


RECEIVES: dict[str, Callable[[TLSSocket], bytes]] = {
    "recvfrom": lambda stream: stream.recvfrom(9)[0],
    "recvfrom_into": lambda stream: _into(stream.recvfrom_into),
    "recvmsg": lambda stream: stream.recvmsg(9)[0],
    "recvmsg_into": lambda stream: _into(lambda room: stream.recvmsg_into([room])),
}
receives = pytest.mark.parametrize("receive", RECEIVES.values(), ids=RECEIVES)


@both
@receives
def test_ends(lab: Lab, policy: KtlsPolicy, receive: Callable[[TLSSocket], bytes]) -> None:
    """As with recv, close_notify is the end, and a cut is an error."""
    stream, peer = lab.stream(policy)
    peer.send_data(b"all")
    peer.close_notify()
    assert [receive(stream) for _ in range(3)] == [b"all", b"", b""]
    stream, peer = lab.stream(policy)
    peer.send_data(b"part")
    peer.sock.shutdown(socket.SHUT_WR)
    assert receive(stream) == b"part"
    for _ in range(2):
        with pytest.raises(Truncated):
            receive(stream)


@both
def test_results(lab: Lab, policy: KtlsPolicy) -> None:
    """They are those of a TCP socket: no ancillary data, no flags, no address."""
    stream, peer = lab.stream(policy)
    peer.send_data(b"0123456789")
    assert stream.recvfrom(1) == (b"0", None)
    assert stream.recvmsg(1) == (b"1", [], 0, None)
    assert stream.recvmsg(1, 0, socket.MSG_PEEK)[0] == stream.recvmsg(1)[0] == b"2"
    rooms = [bytearray(2), bytearray(), bytearray(3), bytearray(9)]
    assert stream.recvmsg_into(rooms) == (7, [], 0, None)
    assert rooms == [b"34", b"", b"567", b"89" + bytes(7)]
    assert stream.recvmsg_into([]) == (0, [], 0, None)


@both
@pytest.mark.parametrize("kind", [TLSSocket, LoopSocket])
def test_sendmsg(lab: Lab, policy: KtlsPolicy, kind: type[TLSSocket]) -> None:
    """Any buffers, in one record; of too many as many as one call takes."""
    handoff, peer = lab.server(policy)
    stream = kind(handoff)
    assert stream.sendmsg(iter((b"one ", memoryview(b"two ")))) == 8
    assert peer.recv() == (ContentType.application_data, b"one two ")
    assert stream.sendmsg([b"x"] * 2000) == 1024
    assert peer.recv_data(1024) == b"x" * 1024
    stream.shutdown(socket.SHUT_WR)
    assert peer.recv() == CLOSE_NOTIFY
    with pytest.raises(BrokenPipeError):
        stream.sendmsg([b"three"])


@both
def test_what_tls_does_not_have(lab: Lab, policy: KtlsPolicy) -> None:
    """It is refused, and nothing is sent or received."""
    stream, peer = lab.stream(policy)
    where = stream.getpeername()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, b"")]
    refused: list[Callable[[], object]] = [
        lambda: stream.recvmsg(9, 99),
        lambda: stream.recvmsg_into([bytearray(9)], 99),
        lambda: socket.recv_fds(stream, 9, 1),
        lambda: stream.sendmsg([b"x"], rights),
        lambda: stream.sendmsg([b"x"], (), 0, where),
        lambda: stream.sendto(b"x", where),
        lambda: stream.sendto(b"x", 0, where),
    ]
    peer.send_data(b"data")
    for call in refused:
        with pytest.raises(NotImplementedError, match="TLS connection"):
            call()
    with pytest.raises(TypeError, match="writable"):
        stream.recvmsg_into([bytearray(2), bytes(2)])
    assert stream.recv(9) == b"data"
    stream.sendall(b"data")
    assert peer.recv_data(4) == b"data"


@pytest.mark.ktls
def test_sendmsg_after_a_reset(lab: Lab) -> None:
    """The kernel reports it once; sendmsg, as send, each time."""
    stream, peer = lab.stream(KERNEL)
    reset(peer.sock)
    with contextlib.suppress(ConnectionError):
        until(lambda: not stream.sendmsg([b"x"]))
    for _ in range(2):
        with pytest.raises(ConnectionError):
            stream.sendmsg([b"x"])


@pytest.mark.ktls
@pytest.mark.rekey
def test_sendmsg_sends_a_key_update_first(lab: Lab) -> None:
    """It precedes the next data record, and never comes amid another thread's data."""
    stream, peer = lab.stream(KERNEL)
    channel = stream.handoff.channel
    assert channel is not None
    channel.writing.lend()
    peer.sock.sendall(peer.key_update(KeyUpdateRequest.update_requested))
    peer.send_data(b"x")
    assert stream.recv(9) == b"x"
    stream.settimeout(0)
    with pytest.raises(BlockingIOError):
        stream.sendmsg([b"amid"])
    stream.settimeout(60)
    channel.writing.release()
    stream.sendmsg([b"next"])
    assert peer.recv() == (ContentType.handshake, UPDATE)
    peer.follow_key_update()
    assert peer.recv() == (ContentType.application_data, b"next")
