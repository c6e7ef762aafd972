"""The rows of docs/handoff.md, one test each: what a call on the descriptor does next.

On hosts without kTLS a fake stands for each kernel (tests/fake_kernel.py).
"""

from __future__ import annotations

import errno
import os
import re
import select
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.doubles import (
    CLOSE_NOTIFY,
    KERNEL,
    OFFLOADS,
    RELAY,
    Endpoint,
    Lab,
    RawPeer,
    flipped,
    new_session_ticket,
    queued,
    reset,
    until,
)
from tests.fake_kernel import FakeKernel, FakeSocket
from tlsify.codepoints import Aead, AlertDescription, ContentType, ProtocolVersion
from tlsify.connection import commit, establish
from tlsify.connection.setup import eligibility
from tlsify.errors import KeyUpdateRefused, PeerMisbehaved, Truncated
from tlsify.keys import Direction
from tlsify.ktls import uapi, ulp
from tlsify.ktls.probe import Capabilities, capabilities, polls_partial_records
from tlsify.tls.messages import KeyUpdateRequest
from tlsify.tls.record import MAX_PLAINTEXT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tlsify.config import KtlsPolicy
    from tlsify.connection.handoff import Handoff

pytestmark = pytest.mark.each_kernel

CONTRACT = Path(__file__).resolve().parent.parent / "docs/handoff.md"
SPACE = socket.CMSG_SPACE(1)
QUIET = 20  # milliseconds in which poll must say nothing
PROMPT = 5000
TICKET = (ContentType.handshake, new_session_ticket())

kernel = pytest.mark.ktls
both = pytest.mark.parametrize("policy", OFFLOADS)


def test_every_row_has_its_test() -> None:
    """The table and this file name the same rows."""
    rows = set(re.findall(r"^\| (R\d+) \|", CONTRACT.read_text(), re.MULTILINE))
    tests = {f"R{number}" for name in globals() for number in re.findall(r"^test_r(\d+)_", name)}
    assert rows == tests


@dataclass(frozen=True)
class Client:
    """A client's hand-off on the kernel path, and its server by hand.

    Attributes:
        rekeys: whether this kernel, or what stands for it, takes a second key.
        polls_partial_records: whether poll speaks before there is a record.
    """

    handoff: Handoff
    peer: RawPeer
    rekeys: bool
    polls_partial_records: bool

    @property
    def sock(self) -> socket.socket:
        """The descriptor, without a Python timeout."""
        return self.handoff.sock

    def readable(self, wait: int) -> bool:
        """Ask poll, or what stands for it, whether there is something to deal with."""
        if isinstance(self.sock, FakeSocket):
            if wait == PROMPT:
                until(self.sock.readable)
            return self.sock.readable()
        poller = select.poll()
        poller.register(self.sock, select.POLLIN)
        return bool(poller.poll(wait))


FAKES = {
    "fake-6.1": FakeKernel.LINUX_6_1,
    "fake-6.12": FakeKernel.LINUX_6_12,
    "fake-7.3": FakeKernel.LINUX_7_3,
}


@pytest.fixture(params=[*FAKES, pytest.param("kernel", marks=pytest.mark.ktls)])
def client(
    request: pytest.FixtureRequest, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Client]:
    """Hand over a connection on this kernel, or on a fake of each of the others."""
    carrier: str = request.param
    if carrier == "kernel":
        handoff, peer = lab.client(KERNEL)
        handoff.sock.settimeout(None)
        yield Client(handoff, peer, capabilities().rekey, polls_partial_records())
        return
    fake = FAKES[carrier]
    for module in (commit, eligibility):
        monkeypatch.setattr(module, "capabilities", lambda: _able(fake))
    ours, theirs = lab.tcp()
    other = Endpoint(lambda: RawPeer(theirs, lab.configs()[1]))
    with FakeSocket(ours, fake) as sock:
        handoff = establish.hand_over(sock, lab.configs()[0], KERNEL)
        sock.settimeout(None)
        assert handoff.sock is sock
        yield Client(handoff, other.result(), fake.rekey, fake.polls_partial_records)


