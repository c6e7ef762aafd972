"""Tests of inline_socket; test_foreign_transport and test_transport have the rest."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from tests.doubles import CLOSE_NOTIFY, RELAY, Lab, until
from tlsify.aio.inline_socket import PIECE, InlineSocket
from tlsify.codepoints import AlertDescription
from tlsify.config import ClosePolicy
from tlsify.connection.relay.inline import InlineRelay

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.doubles import RawPeer

BIG = bytes(PIECE)


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


def test_end_is_told_once(connect: Callable[..., tuple[InlineSocket, RawPeer]]) -> None:
    """Closing twice is no more than once; without a cut it is a good end."""
    sock, peer = connect()
    told: list[int] = []
    sock._on_close = lambda: told.append(sock.fileno())
    sock.close()
    sock.close()
    assert told == [-1]
    assert peer.recv() == CLOSE_NOTIFY
