"""Tests of the receiver: what comes, what is refused, and how it ends."""

from __future__ import annotations

import array
import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest

from tests.doubles import KERNEL, Endpoint, check_descriptors, descriptors, until
from tests.passing.test_metadata import FULL, PLAIN
from tests.want import no_descriptors
from tlsify.config import ClosePolicy
from tlsify.connection.handoff import Offload
from tlsify.errors import ConfigError, Truncated
from tlsify.passing.metadata import ConnectionInfo
from tlsify.receiver import Receiver, take
from tlsify.system import scm_rights

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.doubles import Lab
    from tlsify.connection.stream import TLSSocket

pytestmark = pytest.mark.each_kernel

RELAYED = PLAIN._replace(offload=Offload.RELAY, reason="no-tls-ulp")


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    """A receiver at "socket"."""
    with Receiver(tmp_path / "socket") as made:
        made.sock.settimeout(60)
        yield made


def dial(receiver: Receiver) -> socket.socket:
    """Connect as tlsify does."""
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel.settimeout(60)
    channel.connect(receiver.sock.getsockname())
    return channel


def passed(
    receiver: Receiver, told: ConnectionInfo = RELAYED, closing: ClosePolicy = ClosePolicy.STRICT
) -> tuple[TLSSocket, socket.socket]:
    """Pass one end of a pair; return what was received, and the other end."""
    ours, theirs = socket.socketpair()
    ours.settimeout(60)
    with dial(receiver) as channel:
        scm_rights.send(channel, told.encode(), theirs.fileno())
        theirs.close()
        stream, found = receiver.accept(closing)
        assert found == told
        assert channel.recv(1) == b""  # it was taken
    return stream, ours


def test_carried_connection(receiver: Receiver) -> None:
    """It reads, writes and ends as a TLSSocket, and knows its peer."""
    before = descriptors()
    stream, ours = passed(receiver, FULL)
    with stream, ours:
        assert stream.getpeername() == FULL.peer
        assert stream.getsockname() == FULL.local
        assert stream.offload is Offload.RELAY
        assert stream.handoff.reason is not None
        assert stream.handoff.reason.code == "no-tls-ulp"
        assert stream.handoff.negotiated.alpn == b"h2"
        assert stream.gettimeout() is None
        assert not os.get_inheritable(stream.fileno())
        stream.sendall(b"hello")
        assert ours.recv(9) == b"hello"
        ours.sendall(b"bye")
        ours.shutdown(socket.SHUT_WR)
        assert (stream.recv(9), stream.recv(9)) == (b"bye", b"")
        stream.shutdown(socket.SHUT_WR)
        assert ours.recv(1) == b""
    check_descriptors(before)


def test_kernel_connection_for_who_is_not_aware(receiver: Receiver) -> None:
    """Without the session's state it is carried, whoever protects the records."""
    stream, ours = passed(receiver, PLAIN)
    with stream, ours:
        assert stream.handoff.reason is not None
        assert stream.handoff.reason.code == "carried"


@pytest.mark.parametrize("closing", ClosePolicy)
def test_cut(receiver: Receiver, closing: ClosePolicy) -> None:
    """A pair that ends altogether was cut, which strict programs are told."""
    for unread in (False, True):
        stream, ours = passed(receiver, closing=closing)
        with stream:
            ours.sendall(b"half")
            if unread:  # then the socket says so
                stream.sendall(b"nobody reads this")
            ours.close()
            assert stream.recv(9) == b"half"
            if closing is ClosePolicy.STRICT:
                with pytest.raises(Truncated):
                    stream.recv(9)
            else:
                assert stream.recv(9) == b""


def test_end_after_our_own(receiver: Receiver) -> None:
    """Who has ended first sees both directions end, in good order."""
    stream, ours = passed(receiver)
    with stream:
        stream.shutdown(socket.SHUT_WR)
        ours.shutdown(socket.SHUT_WR)
        ours.close()
        assert stream.recv(9) == b""
        relay = stream.handoff.relay
        assert relay is not None
        assert relay.join(0)
    assert relay.join()


@pytest.mark.ktls
def test_connection_itself(receiver: Receiver, lab: Lab) -> None:
    """With the session's state goes all that belongs to it: closing sends close_notify."""
    handed, peer = lab.server(KERNEL)
    told = ConnectionInfo.of(handed)
    number, state = handed.detach()
    with socket.socket(fileno=number), dial(receiver) as channel:
        scm_rights.send(channel, told.encode() + state, number)
        stream, _ = receiver.accept()
    with stream:
        assert stream.offload is Offload.KERNEL
        peer.send_data(b"hello")
        assert stream.recv(9) == b"hello"
        stream.sendall(b"bye")
    assert peer.recv_data(3) == b"bye"
    assert peer.recv_alert() == 0