def _able(fake: FakeKernel) -> Capabilities:
    return Capabilities(
        refusal=None,
        supported=frozenset((v, a, d) for v in ProtocolVersion for a in Aead for d in Direction),
        rekey=fake.rekey,
        payload_limit=fake.max_payload,
        advisories=(),
    )


@pytest.fixture
def real(lab: Lab) -> Client:
    """Connect as `client`, for what no fake can do: calls on the descriptor's number."""
    handoff, peer = lab.client(KERNEL)
    handoff.sock.settimeout(None)
    return Client(handoff, peer, capabilities().rekey, polls_partial_records())


def _settled(sock: socket.socket, size: int = 1) -> None:
    """Wait until what the peer has sent has come."""
    until(lambda: queued(sock) >= size)


def _refused(call: Callable[[], object], number: int, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(OSError, match=re.escape(os.strerror(number))):
            call()


# -- recv, read


@both
def test_r1_data(lab: Lab, policy: KtlsPolicy) -> None:
    """Records are merged, up to a control record, which a relay serves by itself."""
    handoff, peer = lab.client(policy)
    handoff.sock.settimeout(None)
    peer.sock.sendall(peer.data(b"one ") + peer.data(b"two") + peer.seal(*TICKET) + peer.data(b"x"))
    _settled(handoff.sock)
    received = handoff.sock.recv(100)
    while len(received) < 7:
        received += os.read(handoff.sock.fileno(), 100)
    if policy is RELAY:
        assert received in {b"one two", b"one twox"}
    else:
        assert received == b"one two"


def test_r2_control_record(client: Client) -> None:
    """EIO until it is served, then data; data in front of it comes first."""
    sock, peer = client.sock, client.peer
    peer.sock.sendall(peer.data(b"data") + peer.seal(*TICKET) + peer.data(b"later"))
    assert sock.recv(100) == b"data"
    _refused(lambda: sock.recv(100), errno.EIO, times=3)
    if not isinstance(sock, FakeSocket):
        _refused(lambda: os.read(sock.fileno(), 100), errno.EIO)
    assert client.handoff.service()
    assert sock.recv(100) == b"later"


def test_r3_key_update_not_followed(client: Client) -> None:
    """EKEYEXPIRED for whoever takes the record and does not install the key.

    A kernel that takes no second key tries the old one on what comes next.
    """
    sock, peer = client.sock, client.peer
    update = peer.key_update(KeyUpdateRequest.update_not_requested)
    peer.sock.sendall(update + peer.data(b"data"))
    assert ulp.recv_record(sock, 100) is not None
    expected = uapi.EKEYEXPIRED if client.rekeys else errno.EBADMSG
    _refused(lambda: sock.recv(100), expected, times=2)


@both
@pytest.mark.parametrize("closes", [True, False])
def test_r4_end(lab: Lab, policy: KtlsPolicy, *, closes: bool) -> None:
    """0, of which only close_notify makes an end."""
    handoff, peer = lab.client(policy)
    handoff.sock.settimeout(None)
    if closes:
        peer.send(*CLOSE_NOTIFY)
        if policy is KERNEL:
            _refused(lambda: handoff.sock.recv(100), errno.EIO)
            assert not handoff.service()
    peer.sock.shutdown(socket.SHUT_WR)
    assert handoff.sock.recv(100) == b""
    if closes:
        assert not handoff.service() or policy is RELAY
        return
    if (relay := handoff.relay) is not None:
        until(lambda: relay.failure is not None)
    for _ in range(2):
        with pytest.raises(Truncated):
            handoff.service()


@pytest.mark.parametrize(
    ("number", "repeats", "alert"),
    [
        (errno.EBADMSG, True, AlertDescription.bad_record_mac),
        (errno.EMSGSIZE, False, AlertDescription.record_overflow),
        (errno.EINVAL, False, AlertDescription.protocol_version),
    ],
)
def test_r5_bad_record(
    client: Client, number: int, alert: AlertDescription, *, repeats: bool
) -> None:
    """The error, after the data in front of it; ``service`` answers, and says the same again."""
    sock, peer = client.sock, client.peer
    bad: dict[int, Callable[[], bytes]] = {
        errno.EBADMSG: lambda: flipped(peer.data(b"data")),
        errno.EMSGSIZE: lambda: b"\x17\x03\x03\x60\x00",
        errno.EINVAL: lambda: b"GET / HTTP/1.0\r\n\r\n",
    }
    peer.sock.sendall(peer.data(b"good") + bad[number]())
    assert sock.recv(100) == b"good"
    if repeats:
        _refused(lambda: sock.recv(100), number, times=2)
    for _ in range(2):
        with pytest.raises(PeerMisbehaved) as raised:
            client.handoff.service()
        assert raised.value.alert is alert
    assert peer.recv_alert() is alert


def test_r6_empty_data(client: Client) -> None:
    """0 bytes in front of a control record: neither an end nor truncation."""
    sock, peer = client.sock, client.peer
    records = peer.data(b"") + peer.data(b"") + peer.seal(*TICKET) + peer.data(b"data")
    peer.sock.sendall(records)
    until(lambda: queued(sock) == len(records))
    assert sock.recv(100) == b""
    assert client.handoff.service()
    assert sock.recv(100) == b"data"


# -- recvmsg


def test_r7_recvmsg_data(client: Client) -> None:
    """Data comes with its type; too small a control buffer is no buffer."""
    sock, peer = client.sock, client.peer
    peer.send_data(b"data")
    payload, ancillary, _, _ = sock.recvmsg(100, SPACE)
    assert (payload, ulp.record_type(ancillary)) == (b"data", ContentType.application_data)
    peer.send(*TICKET)
    _refused(lambda: sock.recvmsg(100, socket.CMSG_LEN(1) - 1), errno.EIO)


def test_r8_recvmsg_control_record(client: Client) -> None:
    """One record at a time, in as many pieces as it takes; MSG_EOR is with the last."""
    sock, peer = client.sock, client.peer
    kind, message = TICKET
    peer.sock.sendall(peer.seal(kind, message) + peer.seal(kind, message))
    for _ in range(2):
        first, ancillary, flags, _ = sock.recvmsg(10, SPACE)
        assert ulp.record_type(ancillary) == kind
        assert not flags & socket.MSG_EOR
        rest, ancillary, flags, _ = sock.recvmsg(1000, SPACE)
        assert ulp.record_type(ancillary) == kind
        assert flags & socket.MSG_EOR
        assert first + rest == message


def test_r9_recvmsg_end(client: Client) -> None:
    """The end of the stream has no type."""
    sock, peer = client.sock, client.peer
    peer.sock.shutdown(socket.SHUT_WR)
    assert sock.recvmsg(100, SPACE)[:2] == (b"", [])


@both
def test_r10_peek_at_data(lab: Lab, policy: KtlsPolicy) -> None:
    """What was peeked at is still there."""
    handoff, peer = lab.client(policy)
    handoff.sock.settimeout(None)
    peer.send_data(b"data")
    assert handoff.sock.recv(3, socket.MSG_PEEK) == b"dat"
    assert handoff.sock.recv(100) == b"data"


def test_r11_peek_at_control_record(client: Client) -> None:
    """A control record cannot be peeked at without a control buffer."""
    sock, peer = client.sock, client.peer
    peer.send(*TICKET)
    _refused(lambda: sock.recv(100, socket.MSG_PEEK), errno.EIO)
    assert client.handoff.service()


def test_r12_waitall(client: Client) -> None:
    """A control record ends the wait for more."""
    sock, peer = client.sock, client.peer
    peer.sock.sendall(peer.data(b"data") + peer.seal(*TICKET) + peer.data(b"later"))
    assert sock.recv(9, socket.MSG_WAITALL) == b"data"


# -- splice


def _splice(sock: socket.socket, sink: int) -> int:
    return os.splice(sock.fileno(), sink, 2**16)


@kernel
def test_r13_splice_data(real: Client) -> None:
    """It gives plaintext; that some kernels lose data under back-pressure is no reason to try."""
    sock, peer = real.sock, real.peer
    peer.send_data(b"data")
    reader, writer = os.pipe()
    try:
        assert _splice(sock, writer) == 4
        assert os.read(reader, 100) == b"data"
    finally:
        os.close(reader)
        os.close(writer)


@kernel
def test_r14_splice_control_record(real: Client) -> None:
    """EINVAL, and the record is still there to be served."""
    sock, peer = real.sock, real.peer
    peer.sock.sendall(peer.seal(*TICKET) + peer.data(b"data"))
    reader, writer = os.pipe()
    try:
        _refused(lambda: _splice(sock, writer), errno.EINVAL, times=2)
    finally:
        os.close(reader)
        os.close(writer)
    assert real.handoff.service()
    assert sock.recv(100) == b"data"


# -- poll


@both
@pytest.mark.parametrize("what", ["data", "control record", "end"])
def test_r15_poll(lab: Lab, policy: KtlsPolicy, what: str) -> None:
    """Whatever has to be dealt with wakes poll; a relay deals with control records itself."""
    handoff, peer = lab.client(policy)
    asked = Client(handoff, peer, rekeys=False, polls_partial_records=False)
    assert not asked.readable(QUIET)
    if what == "data":
        peer.send_data(b"data")
    elif what == "control record":
        peer.send(*TICKET)
        if policy is RELAY:
            peer.send_data(b"data")
    else:
        peer.sock.shutdown(socket.SHUT_WR)
    assert asked.readable(PROMPT)


@pytest.mark.parametrize("behind", [True, False])
def test_r16_poll_and_key_update(client: Client, *, behind: bool) -> None:
    """Silence, until the key is there; reading on finds what poll does not tell."""
    sock, peer = client.sock, client.peer
    data = peer.data(b"data") if behind else b""
    peer.sock.sendall(data + peer.key_update(KeyUpdateRequest.update_not_requested))
    later = peer.data(b"later")
    if behind:
        _settled(sock)
        assert sock.recv(100) == b"data"
    else:
        assert client.readable(PROMPT)
        _refused(lambda: sock.recv(100), errno.EIO)
    peer.sock.sendall(later)
    if not client.rekeys:
        assert client.readable(PROMPT)
        with pytest.raises(KeyUpdateRefused):
            client.handoff.service()
        return
    assert not client.readable(QUIET)
    assert client.handoff.service()
    assert client.readable(PROMPT)
    assert sock.recv(100) == b"later"


def test_r17_poll_and_part_of_a_record(client: Client) -> None:
    """Nothing to read yet: old kernels say otherwise, and then have nothing to give."""
    sock, peer = client.sock, client.peer
    record = peer.data(b"data")
    peer.sock.sendall(record[:-1])
    _settled(sock)
    assert client.readable(QUIET) is client.polls_partial_records
    _refused(lambda: sock.recv(100, socket.MSG_DONTWAIT), errno.EAGAIN)
    peer.sock.sendall(record[-1:])
    assert client.readable(PROMPT)
    assert sock.recv(100) == b"data"


# -- sending


@kernel
def test_r18_sending(real: Client, tmp_path: Path) -> None:
    """Records of 16 KiB and what is left, whatever lies unread on the other side."""
    sock, peer = real.sock, real.peer
    peer.send(*TICKET)  # concerns nobody who sends
    file = tmp_path / "file"
    file.write_bytes(bytes(MAX_PLAINTEXT + 5))
    sock.sendall(bytes(MAX_PLAINTEXT + 1))
    os.write(sock.fileno(), b"w")
    with file.open("rb") as source:
        os.sendfile(sock.fileno(), source.fileno(), 0, MAX_PLAINTEXT + 5)
    sizes: list[int] = []
    while sum(sizes) < 2 * MAX_PLAINTEXT + 7:
        record = peer.recv()
        assert record is not None
        assert record[0] == ContentType.application_data
        sizes.append(len(record[1]))
    assert sizes == [MAX_PLAINTEXT, 1, 1, MAX_PLAINTEXT, 5]


def test_r19_sending_after_a_bad_record(client: Client) -> None:
    """The error of a record that does not authenticate is met by send too, until it was read."""
    sock, peer = client.sock, client.peer
    peer.sock.sendall(flipped(peer.data(b"data")))
    _refused(lambda: sock.recv(100), errno.EBADMSG)
    _refused(lambda: sock.send(b"x"), errno.EBADMSG)
    sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    assert sock.send(b"x") == 1
    assert peer.recv_data(1) == b"x"


@kernel
@pytest.mark.parametrize("flushed", [True, False])
def test_r20_msg_more(real: Client, *, flushed: bool) -> None:
    """A record is held open; closing loses it, ``Handoff.close`` does not."""
    sock, peer = real.sock, real.peer
    sock.send(b"more", socket.MSG_MORE)
    if flushed:
        real.handoff.close()
        assert peer.recv_data(4) == b"more"
        assert peer.recv() == CLOSE_NOTIFY
    else:
        sock.close()
    assert peer.recv() is None


@pytest.mark.parametrize("ours", [True, False])
def test_r21_closing(client: Client, *, ours: bool) -> None:
    """The kernel sends FIN alone; the hand-off says goodbye first."""
    sock, peer = client.sock, client.peer
    if ours:
        client.handoff.shutdown()
        assert peer.recv() == CLOSE_NOTIFY
    else:
        sock.shutdown(socket.SHUT_WR)
    assert peer.recv() is None
    peer.send_data(b"still read")
    assert sock.recv(100) == b"still read"


# -- the rest


@kernel
def test_r22_fionread(real: Client) -> None:
    """It counts what has not been decrypted, and forgets what has."""
    sock, peer = real.sock, real.peer
    record = peer.data(b"data")
    peer.sock.sendall(record)
    until(lambda: queued(sock) == len(record))
    assert sock.recv(1) == b"d"
    assert queued(sock) == 0
    assert sock.recv(9) == b"ata"


@kernel
def test_r23_low_water_mark(real: Client) -> None:
    """A mark above what is queued keeps poll silent about a whole record."""
    sock, peer = real.sock, real.peer
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1000)
    peer.send_data(b"data")
    _settled(sock)
    assert not real.readable(QUIET)
    assert sock.recv(9, socket.MSG_DONTWAIT) == b"data"


