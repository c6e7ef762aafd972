"""Tests of inline_socket; test_foreign_transport and test_transport have the rest."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from tests.doubles import CLOSE_NOTIFY, RELAY, Lab, until
from tlsify.aio import inline_socket
from tlsify.aio.inline_socket import PIECE, InlineSocket
from tlsify.codepoints import AlertDescription, ContentType
from tlsify.config import ClosePolicy
from tlsify.connection.ending import patience
from tlsify.connection.relay.inline import InlineRelay
from tlsify.tls.messages import KeyUpdateRequest, encode_key_update

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.doubles import RawPeer

BIG = bytes(PIECE)
KEY_UPDATE = encode_key_update(KeyUpdateRequest.update_not_requested)


@pytest.fixture
def connect(lab: Lab) -> Callable[..., tuple[InlineSocket, RawPeer]]:
    """Return what makes a server's connection, and its client."""
    lab.is_inline = True

    def make(closing: ClosePolicy = ClosePolicy.RELAXED) -> tuple[InlineSocket, RawPeer]:
        handed, peer = lab.server(RELAY)
        assert isinstance(handed.sock, InlineRelay)
        return InlineSocket(handed, handed.sock, closing), peer

    return make


def wait_for_input(sock: InlineSocket) -> None:
    """Wait until records have come."""
    until(lambda: bool(_peek(sock.network)))


def _peek(network: socket.socket) -> bytes:
    with socket.socket(fileno=socket.dup(network.fileno())) as copy:
        try:
            return copy.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return b""


def test_pieces(connect: Callable[..., tuple[InlineSocket, RawPeer]]) -> None:
    """What a receive has no room for is there for the next, and so is the end behind it."""
    sock, peer = connect()
    peer.sock.sendall(peer.data(b"one two three") + peer.seal(*CLOSE_NOTIFY))
    wait_for_input(sock)
    room = bytearray(4)
    assert sock.recv_into(room) == 4
    assert room == b"one "
    assert sock.is_readable
    assert sock.recv(100) == b"two three"
    assert sock.is_readable
    assert sock.recv(100) == b""
    sock.close()


def test_nothing_to_receive(connect: Callable[..., tuple[InlineSocket, RawPeer]]) -> None:
    """The network tells of all that has not been opened yet."""
    sock, peer = connect()
    with pytest.raises(BlockingIOError):
        sock.recv(9)
    peer.send_data(b"data")
    wait_for_input(sock)
    assert not sock.is_readable
    sock.abort()