# -- what is refused


def answer(receiver: Receiver, *messages: bytes, descriptors: int = 1) -> bytes | None:
    """Send something; return the answer, None for a reset."""
    with dial(receiver) as channel, socket.socket() as anything:
        passed = array.array("i", [anything.fileno()] * descriptors)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)] if descriptors else []
        for message in messages:
            channel.sendmsg([message], ancillary)
        accepted, _ = receiver.sock.accept()
        with accepted:
            accepted.settimeout(0.1)
            assert take(accepted) is None
        try:
            return channel.recv(9)
        except ConnectionResetError:
            return None


@pytest.mark.parametrize(
    ("message", "count"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 1),
        (RELAYED.encode(), 0),
        (RELAYED.encode(), 2),
        (RELAYED.encode()[:-1], 1),
        (RELAYED.encode() + b"no state", 1),
        (bytes(200_000), 1),
    ],
)
def test_refused(
    receiver: Receiver, message: bytes, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    """What cannot be used is answered, so that its sender keeps it; and nothing stays open."""
    before = descriptors()
    assert answer(receiver, message, descriptors=count) == b"\0"
    assert len(caplog.messages) == 1
    check_descriptors(before)


def test_descriptor_that_is_no_socket(receiver: Receiver, tmp_path: Path) -> None:
    """A file is refused, and closed."""
    before = descriptors()
    with dial(receiver) as channel, (tmp_path / "file").open("w") as file:
        scm_rights.send(channel, RELAYED.encode(), file.fileno())
        accepted, _ = receiver.sock.accept()
        with accepted:
            assert take(accepted) is None
    check_descriptors(before)


def test_silence(receiver: Receiver) -> None:
    """Who says nothing is not waited for, beyond some seconds."""
    assert answer(receiver) == b"\0"


def test_nonsense_does_not_stop_it(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    """The next connection is received all the same."""
    with dial(receiver) as channel:
        channel.send(b"nonsense")
    stream, ours = passed(receiver)
    stream.close()
    ours.close()
    assert "no connection was received" in caplog.text


def test_out_of_descriptors(receiver: Receiver) -> None:
    """Where there is no room for another one the sender is told, and has it still."""
    ours, theirs = socket.socketpair()
    with ours, theirs, dial(receiver) as channel:
        scm_rights.send(channel, RELAYED.encode(), theirs.fileno())
        accepted, _ = receiver.sock.accept()
        with accepted, no_descriptors():
            assert take(accepted) is None
        assert channel.recv(1) == b"\0"


# -- listening


def test_permissions(tmp_path: Path) -> None:
    """Only our own user may pass connections, unless we say otherwise."""
    for mode in (0o600, 0o660):
        path = tmp_path / f"{mode:o}"
        with Receiver(path, mode):
            assert stat.S_IMODE(path.stat().st_mode) == mode


def test_place_of_one_that_has_died(tmp_path: Path) -> None:
    """It is taken over; that of one that lives is not."""
    path = tmp_path / "socket"
    Receiver(path).close()
    with Receiver(path), pytest.raises(ConfigError, match="in use"):
        Receiver(path)


@pytest.mark.parametrize("name", ["", "file", "no/such/folder", "x" * 200, "nul\0"])
def test_no_place(tmp_path: Path, name: str) -> None:
    """A file is not overwritten; each failure is named."""
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ConfigError, match="cannot listen at"):
        Receiver(f"{tmp_path}/{name}")
    assert (tmp_path / "file").read_text() == "precious"


def test_socket_of_somebody_else(tmp_path: Path) -> None:
    """One that systemd has opened is taken, if it is of the right type."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        assert Receiver(listener).fileno() == listener.fileno()
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(ConfigError):
        Receiver(listener)


def test_several_processes(receiver: Receiver) -> None:
    """Workers that wait on one socket get a connection each."""
    workers = [Endpoint(receiver.accept) for _ in range(3)]
    pairs = []
    for _ in workers:
        ours, theirs = socket.socketpair()
        with dial(receiver) as channel, theirs:
            scm_rights.send(channel, RELAYED.encode(), theirs.fileno())
            assert channel.recv(1) == b""
        pairs.append(ours)
    until(lambda: all(worker.done for worker in workers))
    for worker in workers:
        worker.result()[0].close()
    for ours in pairs:
        ours.close()
