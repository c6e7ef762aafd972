"""Tests of keeper."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import select
import socket
import subprocess
import threading
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import pytest

from tests.doubles import (
    CLOSE_NOTIFY,
    KERNEL,
    OFFLOADS,
    VERSIONS,
    Endpoint,
    Lab,
    RawPeer,
    new_session_ticket,
    readable,
    recv_exactly,
    reset,
    until,
)
from tlsify.codepoints import Aead, AlertDescription, ContentType, ProtocolVersion
from tlsify.config import ClosePolicy, KtlsMode
from tlsify.connection import keeper as keeper_module
from tlsify.connection import sender, upkeep
from tlsify.connection.keeper import Keeper
from tlsify.errors import (
    KeyUpdateRefused,
    PeerAlert,
    PeerMisbehaved,
    RekeyUnsupported,
    TlsifyError,
    Truncated,
)
from tlsify.keys import Direction
from tlsify.ktls import ulp
from tlsify.ktls.probe import capabilities
from tlsify.tls.messages import KeyUpdateRequest, encode_key_update
from tlsify.tls.record import MAX_PLAINTEXT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tlsify.config import KtlsPolicy
    from tlsify.connection.handoff import Handoff

pytestmark = pytest.mark.each_kernel

both = pytest.mark.parametrize("policy", OFFLOADS)
each_version = pytest.mark.parametrize("version", VERSIONS)
NOT_REQUESTED, REQUESTED = KeyUpdateRequest
KEY_UPDATE = (ContentType.handshake, encode_key_update(NOT_REQUESTED))
LARGE = 2**20 if "TLSIFY_GUEST" in os.environ else 2**22
SOME = os.urandom(MAX_PLAINTEXT)


class Kept:
    """A program's view of a connection that a keeper, in a thread, looks after.

    Attributes:
        read: what the program reads from.
        write: what it writes to.
    """

    def __init__(
        self,
        handoff: Handoff,
        closing: ClosePolicy = ClosePolicy.STRICT,
        pid: int | None = None,
    ) -> None:
        """Start the keeper."""
        keeper = Keeper(handoff, closing)
        self.read, self.write = (end.dup() for end in keeper.ends)
        self.read.settimeout(60)
        keeper.let_go()
        self._keeper = Endpoint(lambda: keeper.run(pid))

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """End as a program does, however the test ended."""
        self.end()

    def end(self) -> None:
        """Close both ends."""
        self.read.close()
        self.write.close()

    @property
    def done(self) -> bool:
        """Whether the keeper has ended."""
        return self._keeper.done

    def result(self) -> None:
        """Wait for the keeper's end; raises what it raises."""
        self._keeper.result()

    def finish(self) -> None:
        """Call `end`, then `result`."""
        self.end()
        self.result()

    def read_all(self) -> bytes:
        """Read until the end of the stream."""
        return b"".join(iter(lambda: self.read.recv(2**16), b""))


@contextmanager
def process() -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Run a process that lives until its stdin is closed, in place of the program."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as running:
        yield running.pid, running


def end(running: subprocess.Popen[bytes]) -> None:
    """End a process of `process`."""
    running.communicate()


def fill(sock: socket.socket) -> int:
    """Write, without waiting, until for a while there is no room; return the number of bytes."""
    poller = select.poll()
    poller.register(sock, select.POLLOUT)
    written = 0
    while poller.poll(200):
        try:
            written += sock.send(SOME, socket.MSG_DONTWAIT)
        except BlockingIOError:
            continue
        assert written < 2**26, "nothing holds the writer back"
    return written


def read_on(sock: socket.socket, received: bytearray) -> None:
    """Read until the end of the stream, keeping what comes if that is an error."""
    while data := sock.recv(2**16):
        received += data


def write_on(sock: socket.socket) -> None:
    """Write until that is an error."""
    while True:
        sock.sendall(SOME)


def receive_rest(peer: RawPeer) -> bytes:
    """Receive data up to close_notify, which must come, and the end of the stream behind it."""
    received = bytearray()
    while (record := peer.recv()) != CLOSE_NOTIFY:
        assert record is not None
        received += record[1]
    assert peer.recv() is None
    return bytes(received)


def send_in_records(peer: RawPeer, content: bytes) -> None:
    """Send data in records as long as may be."""
    for start in range(0, len(content), MAX_PLAINTEXT):
        peer.send_data(content[start : start + MAX_PLAINTEXT])


