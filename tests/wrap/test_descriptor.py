"""Tests of descriptor: what a program reads from a connection whose records the kernel has."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

import pytest

from tests.doubles import CLOSE_NOTIFY, RawPeer
from tests.wrap.wrapped import CARRIERS, KERNEL, RELAY, Wrapped, needs_seccomp, read_all
from tlsify.codepoints import Aead, AlertDescription
from tlsify.config import ClientConfig
from tlsify.connection import sender, upkeep
from tlsify.ktls.diag import tls_stat
from tlsify.ktls.probe import capabilities
from tlsify.tls.messages import KeyUpdateRequest
from tlsify.wrap import supervisor

if TYPE_CHECKING:
    from tests.cli.conftest import Pki
    from tlsify.credentials.anchors import TrustAnchors

pytestmark = needs_seccomp

_READ_ALL = """
listener = listen()
while True:
    sock, _ = listener.accept()
    try:
        print(b"".join(iter(lambda: sock.recv(5), b"")).decode(), flush=True)
    except OSError as exc:
        print(exc.errno, flush=True)
    sock.close()
"""


def _peer(trust: TrustAnchors, program: Wrapped) -> RawPeer:
    """Connect a client whose records are made by hand."""
    sock = socket.create_connection(program.server, 60)
    config = ClientConfig.for_host("localhost", trust=trust)
    return RawPeer(sock, config)


def _close(peer: RawPeer) -> None:
    peer.send_data(b"data")
    peer.close_notify()


def _cut(peer: RawPeer) -> None:
    peer.send_data(b"data")
    peer.sock.shutdown(socket.SHUT_WR)


def _send_alert(peer: RawPeer) -> None:
    peer.send_alert(AlertDescription.internal_error)


def _send_bad_record(peer: RawPeer) -> None:
    peer.sock.sendall(b"\x17\x03\x03\0\x20" + bytes(32))


def _warn(peer: RawPeer) -> None:
    peer.send_data(b"one")
    peer.send_alert(AlertDescription.user_canceled, 1)
    peer.send_data(b"two")
    peer.close_notify()


def _update_key(peer: RawPeer) -> None:
    peer.send_data(b"before")
    peer.sock.sendall(peer.key_update(KeyUpdateRequest.update_requested))
    peer.send_data(b"after")
    peer.close_notify()


_RESET = str(errno.ECONNRESET)
_PEERS = {
    _close: "data",
    _cut: _RESET,
    _send_alert: _RESET,
    _send_bad_record: _RESET,
    _warn: "onetwo",
    _update_key: "beforeafter",
}


# As inetd does for a program.
_MOVE = """
    os.dup2(sock.fileno(), 0)
    sock.close()
    sock = socket.socket(fileno=0)
"""


@CARRIERS
@pytest.mark.parametrize("move", ["", _MOVE], ids=["", "stdin"])
def test_what_it_reads(pki: Pki, trust: TrustAnchors, carrier: str, move: str) -> None:
    """Data, then 0 or ECONNRESET: no record that is not data is ever seen."""
    with Wrapped(pki, carrier, _READ_ALL.replace("    try:", move + "    try:", 1)) as program:
        for act, expected in _PEERS.items():
            peer = _peer(trust, program)
            with peer.sock:
                act(peer)
                can_be = act is not _update_key or carrier == RELAY or capabilities().rekey
                assert program.line().strip() == (expected if can_be else _RESET), act


_TAKES_A_SHORT_READ_FOR_THE_LAST = """
import errno, select
listener = listen()
while True:
    sock, _ = listener.accept()
    sock.setblocking(False)
    poll = select.epoll()
    poll.register(sock, select.EPOLLIN | select.EPOLLET)
    found = []
    while not found or found[-1] not in ("last", "", errno.ECONNRESET):
        poll.poll()
        try:
            found.append(sock.recv(100).decode())
        except BlockingIOError:
            pass
        except OSError as exc:
            found.append(exc.errno)
    print(found, flush=True)
    sock.close()
"""


@pytest.mark.ktls
@pytest.mark.each_kernel
def test_records_that_come_with_data(pki: Pki, trust: TrustAnchors) -> None:
    """A program hears of them that waits for news after a short read, as nginx does."""
    with Wrapped(pki, KERNEL, _TAKES_A_SHORT_READ_FOR_THE_LAST) as program:
        peer = _peer(trust, program)
        with peer.sock:  # all in one segment
            update = peer.data(b"first"), peer.key_update(KeyUpdateRequest.update_not_requested)
            peer.sock.sendall(b"".join(update) + peer.data(b"last"))
            last = "last" if capabilities().rekey else errno.ECONNRESET
            assert program.line() == f"{['first', last]}\n"
        peer = _peer(trust, program)
        with peer.sock:
            peer.sock.sendall(peer.data(b"first") + peer.seal(*CLOSE_NOTIFY))
            assert program.line() == f"{['first', '']}\n"


@CARRIERS
def test_calls_that_do_not_wait(pki: Pki, trust: TrustAnchors, carrier: str) -> None:
    """EAGAIN as without TLS, by flag, option or limit; sending ends before receiving does."""
    source = """