def test_sending(connect: Callable[..., tuple[InlineSocket, RawPeer]], tmp_path: Path) -> None:
    """In one piece, and from a file; one piece has to go out before the next is sealed."""
    path = tmp_path / "digits"
    path.write_bytes(b"0123456789")
    sock, peer = connect()
    with path.open("rb") as file:
        assert sock.send(b"one ") == 4
        assert sock.send_file(file.fileno(), 3, 4) == 4
        assert sock.send_file(file.fileno(), 10, 4) == 0
    assert peer.recv_data(8) == b"one 3456"
    size = 0
    while sock.is_out:
        size += sock.send(BIG + b"further")
    assert size % len(BIG) == 0
    assert len(sock.network._records) < len(BIG) + 2**13  # all that is kept of it here
    with pytest.raises(BlockingIOError):
        sock.send(b"more")
    assert not sock.flush()
    assert peer.recv_data(size // 2) == bytes(size // 2)
    until(sock.flush)
    assert sock.send(b"more") == 4
    assert peer.recv_data(size // 2 + 4) == bytes(size // 2) + b"more"
    sock.shutdown(socket.SHUT_WR)
    assert peer.recv() == CLOSE_NOTIFY
    with pytest.raises(BrokenPipeError):
        sock.send(b"late")
    sock.abort()


@pytest.mark.parametrize("closing", ClosePolicy)
def test_cut(connect: Callable[..., tuple[InlineSocket, RawPeer]], closing: ClosePolicy) -> None:
    """The policy says whether it is an end or an error."""
    sock, peer = connect(closing)
    peer.sock.shutdown(socket.SHUT_WR)
    if closing is ClosePolicy.RELAXED:
        until(lambda: _ends(sock))
    else:
        with pytest.raises(ConnectionAbortedError, match="close_notify"):
            until(lambda: _ends(sock))
    sock.abort()
    assert peer.recv() is None


def _ends(sock: InlineSocket) -> bool:
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False


def test_os_errors_only(connect: Callable[..., tuple[InlineSocket, RawPeer]]) -> None:
    """A transport can deal with nothing else."""
    sock, peer = connect()
    peer.send_alert(AlertDescription.internal_error)
    with pytest.raises(ConnectionAbortedError, match="internal_error"):
        until(lambda: _ends(sock))
    sock.close()


@pytest.mark.parametrize("end", ["rest", "cut", "silence"])
def test_half_a_message(
    connect: Callable[..., tuple[InlineSocket, RawPeer]], monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """A look finds what comes behind kept data, up to a limit; what waits counts as not taken."""
    sock, peer = connect()
    peer.send(ContentType.handshake, KEY_UPDATE[:4])
    wait_for_input(sock)
    with pytest.raises(BlockingIOError):
        sock.recv(9)
    until(lambda: not sock.network.under_way())
    assert sock.send(b"answer") == 6
    assert sock.network.under_way() == 6
    with pytest.raises(BlockingIOError):
        sock.send(b"more")
    rest = peer.seal(ContentType.handshake, KEY_UPDATE[4:])
    peer.turn_key()
    peer.sock.sendall(rest + peer.data(b"data") + peer.seal(ContentType.handshake, KEY_UPDATE[:4]))
    until(lambda: _looks(sock) and sock.is_readable)
    assert sock.is_waiting
    if end == "rest":
        peer.send(ContentType.handshake, KEY_UPDATE[4:])
        wait_for_input(sock)
        with monkeypatch.context() as limited:
            limited.setattr(inline_socket, "READ_SIZE", 4)
            sock.look()
        assert sock.is_waiting
        sock.look()
        assert peer.recv_data(6) == b"answer"
    else:
        if end == "cut":
            peer.sock.shutdown(socket.SHUT_WR)
        else:
            sock.network._patience = patience.Patience(sock.network, 0)
        until(lambda: _looks(sock) and not sock.is_waiting)
        with pytest.raises(BrokenPipeError):
            sock.send(b"more")
        assert sock.recv(9) == b"data"
        if end == "cut":
            assert sock.recv(9) == b""
        else:
            with pytest.raises(ConnectionAbortedError, match="midst of a handshake message"):
                sock.recv(9)
        assert peer.recv() is None, "which is no end in good order"
    sock.abort()


def _looks(sock: InlineSocket) -> bool:
    sock.look()
    return sock.flush()


def test_half_a_message_and_the_end(
    connect: Callable[..., tuple[InlineSocket, RawPeer]],
) -> None:
    """Nothing is kept for a message that will never be whole."""
    sock, peer = connect()
    peer.send(ContentType.handshake, KEY_UPDATE[:4])
    peer.sock.shutdown(socket.SHUT_WR)
    until(lambda: _ends(sock))
    assert sock.send(b"lost") == 4
    with pytest.raises(BrokenPipeError):
        sock.send(b"more")
    assert peer.recv() is None
    sock.abort()


def test_end_is_told_once(connect: Callable[..., tuple[InlineSocket, RawPeer]]) -> None:
    """Closing twice is no more than once; without a cut it is a good end."""
    sock, peer = connect()
    told: list[int] = []
    sock._on_close = lambda: told.append(sock.fileno())
    sock.close()
    sock.close()
    assert told == [-1]
    assert peer.recv() == CLOSE_NOTIFY