# -- data


@both
@each_version
def test_data_both_ways(lab: Lab, policy: KtlsPolicy, version: ProtocolVersion) -> None:
    """The program reads and writes; its end is close_notify, and the peer's an end of stream."""
    handoff, peer = lab.client(policy, version)
    with Kept(handoff) as program:
        program.write.sendall(b"question")
        assert peer.recv() == (ContentType.application_data, b"question")
        peer.send_data(b"answer")
        assert program.read.recv(100) == b"answer"
        peer.close_notify()
        assert program.read.recv(100) == b""
        program.end()
        assert peer.recv() == CLOSE_NOTIFY
        assert peer.recv() is None
        program.result()


@both
def test_as_server(lab: Lab, policy: KtlsPolicy) -> None:
    """A server's connection is kept likewise."""
    handoff, peer = lab.server(policy)
    with Kept(handoff) as program:
        peer.send_data(b"question")
        assert program.read.recv(100) == b"question"
        program.write.sendall(b"answer")
        assert peer.recv_data(6) == b"answer"
        peer.close_notify()
        program.finish()


@both
def test_large_both_ways(lab: Lab, policy: KtlsPolicy) -> None:
    """Much at once in both directions; blocks of odd sizes."""
    handoff, peer = lab.client(policy)
    up, down = os.urandom(LARGE), os.urandom(LARGE + 12345)
    with Kept(handoff) as program:

        def answer() -> None:
            send_in_records(peer, down)
            peer.close_notify()

        sender = Endpoint(answer)
        writer = Endpoint(lambda: program.write.sendall(up))
        reader = Endpoint(lambda: peer.recv_data(len(up)))
        assert program.read_all() == down
        assert reader.result() == up
        for thread in (sender, writer):
            thread.result()
        program.finish()


@both
def test_program_that_does_not_read(lab: Lab, policy: KtlsPolicy) -> None:
    """The peer is held back, and nothing is lost afterwards."""
    handoff, peer = lab.client(policy)
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**17)
    sent, held_back = bytearray(), threading.Event()
    with Kept(handoff) as program:

        def send() -> None:
            # No fixed amount: the kernel lets a receiver's buffer grow to tens of MB.
            while not held_back.is_set():
                piece = os.urandom(1000) * 16
                sent.extend(piece)
                peer.send_data(piece)
            peer.close_notify()

        sender = Endpoint(send)
        poller = select.poll()
        poller.register(peer.sock, select.POLLOUT)
        until(lambda: len(sent) > 2**18 and not poller.poll(100))
        held_back.set()
        assert not sender.done
        assert program.read_all() == sent
        sender.result()
        program.finish()


@both
def test_sendfile(lab: Lab, policy: KtlsPolicy, tmp_path: Path) -> None:
    """The program's writing end takes a file as a whole from the kernel's cache."""
    content = os.urandom(2**18 + 77)
    (tmp_path / "file").write_bytes(content)
    handoff, peer = lab.client(policy)
    with Kept(handoff) as program, (tmp_path / "file").open("rb") as file:

        def send() -> None:
            sent = 0
            while sent < len(content):
                sent += os.sendfile(program.write.fileno(), file.fileno(), sent, len(content))

        sender = Endpoint(send)
        assert peer.recv_data(len(content)) == content
        sender.result()
        peer.close_notify()
        program.finish()


@both
def test_writing_end_goes_on_waiting(lab: Lab, policy: KtlsPolicy) -> None:
    """Whoever made the connection, and whatever the keeper does: a full buffer is no error."""
    handoff, peer = lab.client(policy)
    handoff.sock.setblocking(False)
    with Kept(handoff) as program:

        def flags() -> int:
            return fcntl.fcntl(program.write, fcntl.F_GETFL) & os.O_NONBLOCK

        assert not flags()
        peer.send_data(b"x")
        assert program.read.recv(1) == b"x"
        peer.close_notify()
        assert program.read.recv(1) == b""
        assert not flags()
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            assert program.write.getsockopt(socket.SOL_SOCKET, option, 16) == bytes(16)
        program.finish()


# -- control records