import struct
def attempt(*flags, how=lambda *flags: sock.recv(5, *flags)):
    try:
        return how(*flags)
    except OSError as exc:
        return exc.errno
sock, _ = listen().accept()
sock.setblocking(False)
found = [attempt()]
sock.setblocking(True)
found.append(attempt(socket.MSG_DONTWAIT))
positioned = lambda: os.preadv(sock.fileno(), [bytearray(5)], -1, os.RWF_NOWAIT)
found.append(attempt(how=positioned))
sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, 1000))
found.append(attempt())
sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, 0))
print(found, flush=True)
sock.sendall(b"go")
sock.shutdown(socket.SHUT_WR)
print([sock.recv(5), sock.recv(5)], flush=True)
"""
    with Wrapped(pki, carrier, source) as program:
        peer = _peer(trust, program)
        with peer.sock:
            assert program.line() == f"{[errno.EAGAIN] * 4}\n"
            assert peer.recv_data(2) == b"go"
            assert peer.recv() == CLOSE_NOTIFY
            peer.send_data(b"late")
            peer.close_notify()
            assert program.line() == "[b'late', b'']\n"
        assert program.end() == 0


_WRITE_ON = """
import select, tempfile, threading
NUMBER, SIZE = 3, 2**14 * 40
def write(sock, letter):
    room = select.poll()
    room.register(sock, select.POLLOUT)
    for _ in range(4):
        rest = memoryview(letter * SIZE)
        while rest:
            try:
                rest = rest[sock.send(rest):]
            except BlockingIOError:
                room.poll()
def send_file(sock, letter):
    with tempfile.TemporaryFile() as file:
        file.write(letter * SIZE * 4)
        file.seek(0)
        sock.sendfile(file)
sock, _ = listen().accept()
kind = sock.recv(100).decode()
sock.setblocking(kind != "not blocking")
work = send_file if kind == "sendfile" else write
threads = [
    threading.Thread(target=work, args=(sock, bytes([97 + each]))) for each in range(NUMBER)
]
for each in threads: each.start()
for each in threads: each.join()
sock.close()
"""


@pytest.mark.ktls
@pytest.mark.each_kernel
@pytest.mark.rekey
@pytest.mark.parametrize("kind", ["blocking", "not blocking", "sendfile"])
def test_key_that_changes_while_threads_write(
    pki: Pki, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """OpenSSL can open every record, before and behind each KeyUpdate, and sees the end."""
    monkeypatch.setattr(Aead, "record_limit", property(lambda _: 40))
    monkeypatch.setattr(sender, "KEY_LIMIT_MARGIN", -(2**20))
    monkeypatch.setattr(upkeep, "_LOOK", 0.0)
    before = tls_stat()
    with Wrapped(pki, KERNEL, _WRITE_ON) as program:
        with program.connect() as client:
            client.sendall(kind.encode())
            received = read_all(client)
        assert program.end() == 0
    sizes = {received.count(letter) for letter in b"abc"}
    assert sizes == {4 * 40 * 2**14}
    assert len(received) == 3 * 4 * 40 * 2**14
    assert tls_stat()["TlsTxRekeyOk"] > before["TlsTxRekeyOk"]


@pytest.mark.ktls
@pytest.mark.each_kernel
def test_sendfile(pki: Pki) -> None:
    """The program's own sendfile goes out as records, which the kernel makes."""
    source = """
import tempfile
with tempfile.TemporaryFile() as file, listen() as listener:
    file.write(bytes(range(256)) * 4096)
    sock, _ = listener.accept()
    sent = 0
    while sent < 2**20:
        sent += os.sendfile(sock.fileno(), file.fileno(), sent, 2**20)
    sock.close()
"""
    before = tls_stat()["TlsTxSw"]
    with Wrapped(pki, KERNEL, source) as program:
        with program.connect() as client:
            assert read_all(client) == bytes(range(256)) * 4096
        assert program.end() == 0
    assert tls_stat()["TlsTxSw"] > before


@pytest.mark.ktls
def test_bare(pki: Pki, trust: TrustAnchors) -> None:
    """Reads are the kernel's alone: the end of the stream is EIO; its own end is a clean one."""
    with Wrapped(pki, KERNEL, _READ_ALL, "--bare") as program:
        peer = _peer(trust, program)
        with peer.sock:
            _close(peer)
            assert program.line() == f"{errno.EIO}\n"
            assert peer.recv() == CLOSE_NOTIFY


@CARRIERS
def test_close_that_would_wait(pki: Pki, carrier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that takes nothing does not keep the supervisor, whatever SO_LINGER says."""
    monkeypatch.setattr(supervisor, "_PARTING", 0.1)
    source = """
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes((1,)) + bytes(5) + bytes((1, 0)))
listener.bind(("127.0.0.1", 0))
listener.listen()
print(listener.getsockname()[1], flush=True)
sock, _ = listener.accept()
sock.settimeout(0)
try:
    while True:
        sock.send(bytes(2**16))
except BlockingIOError:
    print(sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8).hex(), flush=True)
"""
    with Wrapped(pki, carrier, source) as program, program.connect():
        assert program.line() == "0100000000000100\n"
        assert program.end() == 0