def test_r24_python_timeout(client: Client) -> None:
    """It polls first, and so never learns of a KeyUpdate behind data, where poll is silent."""
    sock, peer = client.sock, client.peer
    peer.sock.sendall(peer.data(b"data") + peer.key_update(KeyUpdateRequest.update_not_requested))
    _settled(sock)
    assert sock.recv(100) == b"data"
    if not client.rekeys:
        sock.settimeout(PROMPT / 1000)
        _refused(lambda: sock.recv(100), errno.EIO)
        return
    sock.settimeout(QUIET / 1000)
    with pytest.raises(TimeoutError):
        sock.recv(100)
    sock.settimeout(None)
    assert client.handoff.service()


@kernel
@pytest.mark.parametrize("how", ["reset", "closed"])
def test_r25_sending_to_nobody(real: Client, how: str) -> None:
    """One error, until somebody takes it: what is sent afterwards goes nowhere, in silence."""
    sock, peer = real.sock, real.peer
    if how == "reset":
        reset(peer.sock)
    else:
        peer.sock.close()
        sock.send(b"answered by a reset")
    until(lambda: _hung_up(sock))
    with pytest.raises(ConnectionError):
        sock.send(b"x")
    sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # as a recv would take it, or another send
    for size in (1, 2**14, 2**15):
        assert sock.send(bytes(size)) == min(size, 2**14)
        assert _hung_up(sock)


def _hung_up(sock: socket.socket) -> bool:
    poller = select.poll()
    poller.register(sock, 0)
    return bool(poller.poll(0))


@kernel
def test_reset(real: Client) -> None:
    """A reset is told once, behind whatever had come before it."""
    sock, peer = real.sock, real.peer
    peer.send_data(b"data")
    _settled(sock)
    reset(peer.sock)
    assert sock.recv(100) == b"data"
    _refused(lambda: sock.recv(100), errno.ECONNRESET)