@both
@each_version
def test_control_records_in_front_of_data(
    lab: Lab, policy: KtlsPolicy, version: ProtocolVersion
) -> None:
    """Tickets and warnings are none of the program's business."""
    handoff, peer = lab.client(policy, version)
    with Kept(handoff) as program:
        for number in range(3):
            if version is ProtocolVersion.TLSv1_3:
                peer.send(ContentType.handshake, new_session_ticket(b"x" * 300 * (number + 1)))
            peer.send_alert(AlertDescription.user_canceled, level=1)
            peer.send_data(b"data %d" % number)
            assert program.read.recv(100) == b"data %d" % number
        peer.close_notify()
        assert program.read.recv(1) == b""
        program.finish()


def can_follow(policy: KtlsPolicy) -> bool:
    """Return whether a KeyUpdate is followed here."""
    return policy.mode is KtlsMode.OFF or capabilities().rekey


def check_refusal(program: Kept, peer: RawPeer) -> None:
    """Assert the end that a KeyUpdate means where the kernel cannot rekey."""
    with pytest.raises(ConnectionResetError):
        program.read.recv(1)
    assert peer.recv_alert() is AlertDescription.internal_error
    with pytest.raises(KeyUpdateRefused):
        program.finish()


def follow(peer: RawPeer, program: Kept, handoff: Handoff) -> None:
    """Move both sides of the writing direction to the next key."""
    peer.follow_key_update()
    aead = handoff.negotiated.suite.aead
    until(lambda: ulp.next_seq(program.write, Direction.TX, aead) == 0)


@both
def test_key_update(lab: Lab, policy: KtlsPolicy) -> None:
    """The peer changes its key as often as it likes; the program notices nothing."""
    handoff, peer = lab.client(policy)
    with Kept(handoff) as program:
        if not can_follow(policy):
            peer.sock.sendall(peer.data(b"before") + peer.key_update(NOT_REQUESTED))
            assert recv_exactly(program.read, 6) == b"before"
            check_refusal(program, peer)
            return
        for _ in range(5):
            pieces = [peer.data(b"before"), peer.key_update(NOT_REQUESTED), peer.data(b"behind")]
            peer.sock.sendall(b"".join(pieces))
            assert recv_exactly(program.read, 12) == b"beforebehind"
        program.write.sendall(b"x")
        assert peer.recv() == (ContentType.application_data, b"x")
        peer.close_notify()
        program.finish()


@both
def test_key_update_is_answered(lab: Lab, policy: KtlsPolicy) -> None:
    """The program has its own key changed under it, if the peer asks for that."""
    handoff, peer = lab.client(policy)
    with Kept(handoff) as program:
        program.write.sendall(b"one")
        assert peer.recv_data(3) == b"one"
        peer.sock.sendall(peer.key_update(REQUESTED) + peer.data(b"x"))
        if not can_follow(policy):
            check_refusal(program, peer)
            return
        assert program.read.recv(1) == b"x"
        if policy is KERNEL:
            assert peer.recv() == KEY_UPDATE
            follow(peer, program, handoff)
        program.write.sendall(b"two")
        if policy is not KERNEL:  # OpenSSL answers along with the next data
            assert peer.recv() == KEY_UPDATE
            peer.follow_key_update()
        assert peer.recv_data(3) == b"two"
        peer.close_notify()
        program.finish()


@pytest.mark.ktls
def test_answer_that_cannot_be_sent(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs the program nothing of what has come, nor the end of it."""
    handoff, peer = lab.client(KERNEL)
    channel = handoff.channel
    assert channel is not None
    tried = []

    def change_key(*_: object) -> None:
        tried.append(1)
        raise BrokenPipeError(errno.EPIPE, "")

    monkeypatch.setattr(channel, "change_key", change_key)
    channel.session.update_due = True
    with Kept(handoff) as program:
        peer.send_data(b"x")
        assert program.read.recv(1) == b"x"
        peer.send_data(b"y")
        peer.close_notify()
        assert program.read_all() == b"y"
        program.finish()
    assert len(tried) == 1


def far_on(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, seq: int, version: ProtocolVersion
) -> tuple[Handoff, RawPeer]:
    """Make a connection on which we have sent ``seq`` records already."""
    handoff, peer = lab.far_on(monkeypatch, Aead.AES_GCM_128, version, seq)
    monkeypatch.setattr(upkeep, "_LOOK", 0.01)
    return handoff, peer


@pytest.mark.ktls
@pytest.mark.rekey
def test_worn_key_is_changed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """At half of what the cipher bears, where a key can follow."""
    limit = Aead.AES_GCM_128.record_limit
    assert limit is not None
    handoff, peer = far_on(lab, monkeypatch, limit // 2 - 3, ProtocolVersion.TLSv1_3)
    with Kept(handoff) as program:
        program.write.sendall(SOME * 5)
        assert peer.recv_data(5 * len(SOME)) == SOME * 5
        assert peer.recv() == KEY_UPDATE
        follow(peer, program, handoff)
        program.write.sendall(b"new key")
        assert peer.recv_data(7) == b"new key"
        peer.close_notify()
        program.finish()


@pytest.mark.heavy
@pytest.mark.ktls
@pytest.mark.parametrize(
    "version",
    [
        pytest.param(ProtocolVersion.TLSv1_3, id="TLSv1.3", marks=pytest.mark.no_rekey),
        pytest.param(ProtocolVersion.TLSv1_2, id="TLSv1.2"),
    ],
)
@pytest.mark.parametrize("held", [False, True], ids=["free", "held back"])
def test_key_that_has_protected_enough(
    lab: Lab,
    monkeypatch: pytest.MonkeyPatch,
    version: ProtocolVersion,
    *,
    held: bool,
) -> None:
    """Where no key can follow, the connection ends before the limit, with what came before."""
    limit = Aead.AES_GCM_128.record_limit
    assert limit is not None
    start = limit - sender.KEY_LIMIT_MARGIN - 3
    handoff, peer = far_on(lab, monkeypatch, start, version)
    content = SOME * (40 if held else 1)
    with Kept(handoff) as program:
        sending = Endpoint(lambda: send_in_records(peer, content))
        if not held:
            assert recv_exactly(program.read, len(content)) == content
        program.write.sendall(b"1")
        program.write.sendall(b"2")
        program.write.sendall(b"3")
        assert peer.recv_data(3) == b"123"
        assert peer.recv_alert() is AlertDescription.internal_error
        assert peer.recv() is None
        with pytest.raises(BrokenPipeError):
            write_on(program.write)
        received = bytearray()
        with pytest.raises(ConnectionResetError):
            read_on(program.read, received)
        assert content.startswith(received)
        sending.result()
        peer.sock.close()  # the keeper would wait for it
        with pytest.raises(RekeyUnsupported):
            program.finish()


# -- the end of the stream

_BAD_ENDS: dict[str, tuple[type[Exception], str]] = {
    "fin": (Truncated, "without close_notify"),
    "reset": (ConnectionResetError, "reset"),
    "bad record": (PeerMisbehaved, "record"),
    "alert": (PeerAlert, "handshake_failure"),
}


@both
@pytest.mark.parametrize("way", _BAD_ENDS)
def test_bad_end(lab: Lab, policy: KtlsPolicy, way: str) -> None:
    """What came before is read; then there is an error in place of the end of the stream."""
    handoff, peer = lab.client(policy)
    expected, words = _BAD_ENDS[way]
    with Kept(handoff) as program:
        send_in_records(peer, SOME * 4)
        if way == "reset":  # which overtakes data
            assert recv_exactly(program.read, 4 * len(SOME)) == SOME * 4
        bad = {
            "bad record": b"\x17\x03\x03\x00\x20" + bytes(32),
            "alert": peer.seal(ContentType.alert, bytes([2, AlertDescription.handshake_failure])),
        }
        if way in bad:
            peer.sock.sendall(bad[way])
        elif way == "fin":
            peer.sock.shutdown(socket.SHUT_WR)
        else:
            reset(peer.sock)
        if way != "reset":
            assert recv_exactly(program.read, 4 * len(SOME)) == SOME * 4
        with pytest.raises(ConnectionResetError):
            program.read.recv(1)
        if way == "bad record":
            assert peer.recv_alert() is AlertDescription.bad_record_mac
        with pytest.raises(expected, match=words):
            program.result()  # which it does not wait for the program's end with
        if way != "reset":
            assert peer.recv() is None, "the program was not done"


@both
def test_truncation_that_is_none(lab: Lab, policy: KtlsPolicy) -> None:
    """Told so, the keeper takes a bare end of the TCP stream for an end."""
    handoff, peer = lab.client(policy)
    with Kept(handoff, ClosePolicy.RELAXED) as program:
        peer.send_data(b"all")
        peer.sock.shutdown(socket.SHUT_WR)
        assert program.read_all() == b"all"
        program.write.sendall(b"thanks")
        assert peer.recv_data(6) == b"thanks"
        program.finish()
        assert peer.recv() == CLOSE_NOTIFY


@both
def test_end_on_the_last_turn(
    lab: Lab, policy: KtlsPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of the stream is told, however often was received before it came."""
    monkeypatch.setattr(keeper_module, "_TURNS", 1)
    handoff, peer = lab.client(policy)
    with Kept(handoff) as program:
        peer.sock.sendall(peer.data(b"data") + peer.seal(*CLOSE_NOTIFY))
        assert program.read_all() == b"data"
        program.finish()


@both
def test_bad_end_for_a_program_that_lags_behind(lab: Lab, policy: KtlsPolicy) -> None:
    """What the program had not read when the stream broke it still gets."""
    handoff, peer = lab.client(policy)
    content = SOME * 40
    with Kept(handoff) as program:

        def send() -> None:
            send_in_records(peer, content)
            peer.sock.shutdown(socket.SHUT_WR)

        sender = Endpoint(send)
        until(lambda: readable(program.read, 0))
        assert recv_exactly(program.read, len(content)) == content
        with pytest.raises(ConnectionResetError):
            program.read.recv(1)
        sender.result()
        with pytest.raises(Truncated):
            program.finish()


@both
def test_bad_end_while_the_program_writes(lab: Lab, policy: KtlsPolicy) -> None:
    """A program that waits in a write, for a peer that reads nothing, is not left there.

    It has the kernel's lock on the sending side, which the alert would have to wait for.
    """
    handoff, peer = lab.client(policy)
    with Kept(handoff) as program:
        fill(program.write)

        writer = Endpoint(lambda: write_on(program.write))
        peer.sock.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
        with pytest.raises(ConnectionResetError):
            program.read.recv(1)
        if policy is not KERNEL:  # there are buffers between it and the connection
            peer.sock.close()
        with pytest.raises(OSError, match=r"Broken pipe|reset|Bad message"):
            writer.result()
        with pytest.raises(PeerMisbehaved):
            program.finish()


@both
def test_what_is_no_error_of_the_peer(
    lab: Lab, policy: KtlsPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever else goes wrong, the program is told, and so is the keeper's caller."""
    handoff, peer = lab.client(policy)
    keeper = Keeper(handoff)

    def fail(*_: Any) -> int:
        raise TlsifyError("broken")

    monkeypatch.setattr(keeper._stream, "recv_into", fail)
    with ExitStack() as stack:
        read = stack.enter_context(keeper.ends.read.dup())
        keeper.let_go()
        running = Endpoint(keeper.run)
        peer.send_data(b"x")
        with pytest.raises(ConnectionResetError):
            read.recv(1)
        with pytest.raises(TlsifyError, match="broken"):
            running.result()


# -- ends of the program


@both
def test_program_that_reads_no_more(lab: Lab, policy: KtlsPolicy) -> None:
    """It goes on writing, and ends in good order, whatever the peer has sent it."""
    handoff, peer = lab.client(policy)
    with process() as (pid, running), Kept(handoff, pid=pid) as program:
        program.read.close()
        send_in_records(peer, SOME * 4)
        program.write.sendall(b"still here")
        assert peer.recv_data(10) == b"still here"
        program.write.close()
        assert not program.done
        end(running)
        assert peer.recv() == CLOSE_NOTIFY
        peer.close_notify()
        program.result()


@both
def test_program_that_leaves_before_it_has_read(lab: Lab, policy: KtlsPolicy) -> None:
    """The peer gets all that was sent, and close_notify: what is unread resets nothing."""
    handoff, peer = lab.client(policy)
    with Kept(handoff) as program:
        send_in_records(peer, SOME * 8)
        written = fill(program.write)
        program.end()
        assert receive_rest(peer) == (SOME * (written // len(SOME) + 1))[:written]
        peer.close_notify()
        program.result()


@both
def test_peer_that_reads_slowly_at_the_end(
    lab: Lab, policy: KtlsPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as the peer takes something it is waited for."""
    monkeypatch.setattr(keeper_module, "_PARTING", 0.3)
    handoff, peer = lab.client(policy)
    with Kept(handoff) as program:
        written = fill(program.write)
        program.end()
        received = b""
        while len(received) < written:
            peer.send_data(b"noise")
            received += peer.recv_data(1)
            select.select([], [], [], 1.0 / (written // len(SOME)))
        assert receive_rest(peer) == b""
        with contextlib.suppress(OSError):  # it may be too late
            peer.close_notify()
        program.result()


@both
def test_children_that_outlive_the_program(lab: Lab, policy: KtlsPolicy) -> None:
    """As long as anybody holds the reading end, the connection is kept for him."""
    handoff, peer = lab.client(policy)
    with process() as (pid, running), Kept(handoff, pid=pid) as program:
        peer.send_data(b"one")
        assert program.read.recv(100) == b"one"
        end(running)
        peer.send_data(b"two")
        assert program.read.recv(100) == b"two"
        program.write.sendall(b"three")
        assert peer.recv_data(5) == b"three"
        assert not program.done
        peer.close_notify()
        assert program.read.recv(100) == b""
        program.finish()


@both
def test_program_that_outlives_its_descriptors(lab: Lab, policy: KtlsPolicy) -> None:
    """A program that has closed both ends is done with the connection when it ends."""
    handoff, peer = lab.client(policy)
    with process() as (pid, running), Kept(handoff, pid=pid) as program:
        program.end()
        peer.send_data(b"for nobody")
        assert not readable(peer.sock, 50)
        end(running)
        assert peer.recv() == CLOSE_NOTIFY
        peer.close_notify()
        program.result()


@both
def test_program_that_is_gone_already(lab: Lab, policy: KtlsPolicy) -> None:
    """The end of a process that nobody can wait for any more is none to wait for."""
    with process() as (pid, running):
        end(running)
    handoff, peer = lab.client(policy)
    with Kept(handoff, pid=pid) as program:
        peer.close_notify()
        program.finish()


@both
def test_peer_that_half_closes(lab: Lab, policy: KtlsPolicy) -> None:
    """A peer that has ended its direction still reads."""
    handoff, peer = lab.client(policy)
    with Kept(handoff) as program:
        peer.send_data(b"request")
        peer.close_notify()
        assert program.read_all() == b"request"
        writer = Endpoint(lambda: program.write.sendall(SOME * 8))
        assert peer.recv_data(8 * len(SOME)) == SOME * 8
        writer.result()
        program.end()
        assert receive_rest(peer) == b""
        program.result()


@both
@pytest.mark.parametrize("silent", [True, False], ids=["silent", "talking"])
def test_peer_that_never_closes(
    lab: Lab, policy: KtlsPolicy, monkeypatch: pytest.MonkeyPatch, *, silent: bool
) -> None:
    """It is waited for only so long, be it silent or not."""
    monkeypatch.setattr(keeper_module, "_PARTING", 0.1)
    handoff, peer = lab.client(policy)

    def talk() -> None:
        while True:
            peer.send_data(b"blah")

    with Kept(handoff) as program:
        talker = None if silent else Endpoint(talk)
        program.end()
        program.result()
        if talker is not None:
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                talker.result()


@both
def test_last_moment_of_patience(
    lab: Lab, policy: KtlsPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left of it may be less than the kernel can count, for which that is no limit."""
    handoff, _peer = lab.client(policy)
    keeper = Keeper(handoff)
    keeper.let_go()
    begun = [0.0, keeper_module._PARTING - 3e-7]
    times = itertools.chain(begun, itertools.count(1e6, 1e6))
    monkeypatch.setattr(keeper_module, "time", SimpleNamespace(monotonic=lambda: next(times)))
    keeper._part()


# -- waiting


@both
def test_part_of_a_record(lab: Lab, policy: KtlsPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    """While part of a record lies there the keeper waits, and does not ask again and again."""
    handoff, peer = lab.client(policy)
    calls = 0
    receive = socket.socket.recvmsg_into if policy is KERNEL else None

    def count(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        assert receive is not None
        return receive(*args)

    with Kept(handoff) as program:
        if policy is KERNEL:
            monkeypatch.setattr(type(handoff.sock), "recvmsg_into", count, raising=False)
        record = peer.data(SOME)
        for start in range(0, len(record), 6000):
            before = calls
            peer.sock.sendall(record[start : start + 6000])
            if start + 6000 < len(record):
                assert not readable(program.read, 150)
                assert calls - before < 5
        assert recv_exactly(program.read, len(SOME)) == SOME
        peer.close_notify()
        assert program.read.recv(1) == b""
        program.finish()
