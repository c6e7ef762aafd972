"""Tests of the fake kernel, and of the real ones that it stands in for: one suite for both."""

from __future__ import annotations

import errno
import os
import re
import select
import socket
import struct
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from sys import byteorder
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.doubles import flipped, queued, recv_exactly, reset, until
from tests.fake_kernel import FakeKernel, FakeSocket
from tlsify.codepoints import CipherSuite, ContentType
from tlsify.keys import IV_LENGTH, Direction, TrafficKeys
from tlsify.ktls import diag, uapi
from tlsify.ktls.crypto_info import HEADER, LAYOUT, pack, unpack_seq
from tlsify.ktls.probe import capabilities, polls_partial_records
from tlsify.tls.protection import open_record, seal_record

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.each_kernel

GCM_13 = CipherSuite.TLS_AES_128_GCM_SHA256
CHACHA_13 = CipherSuite.TLS_CHACHA20_POLY1305_SHA256
GCM_12 = CipherSuite.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
CHACHA_12 = CipherSuite.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
SUITES = (
    GCM_13,
    CipherSuite.TLS_AES_256_GCM_SHA384,
    CipherSuite.TLS_AES_128_CCM_SHA256,
    CHACHA_13,
    GCM_12,
    CipherSuite.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    CipherSuite.TLS_ECDHE_ECDSA_WITH_AES_128_CCM,
    CHACHA_12,
)
BOTH_VERSIONS = pytest.mark.parametrize("suite", [GCM_13, GCM_12], ids=["TLSv1.3", "TLSv1.2"])

ALERT, HANDSHAKE, DATA = 21, 22, 23
OPTION = {Direction.TX: uapi.TLS_TX, Direction.RX: uapi.TLS_RX}
SPACE = socket.CMSG_SPACE(1)
DONTWAIT, PEEK, WAITALL = socket.MSG_DONTWAIT, socket.MSG_PEEK, socket.MSG_WAITALL
KEY_UPDATE = b"\x18\0\0\1\0"
# Milliseconds in which a poll that will say nothing has said it.
SETTLED = 20


@contextmanager
def fails(number: int) -> Iterator[None]:
    """Expect an errno."""
    with pytest.raises(OSError, match=re.escape(f"[Errno {number}] ")):
        yield


def make_keys(suite: CipherSuite = GCM_13, seq: int = 0) -> TrafficKeys:
    """Make keys that nobody else has."""
    key, iv = os.urandom(suite.aead.key_length), os.urandom(IV_LENGTH)
    return TrafficKeys(suite, bytearray(key), bytearray(iv), seq)


@dataclass(frozen=True)
class Carrier:
    """Where the tests run: a fake kernel, or the real one and the fake that must be like it."""

    kernel: FakeKernel
    real: bool

    def wrap(self, sock: socket.socket) -> socket.socket:
        """Put a socket on it, without Python's timeout, which would poll."""
        sock.settimeout(None)
        sock = sock if self.real else FakeSocket(sock, self.kernel)
        set_timeout(sock, 5000)
        return sock


def set_timeout(sock: socket.socket, milliseconds: int) -> None:
    """Limit blocking reads as a kernel does."""
    value = struct.pack("@ll", milliseconds // 1000, milliseconds % 1000 * 1000)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)


@pytest.fixture(
    params=[
        pytest.param(FakeKernel.LINUX_6_1, id="fake-6.1"),
        pytest.param(FakeKernel.LINUX_6_12, id="fake-6.12"),
        pytest.param(FakeKernel.LINUX_7_3, id="fake-7.3"),
        pytest.param(None, id="kernel", marks=pytest.mark.ktls),
    ]
)
def carrier(request: pytest.FixtureRequest) -> Carrier:
    """Each fake kernel, and the real one."""
    if request.param is not None:
        return Carrier(request.param, real=False)
    found = capabilities()
    profile = FakeKernel(found.rekey, polls_partial_records(), found.payload_limit)
    assert profile in {FakeKernel.LINUX_6_1, FakeKernel.LINUX_6_12, FakeKernel.LINUX_7_3}
    return Carrier(profile, real=True)


class Bench:
    """A connection: one end on the carrier, the other driven by hand, record by record."""

    def __init__(self, carrier: Carrier, pair: tuple[socket.socket, socket.socket]) -> None:
        """Keep both ends; nothing is keyed yet."""
        self.carrier, self.kernel = carrier, carrier.kernel
        self.ours, self.theirs = carrier.wrap(pair[0]), pair[1]
        self.theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._before = self._counters()

    def attach(self) -> None:
        """Attach the ULP."""
        self.ours.setsockopt(uapi.SOL_TCP, uapi.TCP_ULP, b"tls")

    def install(self, direction: Direction, keys: TrafficKeys) -> None:
        """Return our end one direction's keys; the other end counts from their number."""
        self.set(direction, bytes(pack(keys)))
        if direction is Direction.RX:
            self.rx, self.rx_seq = keys, keys.seq
        else:
            self.tx, self.tx_seq = keys, keys.seq

    def set(self, direction: Direction, packed: bytes) -> None:
        """Return our end with a struct set."""
        self.ours.setsockopt(uapi.SOL_TLS, OPTION[direction], packed)

    def get(self, direction: Direction, size: int) -> bytes:
        """Read a struct back."""
        return self.ours.getsockopt(uapi.SOL_TLS, OPTION[direction], size)

    def seq(self, direction: Direction) -> int:
        """Read back the number of the next record."""
        keys = self.rx if direction is Direction.RX else self.tx
        return unpack_seq(self.get(direction, LAYOUT[keys.suite.aead].size))

    def seal(self, payload: bytes, content_type: int = DATA) -> bytes:
        """Build the record that our end is to receive next."""
        kind: Any = content_type
        record = seal_record(self.rx, self.rx_seq, kind, payload)
        self.rx_seq += 1
        return record

    def feed(self, *records: bytes) -> None:
        """Send bytes to our end, and wait until they are there."""
        wire = b"".join(records)
        expected = queued(self.ours) + len(wire)
        self.theirs.sendall(wire)
        until(lambda: queued(self.ours) >= expected)

    def end(self) -> None:
        """End the stream that our end receives, and wait until it knows."""
        self.theirs.shutdown(socket.SHUT_WR)
        self._until_over()

    def reset(self) -> None:
        """Reset our end, and wait until it has noticed."""
        reset(self.theirs)
        self._until_over()

    def _until_over(self) -> None:
        poller = select.poll()
        poller.register(self.ours.fileno(), select.POLLRDHUP)
        assert poller.poll(5000)

    def recv(
        self, size: int = 99, flags: int = 0, space: int = SPACE
    ) -> tuple[int | None, bytes, bool]:
        """Receive: content type, payload, whether a record was finished."""
        payload, control, msg_flags, _ = self.ours.recvmsg(size, space, flags)
        assert len(control) <= 1
        kind = None
        for level, name, value in control:
            assert (level, name) == (uapi.SOL_TLS, uapi.TLS_GET_RECORD_TYPE)
            (kind,) = value
        return kind, payload, bool(msg_flags & socket.MSG_EOR)

    def send(self, content_type: int, payload: bytes, flags: int = 0) -> int:
        """Send a control record."""
        control = [(uapi.SOL_TLS, uapi.TLS_SET_RECORD_TYPE, bytes([content_type]))]
        return self.ours.sendmsg([payload], control, flags)

    def wire(self) -> bytes:
        """Return one record that our end sent, as it is; empty at the end of the stream."""
        header = recv_exactly(self.theirs, 5)
        return header and header + recv_exactly(self.theirs, int.from_bytes(header[3:5], "big"))

    def opened_all(self, wire: bytes) -> Iterator[tuple[int, bytes]]:
        """Open the records in a piece of stream."""
        while wire:
            length = 5 + int.from_bytes(wire[3:5], "big")
            yield open_record(self.tx, self.tx_seq, wire[:length])
            wire = wire[length:]
            self.tx_seq += 1

    def opened(self) -> tuple[int, bytes]:
        """Open one record that our end sent."""
        opened = open_record(self.tx, self.tx_seq, self.wire())
        self.tx_seq += 1
        return opened

    def readable(self) -> bool:
        """Ask poll, or the fake what it would say."""
        if isinstance(self.ours, FakeSocket):
            return self.ours.readable()
        poller = select.poll()
        poller.register(self.ours, select.POLLIN)
        return bool(poller.poll(SETTLED))

    def so_error(self) -> int:
        """Read the pending error, which clears it."""
        return self.ours.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def _counters(self) -> dict[str, int]:
        return dict(self.ours.counters) if isinstance(self.ours, FakeSocket) else diag.tls_stat()

    def counted(self) -> dict[str, int]:
        """Return what has been counted since the start, of what the fake knows."""
        after = self._counters()
        names = ("TlsDecryptError", "TlsRxRekeyOk", "TlsTxRekeyOk", "TlsRxRekeyReceived")
        before = {name: self._before.get(name, 0) for name in names}
        return {
            name: after[name] - before[name] for name in names if after.get(name, 0) > before[name]
        }


@pytest.fixture
def bench(carrier: Carrier, tcp_pair: tuple[socket.socket, socket.socket]) -> Iterator[Bench]:
    """A connection without ULP."""
    made = Bench(carrier, tcp_pair)
    with closing(made.ours):
        yield made


@pytest.fixture
def suite() -> CipherSuite:
    """TLS 1.3, where it does not matter."""
    return GCM_13


@pytest.fixture
def keyed(bench: Bench, suite: CipherSuite) -> Bench:
    """Our end keyed in both directions."""
    bench.attach()
    for direction in Direction:
        bench.install(direction, make_keys(suite, 5))
    return bench


# -- the ULP (kernel.md 1.1, 1.2)


@pytest.mark.parametrize("state", ["unconnected", "listening", "peer closed", "half-closed"])
def test_ulp_outside_established(bench: Bench, state: str) -> None:
    """ENOTCONN in every state but ESTABLISHED."""
    with closing(bench.carrier.wrap(socket.socket())) as fresh:
        sock = fresh if state in {"unconnected", "listening"} else bench.ours
        if state == "listening":
            fresh.listen()
        elif state == "peer closed":
            bench.end()
        elif state == "half-closed":
            sock.shutdown(socket.SHUT_WR)
        with fails(errno.ENOTCONN):
            sock.setsockopt(uapi.SOL_TCP, uapi.TCP_ULP, b"tls")


def test_ulp_name(bench: Bench) -> None:
    """It can be asked for, and comes once."""
    name = (uapi.SOL_TCP, uapi.TCP_ULP)
    assert bench.ours.getsockopt(*name, 16) == b""
    with fails(errno.ENOENT):
        bench.ours.setsockopt(*name, b"slt")
    bench.attach()
    assert bench.ours.getsockopt(*name, 16) == b"tls".ljust(16, b"\0")
    assert bench.ours.getsockopt(*name, 2) == b"tl"
    with fails(errno.EEXIST):
        bench.attach()
    bench.end()
    with fails(errno.EEXIST):
        bench.attach()


def test_ulp_alone_is_plain_tcp(bench: Bench) -> None:
    """Without keys nothing changes."""
    bench.attach()
    assert not bench.readable()
    bench.feed(b"plain")
    assert bench.readable()
    assert bench.ours.recv(9) == b"plain"
    assert bench.ours.send(b"text") == 4
    assert bench.theirs.recv(9) == b"text"


@pytest.mark.parametrize("direction", Direction)
def test_other_direction_stays_plain(bench: Bench, direction: Direction) -> None:
    """Each direction has a key of its own, or none."""
    bench.attach()
    bench.install(direction, make_keys())
    if direction is Direction.TX:
        bench.feed(b"plain")
        assert bench.recv() == (None, b"plain", False)
        bench.ours.sendall(b"data")
        assert bench.opened() == (DATA, b"data")
    else:
        bench.ours.sendall(b"plain")
        assert bench.theirs.recv(9) == b"plain"
        bench.feed(bench.seal(b"data"))
        assert bench.ours.recv(9) == b"data"


# -- keys (kernel.md 1.3, 1.4, 2.2)


@pytest.mark.parametrize("direction", Direction)
def test_keys_without_ulp(bench: Bench, direction: Direction) -> None:
    """Setting and getting have different errors."""
    with fails(errno.ENOPROTOOPT):
        bench.install(direction, make_keys())
    with fails(errno.EOPNOTSUPP):
        bench.get(direction, 4)


def test_unknown_option(keyed: Bench) -> None:
    """ENOPROTOOPT."""
    with fails(errno.ENOPROTOOPT):
        keyed.ours.setsockopt(uapi.SOL_TLS, 99, bytes(4))
    with fails(errno.ENOPROTOOPT):
        keyed.ours.getsockopt(uapi.SOL_TLS, 99, 4)


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("suite", [GCM_13, CHACHA_12])
def test_malformed_struct(bench: Bench, direction: Direction, suite: CipherSuite) -> None:
    """EINVAL for length, version and cipher; a retry succeeds."""
    bench.attach()
    good = bytes(pack(make_keys(suite)))
    for bad in (
        b"",
        good[:3],
        good[:4],
        good[:-1],
        good + b"\0",
        b"\5\3" + good[2:],
        good[:2] + b"\xff\0" + good[4:],
    ):
        with fails(errno.EINVAL):
            bench.set(direction, bad)
        with fails(errno.EBUSY):
            bench.get(direction, 4)
    bench.set(direction, good)
    assert bench.get(direction, 4) == good[:4]


@pytest.mark.parametrize("other", [GCM_12, CHACHA_13, SUITES[1]])
@pytest.mark.parametrize("direction", Direction)
def test_directions_agree(bench: Bench, direction: Direction, other: CipherSuite) -> None:
    """EINVAL for a version or cipher that is not the other direction's."""
    first, second = direction, next(d for d in Direction if d is not direction)
    bench.attach()
    bench.install(first, make_keys())
    with fails(errno.EINVAL):
        bench.install(second, make_keys(other))
    bench.install(second, make_keys())


@BOTH_VERSIONS
@pytest.mark.parametrize("direction", Direction)
def test_second_key(keyed: Bench, direction: Direction, suite: CipherSuite) -> None:
    """EBUSY, but for TLS 1.3 where the kernel can rekey; its version and cipher are fixed."""
    rekeys = keyed.kernel.rekey and suite is GCM_13
    second = make_keys(suite, 9)
    other_version = GCM_12 if suite is GCM_13 else GCM_13
    before = keyed.get(direction, 40)
    for bad in (pack(make_keys(other_version)), pack(make_keys(CHACHA_13)), pack(second)[:4]):
        with fails(errno.EINVAL if rekeys else errno.EBUSY):
            keyed.set(direction, bytes(bad))
    with fails(errno.EINVAL):
        keyed.set(direction, b"\4\3\x33")
    assert keyed.get(direction, 40) == before
    assert keyed.counted() == {}
    if not rekeys:
        with fails(errno.EBUSY):
            keyed.install(direction, second)
        return
    keyed.install(direction, second)
    assert keyed.get(direction, 40) == pack(second)
    assert keyed.counted() == {f"Tls{direction.value.title()}RekeyOk": 1}


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
def test_read_back(bench: Bench, suite: CipherSuite) -> None:
    """The whole struct, or its head; other lengths are EINVAL, and EBUSY means no key."""
    bench.attach()
    keys = make_keys(suite, 2**40)
    packed = bytes(pack(keys))
    for direction in Direction:
        with fails(errno.EINVAL):
            bench.get(direction, HEADER.size - 1)
        with fails(errno.EBUSY):
            bench.get(direction, len(packed))
        bench.install(direction, keys)
        assert bench.get(direction, len(packed)) == packed
        assert bench.get(direction, HEADER.size) == packed[:4]
        for size in (HEADER.size - 1, HEADER.size + 1, len(packed) - 1, len(packed) + 1):
            with fails(errno.EINVAL):
                bench.get(direction, size)


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
def test_counting(keyed: Bench, suite: CipherSuite) -> None:
    """rec_seq counts records; in TLS 1.2 GCM and CCM the explicit nonce goes with it."""
    size = LAYOUT[suite.aead].size
    for number, payload in enumerate((b"one", b"two"), 1):
        keyed.ours.sendall(payload)
        assert keyed.opened() == (DATA, payload)
        keyed.feed(keyed.seal(payload))
        assert keyed.recv() == (DATA, payload, True)
        for direction, keys in ((Direction.TX, keyed.tx), (Direction.RX, keyed.rx)):
            iv = keys.iv
            if suite.version.label == "TLSv1.2" and suite.aead.has_explicit_nonce:
                nonce = (int.from_bytes(iv[4:], "big") + number) % 2**64
                iv = iv[:4] + nonce.to_bytes(8, "big")
            expected = TrafficKeys(suite, keys.key, iv, 5 + number)
            assert keyed.get(direction, size) == pack(expected)


def test_queued_before_the_key(bench: Bench) -> None:
    """Records that were there before the key are picked up; what was sent before stays plain."""
    bench.attach()
    keys = make_keys()
    bench.rx, bench.rx_seq = keys, 0
    bench.feed(bench.seal(b"early"))
    bench.ours.sendall(b"plain")
    for direction in Direction:
        bench.install(direction, keys)
    assert bench.readable()
    assert bench.recv() == (DATA, b"early", True)
    bench.ours.sendall(b"data")
    assert recv_exactly(bench.theirs, 5) == b"plain"
    assert bench.opened() == (DATA, b"data")


def test_keys_behind_the_fin(bench: Bench) -> None:
    """With the ULP there in time, keys may come after the peer's FIN."""
    bench.attach()
    bench.end()
    for direction in Direction:
        bench.install(direction, make_keys())
    assert bench.recv() == (None, b"", False)
    bench.ours.sendall(b"data")
    assert bench.opened() == (DATA, b"data")


def test_payload_limit(bench: Bench) -> None:
    """Where the kernel has it: 64 to 16384, and 63 once it is known to be TLS 1.3."""
    option = (uapi.SOL_TLS, uapi.TLS_TX_MAX_PAYLOAD_LEN)
    bench.attach()
    if not bench.kernel.max_payload:
        with fails(errno.ENOPROTOOPT):
            bench.ours.setsockopt(*option, bytes(2))
        with fails(errno.ENOPROTOOPT):
            bench.ours.getsockopt(*option, 2)
        return
    u16 = {n: n.to_bytes(2, byteorder) for n in (62, 63, 64, 100, 2**14, 2**14 + 1)}
    assert bench.ours.getsockopt(*option, 2) == u16[2**14]
    for bad in (u16[63], u16[2**14 + 1], b"\0", bytes(4)):
        with fails(errno.EINVAL):
            bench.ours.setsockopt(*option, bad)
    with fails(errno.EINVAL):
        bench.ours.getsockopt(*option, 1)
    assert bench.ours.getsockopt(*option, 9) == u16[2**14]
    bench.ours.setsockopt(*option, u16[64])
    bench.install(Direction.TX, make_keys())
    with fails(errno.EINVAL):
        bench.ours.setsockopt(*option, u16[62])
    bench.ours.setsockopt(*option, u16[63])
    bench.ours.setsockopt(*option, u16[100])
    assert bench.ours.getsockopt(*option, 2) == u16[100]
    assert bench.ours.send(bytes(250)) == 250
    assert [len(bench.opened()[1]) for _ in range(3)] == [100, 100, 50]
    bench.send(HANDSHAKE, bytes(101))
    assert [bench.opened() for _ in range(2)] == [(HANDSHAKE, bytes(n)) for n in (100, 1)]


# -- sending (kernel.md 3.3)


def test_large_writes_are_split(keyed: Bench) -> None:
    """At 2**14 bytes, data and control records alike."""
    assert keyed.ours.send(bytes(20000)) == 20000
    assert [keyed.opened() for _ in range(2)] == [(DATA, bytes(n)) for n in (16384, 3616)]
    assert keyed.send(HANDSHAKE, bytes(16385)) == 16385
    assert [keyed.opened() for _ in range(2)] == [(HANDSHAKE, bytes(n)) for n in (16384, 1)]


def test_one_call_is_one_record(keyed: Bench) -> None:
    """The buffers of a call share it; calls do not."""
    assert keyed.ours.sendmsg([b"a", bytearray(b"b"), memoryview(b"c")]) == 3
    keyed.ours.sendall(b"d")
    assert keyed.opened() == (DATA, b"abc")
    assert keyed.opened() == (DATA, b"d")


@BOTH_VERSIONS
@pytest.mark.parametrize("content_type", [20, ALERT, HANDSHAKE, DATA, 99])
def test_control_records(keyed: Bench, content_type: int) -> None:
    """Any type can be sent."""
    assert keyed.send(content_type, b"payload") == 7
    assert keyed.opened() == (content_type, b"payload")


def test_empty_records_are_not_sent(keyed: Bench) -> None:
    """They are swallowed."""
    assert keyed.send(HANDSHAKE, b"") == 0
    assert keyed.ours.send(b"") == 0
    keyed.ours.sendall(b"data")
    assert keyed.opened() == (DATA, b"data")


def test_ancillary_data(keyed: Bench) -> None:
    """Ours must be among it and well-formed; others are ignored then."""
    ours = (uapi.SOL_TLS, uapi.TLS_SET_RECORD_TYPE, bytes([ALERT]))
    foreign = (socket.SOL_SOCKET, 37, bytes(4))  # SO_TIMESTAMPING
    for bad in (
        [foreign],
        [(uapi.SOL_TLS, 9, b"\x15")],
        [(uapi.SOL_TLS, uapi.TLS_SET_RECORD_TYPE, b"")],
        [ours, (uapi.SOL_TLS, 9, b"\x15")],
    ):
        for payload in (b"data", b""):
            with fails(errno.EINVAL):
                keyed.ours.sendmsg([payload], bad)
    keyed.ours.sendmsg([b"\1\0"], [foreign, ours])
    assert keyed.opened() == (ALERT, b"\1\0")


@pytest.mark.parametrize("by_flag", [True, False], ids=["flag", "descriptor"])
def test_nothing_fits(keyed: Bench, by_flag: bool) -> None:
    """EAGAIN, for control records too; what was accepted arrives, in whole records."""
    flags: int = DONTWAIT if by_flag else 0
    keyed.ours.setblocking(by_flag)
    accepted = refused = 0
    # TCP goes on for a while with what it has: as long as its first timer takes, or twice that.
    while refused < 10:
        try:
            accepted += keyed.ours.send(bytes(30000), flags)
            refused = 0
        except BlockingIOError:
            refused += 1
            select.select([], [], [], 0.05)
    assert accepted
    for _ in range(2):
        with fails(errno.EAGAIN):
            keyed.send(ALERT, b"\1\0", flags)
    wire, length = bytearray(), accepted + (keyed.seq(Direction.TX) - 5) * 22
    keyed.theirs.settimeout(0)

    def all_there() -> bool:
        keyed.readable()  # the fake goes on when it is called, the kernel by itself
        with suppress(BlockingIOError):
            wire.extend(keyed.theirs.recv(2**20))
        return len(wire) >= length

    until(all_there)
    assert sum(len(payload) for _, payload in keyed.opened_all(bytes(wire))) == accepted
    keyed.theirs.settimeout(5)
    assert keyed.send(ALERT, b"\1\0", flags) == 2
    assert keyed.opened() == (ALERT, b"\1\0")


@BOTH_VERSIONS
def test_last_sequence_number(bench: Bench, suite: CipherSuite) -> None:
    """Its record is sent late, EBADMSG is pending, and the kernel counts on from 0."""
    bench.attach()
    for direction in Direction:
        bench.install(direction, make_keys(suite, 2**64 - 1))
    for _ in range(2):
        with fails(errno.EBADMSG):
            bench.ours.send(b"last")
    assert bench.so_error() == errno.EBADMSG
    assert bench.seq(Direction.TX) == 0
    assert bench.ours.send(b"first") == 5
    assert bench.opened() == (DATA, b"last")
    bench.tx_seq = 0
    assert bench.opened() == (DATA, b"first")
    bench.feed(bench.seal(b"last"))
    assert bench.recv() == (DATA, b"last", True)
    with fails(errno.EBADMSG):
        bench.recv()


def test_sending_after_shutdown(keyed: Bench) -> None:
    """It succeeds, record by record, and goes nowhere."""
    keyed.ours.shutdown(socket.SHUT_WR)
    assert keyed.wire() == b""
    assert keyed.ours.send(bytes(50000)) == 16384
    assert keyed.ours.send(b"data") == 4
    assert keyed.send(ALERT, b"\1\0") == 2
    assert keyed.so_error() == 0
    assert keyed.seq(Direction.TX) == 8
    keyed.feed(keyed.seal(b"data"))
    assert keyed.recv() == (DATA, b"data", True)


def test_sending_after_a_reset(keyed: Bench) -> None:
    """ECONNRESET until somebody has read it; then it succeeds, and goes nowhere."""
    keyed.reset()
    for _ in range(2):
        with fails(errno.ECONNRESET):
            keyed.ours.send(b"data")
    assert keyed.so_error() == errno.ECONNRESET
    for _ in range(2):
        assert keyed.ours.send(b"data") == 4
    assert keyed.so_error() == 0


def test_sending_to_a_closed_peer(keyed: Bench) -> None:
    """One EPIPE, which is easily overlooked: what is sent after it succeeds, and goes nowhere."""
    keyed.theirs.close()
    assert keyed.ours.send(b"data") == 4
    poller = select.poll()
    poller.register(keyed.ours.fileno(), 0)
    assert poller.poll(5000)
    with fails(errno.EPIPE):
        keyed.ours.send(b"data")
    for _ in range(2):
        assert keyed.ours.send(b"data") == 4
    assert keyed.so_error() == 0
    assert keyed.recv() == (None, b"", False)


@pytest.mark.parametrize("ending", ["shutdown", "close"])
def test_no_close_notify(keyed: Bench, ending: str) -> None:
    """Data, then the end of the stream."""
    keyed.ours.sendall(b"data")
    if ending == "shutdown":
        keyed.ours.shutdown(socket.SHUT_WR)
    else:
        keyed.ours.close()
    assert keyed.opened() == (DATA, b"data")
    assert keyed.wire() == b""


@pytest.mark.parametrize("left", ["decrypted", "encrypted"])
def test_closing_with_records_unread(keyed: Bench, left: str) -> None:
    """FIN if they are decrypted, and RST if not."""
    keyed.feed(keyed.seal(b"data"))
    if left == "decrypted":
        assert keyed.ours.recv(1) == b"d"
    keyed.ours.close()
    if left == "decrypted":
        assert keyed.theirs.recv(9) == b""
    else:
        with fails(errno.ECONNRESET):
            keyed.theirs.recv(9)


# -- receiving (kernel.md 3.1)


@BOTH_VERSIONS
def test_one_type_at_a_time(keyed: Bench) -> None:
    """Data is merged, control records never; each return names the type."""
    keyed.feed(
        keyed.seal(b"one"),
        keyed.seal(b"two"),
        keyed.seal(b"first", HANDSHAKE),
        keyed.seal(b"second", HANDSHAKE),
        keyed.seal(b"\1\0", ALERT),
        keyed.seal(b"three"),
    )
    assert [keyed.recv() for _ in range(5)] == [
        (DATA, b"onetwo", True),
        (HANDSHAKE, b"first", True),
        (HANDSHAKE, b"second", True),
        (ALERT, b"\1\0", True),
        (DATA, b"three", True),
    ]


@pytest.mark.parametrize("space", [0, 15, 16])
def test_control_record_without_room_for_its_type(keyed: Bench, space: int) -> None:
    """EIO, and the record is kept; data before it comes first."""
    keyed.feed(keyed.seal(b"data"), keyed.seal(b"message", HANDSHAKE), keyed.seal(b"more"))
    payload, control, msg_flags, _ = keyed.ours.recvmsg(99, space)
    assert payload == b"data"
    assert control == ([(uapi.SOL_TLS, uapi.TLS_GET_RECORD_TYPE, b"")] if space == 16 else [])
    assert msg_flags & socket.MSG_CTRUNC
    for flags in (0, DONTWAIT, PEEK, WAITALL):
        with fails(errno.EIO):
            keyed.ours.recvmsg(99, space, flags)
    with fails(errno.EIO):
        keyed.ours.recv(99)
    with fails(errno.EIO):
        keyed.ours.recv_into(bytearray(9))
    assert keyed.recv(space=17) == (HANDSHAKE, b"message", True)
    assert keyed.ours.recv(99) == b"more"


def test_control_record_first_without_room(keyed: Bench) -> None:
    """EIO also if it was not decrypted before."""
    keyed.feed(keyed.seal(b"\1\0", ALERT))
    for _ in range(2):
        with fails(errno.EIO):
            keyed.ours.recv(99)
    assert keyed.readable()
    assert keyed.recv() == (ALERT, b"\1\0", True)
    assert not keyed.readable()


def test_room_for_the_type(keyed: Bench) -> None:
    """Nothing is truncated then."""
    keyed.feed(keyed.seal(b"data"))
    assert keyed.ours.recvmsg(99, 17)[1:3] == ([(uapi.SOL_TLS, 2, b"\x17")], socket.MSG_EOR)


@pytest.mark.parametrize("content_type", [HANDSHAKE, DATA])
def test_short_buffer(keyed: Bench, content_type: int) -> None:
    """The rest comes with the next call, and MSG_EOR with the last byte."""
    keyed.feed(keyed.seal(b"payload", content_type))
    assert keyed.recv(3) == (content_type, b"pay", False)
    assert keyed.readable()
    assert keyed.recv(3) == (content_type, b"loa", False)
    assert keyed.recv(3) == (content_type, b"d", True)
    assert not keyed.readable()


def test_end_of_record_is_any_records_end(keyed: Bench) -> None:
    """MSG_EOR with data says that some record was finished, not the last one."""
    keyed.feed(keyed.seal(b"abc"), keyed.seal(b"def"))
    assert keyed.recv(4) == (DATA, b"abcd", True)
    assert keyed.recv(1) == (DATA, b"e", False)
    assert keyed.recv(99) == (DATA, b"f", True)


def test_rest_and_next_record_are_merged(keyed: Bench) -> None:
    """The decrypted rest of one record and the next."""
    keyed.feed(keyed.seal(b"abc"))
    assert keyed.recv(1) == (DATA, b"a", False)
    keyed.feed(keyed.seal(b"def"))
    assert keyed.recv() == (DATA, b"bcdef", True)


@pytest.mark.parametrize("kept", ["", "record", "partial record", "control record"])
def test_end_of_stream(keyed: Bench, kept: str) -> None:
    """0 bytes and no type, for good; a record that the end cuts off vanishes."""
    if kept == "record":
        keyed.feed(keyed.seal(b"data"))
    elif kept == "control record":
        keyed.feed(keyed.seal(b"\1\0", ALERT))
    elif kept == "partial record":
        keyed.feed(keyed.seal(b"data")[:-1])
    keyed.end()
    assert keyed.readable()
    if kept == "record":
        assert keyed.recv() == (DATA, b"data", True)
    elif kept == "control record":
        assert keyed.recv() == (ALERT, b"\1\0", True)
    for _ in range(2):
        assert keyed.recv() == (None, b"", False)
        assert keyed.ours.recv(9) == b""
    assert keyed.readable()


@pytest.mark.parametrize("content_type", [HANDSHAKE, ALERT])
def test_empty_control_record(keyed: Bench, content_type: int) -> None:
    """0 bytes with its type."""
    keyed.feed(keyed.seal(b"", content_type), keyed.seal(b"x"))
    with fails(errno.EIO):
        keyed.ours.recv(9)
    assert keyed.recv() == (content_type, b"", True)
    assert keyed.recv() == (DATA, b"x", True)


def test_lone_empty_data_record(keyed: Bench) -> None:
    """Poll tells of it, and there is nothing to read."""
    keyed.feed(keyed.seal(b""))
    assert keyed.readable()
    with fails(errno.EAGAIN):
        keyed.recv(flags=DONTWAIT)
    assert not keyed.readable()
    keyed.feed(keyed.seal(b""), keyed.seal(b""), keyed.seal(b"x"))
    assert keyed.recv() == (DATA, b"x", True)


def test_empty_data_record_before_another_type(keyed: Bench) -> None:
    """0 bytes with type 23, which is not the end."""
    keyed.feed(keyed.seal(b""), keyed.seal(b"\1\0", ALERT))
    assert keyed.recv() == (DATA, b"", True)
    assert keyed.recv() == (ALERT, b"\1\0", True)


def test_empty_data_record_before_the_end(keyed: Bench) -> None:
    """0 bytes with type 23, then the end."""
    keyed.feed(keyed.seal(b""))
    keyed.end()
    assert keyed.recv() == (DATA, b"", True)
    assert keyed.recv() == (None, b"", False)


def test_peek(keyed: Bench) -> None:
    """It decrypts and keeps, across records of one type."""
    keyed.feed(keyed.seal(b"one"), keyed.seal(b"two"), keyed.seal(b"message", HANDSHAKE))
    assert keyed.seq(Direction.RX) == 5
    assert keyed.recv(2, PEEK)[:2] == (DATA, b"on")
    assert keyed.seq(Direction.RX) == 6
    for _ in range(2):
        assert keyed.recv(5, PEEK)[:2] == (DATA, b"onetw")
    assert keyed.recv(flags=PEEK)[:2] == (DATA, b"onetwo")
    assert keyed.ours.recv(99, PEEK) == b"onetwo"
    assert keyed.recv(4)[:2] == (DATA, b"onet")
    assert keyed.recv(flags=PEEK)[:2] == (DATA, b"wo")
    assert keyed.recv()[:2] == (DATA, b"wo")
    with fails(errno.EIO):
        keyed.ours.recv(99, PEEK)
    assert keyed.readable()
    for flags in (PEEK, PEEK, 0):
        assert keyed.recv(flags=flags)[:2] == (HANDSHAKE, b"message")
    assert keyed.seq(Direction.RX) == 8
    with fails(errno.EAGAIN):
        keyed.recv(flags=PEEK | DONTWAIT)


def test_waitall(keyed: Bench) -> None:
    """It waits for the size, or for another type; the timeout gives what there is."""
    keyed.feed(keyed.seal(b"one"), keyed.seal(b"two"), keyed.seal(b"\1\0", ALERT))
    assert keyed.recv(4, WAITALL)[:2] == (DATA, b"onet")
    assert keyed.recv(4, WAITALL)[:2] == (DATA, b"wo")
    assert keyed.recv(4, WAITALL) == (ALERT, b"\1\0", True)
    set_timeout(keyed.ours, 50)
    keyed.feed(keyed.seal(b"x"))
    assert keyed.recv(4, WAITALL) == (DATA, b"x", True)


@BOTH_VERSIONS
@pytest.mark.parametrize("cut", [0, 1, 5, 12, -1])
def test_nothing_whole(keyed: Bench, cut: int) -> None:
    """EAGAIN, at once or after SO_RCVTIMEO, until the last byte of a record has come."""
    record = keyed.seal(b"data")
    keyed.feed(record[:cut])
    assert keyed.readable() == (keyed.kernel.polls_partial_records and cut != 0)
    with fails(errno.EAGAIN):
        keyed.recv(flags=DONTWAIT)
    set_timeout(keyed.ours, 50)
    with fails(errno.EAGAIN):
        keyed.recv()
    keyed.ours.settimeout(0)
    with fails(errno.EAGAIN):
        keyed.ours.recv(9)
    keyed.feed(record[cut:])
    assert keyed.readable()
    assert keyed.recv() == (DATA, b"data", True)


def test_partial_record_behind_data(keyed: Bench) -> None:
    """It is not waited for."""
    second = keyed.seal(b"one"), keyed.seal(b"two")
    keyed.feed(second[0], second[1][:-1])
    assert keyed.recv() == (DATA, b"one", True)
    assert keyed.readable() == keyed.kernel.polls_partial_records
    keyed.feed(second[1][-1:])
    assert keyed.recv() == (DATA, b"two", True)


def test_several_buffers(keyed: Bench) -> None:
    """They are filled in turn."""
    keyed.feed(keyed.seal(b"abc"), keyed.seal(b"de"))
    first, second = bytearray(2), bytearray(9)
    count, control, msg_flags, _ = keyed.ours.recvmsg_into([first, second], SPACE)
    assert count == 5
    assert bytes(first + second[:4]) == b"abcde\0"
    assert control == [(uapi.SOL_TLS, uapi.TLS_GET_RECORD_TYPE, b"\x17")]
    assert msg_flags == socket.MSG_EOR
    keyed.feed(keyed.seal(b"fgh"))
    assert keyed.ours.recv_into(second, 2) == 2
    assert second[:3] == b"fge"


def test_no_buffer(keyed: Bench) -> None:
    """Nothing is read, and no type told."""
    assert keyed.recv(0) == (None, b"", False)
    keyed.feed(keyed.seal(b"\1\0", ALERT))
    assert keyed.recv(0) == (None, b"", False)
    assert keyed.seq(Direction.RX) == 5
    assert keyed.recv() == (ALERT, b"\1\0", True)


@BOTH_VERSIONS
def test_largest_records(keyed: Bench) -> None:
    """2**14 bytes."""
    payload = os.urandom(2**14)
    for _ in range(3):
        keyed.theirs.sendall(keyed.seal(payload))
        assert keyed.recv(2**14, WAITALL) == (DATA, payload, True)


def sealed(keys: TrafficKeys, seq: int, inner: bytes) -> bytes:
    """Seal a TLS 1.3 GCM record with any inner plaintext."""
    header = b"\x17\x03\x03" + (len(inner) + 16).to_bytes(2, "big")
    nonce = (int.from_bytes(keys.iv, "big") ^ seq).to_bytes(IV_LENGTH, "big")
    return header + AESGCM(bytes(keys.key)).encrypt(nonce, inner, header)


def test_padding(keyed: Bench) -> None:
    """It is taken off."""
    keyed.feed(sealed(keyed.rx, 5, b"data\x17\0\0\0"), sealed(keyed.rx, 6, b"\0\0\x15\0"))
    assert keyed.recv() == (DATA, b"data", True)
    assert keyed.recv() == (ALERT, b"\0\0", True)


def test_outer_type(keyed: Bench) -> None:
    """In TLS 1.3 nobody looks at it."""
    keyed.feed(b"\x16" + keyed.seal(b"data")[1:])
    assert keyed.recv() == (DATA, b"data", True)


@pytest.mark.parametrize("suite", [GCM_12])
def test_type_0(keyed: Bench) -> None:
    """EBADMSG as long as it is there, yet nothing is wrong with the connection."""
    keyed.feed(keyed.seal(b"zero", 0))
    for _ in range(2):
        with fails(errno.EBADMSG):
            keyed.recv()
    assert keyed.so_error() == 0
    assert keyed.counted() == {}


# -- errors (kernel.md 3.5)


@BOTH_VERSIONS
def test_bad_mac(keyed: Bench) -> None:
    """EBADMSG with every read; sending fails too until SO_ERROR has been read."""
    keyed.feed(flipped(keyed.seal(b"data")), keyed.seal(b"more"))
    for count in (1, 2):
        with fails(errno.EBADMSG):
            keyed.recv()
        assert keyed.counted() == {"TlsDecryptError": count}
    assert keyed.seq(Direction.RX) == 5
    assert keyed.readable()
    for _ in range(2):
        with fails(errno.EBADMSG):
            keyed.send(ALERT, b"\2\x14")
    assert keyed.so_error() == errno.EBADMSG
    assert keyed.so_error() == 0
    keyed.send(ALERT, b"\2\x14")
    assert keyed.opened() == (ALERT, b"\2\x14")
    with fails(errno.EBADMSG):
        keyed.recv()


def test_no_content_type(keyed: Bench) -> None:
    """EBADMSG as for a bad MAC, but not counted."""
    keyed.feed(sealed(keyed.rx, 5, bytes(9)))
    for _ in range(2):
        with fails(errno.EBADMSG):
            keyed.recv()
    assert keyed.counted() == {}
    assert keyed.so_error() == errno.EBADMSG


def test_bad_record_behind_good_ones(keyed: Bench) -> None:
    """They come first; the error is pending by then."""
    keyed.feed(keyed.seal(b"good"), flipped(keyed.seal(b"bad")))
    assert keyed.recv() == (DATA, b"good", True)
    with fails(errno.EBADMSG):
        keyed.ours.send(b"x")
    with fails(errno.EBADMSG):
        keyed.recv()


FRAMING = pytest.mark.parametrize(
    ("suite", "wire", "number"),
    [
        pytest.param(GCM_13, b"\x17\3\3\x40\x12", errno.EMSGSIZE, id="1.3 too long"),
        pytest.param(GCM_13, b"\x17\3\3\0\x0f", errno.EBADMSG, id="1.3 too short"),
        pytest.param(GCM_13, b"\x15\3\3\0\2\2\x28", errno.EBADMSG, id="1.3 plain alert"),
        pytest.param(GCM_13, b"\x17\3\4\0\x20", errno.EINVAL, id="1.3 minor"),
        pytest.param(GCM_13, b"\x17\2\3\0\x20", errno.EINVAL, id="1.3 major"),
        pytest.param(GCM_13, b"GET / HTTP/1.0\r\n", errno.EINVAL, id="1.3 not TLS"),
        pytest.param(GCM_13, b"hello world", errno.EMSGSIZE, id="1.3 not TLS, and long"),
        pytest.param(GCM_12, b"\x17\3\3\x40\x19" + bytes(8), errno.EMSGSIZE, id="1.2 too long"),
        pytest.param(GCM_12, b"\x17\3\3\0\x17" + bytes(8), errno.EBADMSG, id="1.2 too short"),
        pytest.param(GCM_12, b"\x17\3\1\0\x20" + bytes(8), errno.EINVAL, id="1.2 minor"),
        pytest.param(CHACHA_12, b"\x17\3\3\x40\x11", errno.EMSGSIZE, id="ChaCha too long"),
        pytest.param(CHACHA_12, b"\x17\3\3\0\x0f", errno.EBADMSG, id="ChaCha too short"),
        pytest.param(CHACHA_12, b"\x15\3\3\0\2\2\x28", errno.EBADMSG, id="ChaCha plain alert"),
    ],
)


@FRAMING
def test_framing_error(keyed: Bench, wire: bytes, number: int) -> None:
    """It is told once, and nothing is read after it; sending works."""
    keyed.feed(wire)
    assert keyed.readable()
    with fails(number):
        keyed.recv()
    assert keyed.readable() == keyed.kernel.polls_partial_records
    keyed.feed(keyed.seal(b"more"))
    with fails(errno.EAGAIN):
        keyed.recv(flags=DONTWAIT)
    set_timeout(keyed.ours, 50)
    with fails(errno.EAGAIN):
        keyed.recv()
    assert keyed.counted() == {}
    assert keyed.so_error() == 0
    keyed.send(ALERT, b"\2\x16")
    assert keyed.opened() == (ALERT, b"\2\x16")
    keyed.end()
    assert keyed.recv() == (None, b"", False)


@pytest.mark.parametrize(
    ("suite", "wire"),
    [
        (GCM_13, b"\x17\3\3\x40\x11"),
        (GCM_12, b"\x17\3\3\x40\x18" + bytes(8)),
        (CHACHA_12, b"\x17\3\3\x40\x10"),
        (GCM_12, b"\x15\3\3\0\2\2\x28"),
        (GCM_12, b"GET / HTTP/1"),
    ],
)
def test_header_is_not_judged(keyed: Bench, wire: bytes) -> None:
    """The longest records pass, and TLS 1.2 GCM waits for the nonce too."""
    keyed.feed(wire)
    with fails(errno.EAGAIN):
        keyed.recv(flags=DONTWAIT)
    assert keyed.so_error() == 0


@FRAMING
def test_framing_error_before_it_is_read(keyed: Bench, wire: bytes, number: int) -> None:
    """It is pending at once: sending fails, and whoever reads SO_ERROR has taken it."""
    keyed.feed(wire)
    for _ in range(2):
        with fails(number):
            keyed.ours.send(b"x")
    assert keyed.so_error() == number
    with fails(errno.EAGAIN):
        keyed.recv(flags=DONTWAIT)


def test_framing_error_is_pending_at_once(keyed: Bench) -> None:
    """SO_ERROR alone takes it."""
    keyed.feed(b"GET / HTTP/1.0\r\n")
    assert keyed.so_error() == errno.EINVAL
    with fails(errno.EAGAIN):
        keyed.recv(flags=DONTWAIT)


@pytest.mark.parametrize("flags", [0, WAITALL])
def test_framing_error_behind_data(keyed: Bench, flags: int) -> None:
    """Data comes first; Linux 6.1 forgets the error if one call finds both."""
    keyed.feed(keyed.seal(b"good"), b"GET / HTTP/1.0\r\n")
    assert keyed.recv(flags=flags) == (DATA, b"good", True)
    forgotten = flags and keyed.kernel.polls_partial_records
    with fails(errno.EAGAIN if forgotten else errno.EINVAL):
        keyed.recv(flags=DONTWAIT)


@pytest.mark.parametrize("behind", ["record", "partial record"])
def test_reset(keyed: Bench, behind: str) -> None:
    """Whole records come first, then ECONNRESET, then the end."""
    record = keyed.seal(b"data")
    keyed.feed(record if behind == "record" else record[:-1])
    keyed.reset()
    assert keyed.readable()
    if behind == "record":
        assert keyed.recv() == (DATA, b"data", True)
    with fails(errno.ECONNRESET):
        keyed.recv()
    assert keyed.recv() == (None, b"", False)


# -- KeyUpdate (kernel.md 4)


@pytest.mark.parametrize("message", [KEY_UPDATE, b"\x18", b"\x18 or anything else"])
def test_key_update(keyed: Bench, message: bytes) -> None:
    """Where the kernel can rekey, nothing is read past it without a key; elsewhere no matter."""
    keyed.feed(keyed.seal(message, HANDSHAKE), keyed.seal(b"old key"))
    assert keyed.recv(1) == (HANDSHAKE, message[:1], len(message) == 1)
    if len(message) > 1:
        assert keyed.recv() == (HANDSHAKE, message[1:], True)
    if not keyed.kernel.rekey:
        assert keyed.recv() == (DATA, b"old key", True)
        assert keyed.counted() == {}
        return
    assert not keyed.readable()
    for flags in (0, DONTWAIT, PEEK, WAITALL):
        with fails(uapi.EKEYEXPIRED):
            keyed.recv(flags=flags)
    with fails(uapi.EKEYEXPIRED):
        keyed.ours.recv(9)
    assert keyed.so_error() == 0
    keyed.ours.sendall(b"unaffected")
    assert keyed.opened() == (DATA, b"unaffected")
    assert keyed.counted() == {"TlsRxRekeyReceived": 1}
    keyed.set(Direction.RX, keyed.get(Direction.RX, 40))
    assert keyed.readable()
    assert keyed.recv() == (DATA, b"old key", True)
    assert keyed.counted() == {"TlsRxRekeyReceived": 1, "TlsRxRekeyOk": 1}


@pytest.mark.parametrize("prefetched", [False, True])
def test_next_generation(keyed: Bench, prefetched: bool) -> None:
    """The next key opens what comes next; without it EBADMSG."""
    update = keyed.seal(KEY_UPDATE, HANDSHAKE)
    new = make_keys()
    record = seal_record(new, 0, ContentType.application_data, b"new key")
    keyed.feed(update, record if prefetched else b"")
    assert keyed.recv() == (HANDSHAKE, KEY_UPDATE, True)
    if not keyed.kernel.rekey:
        keyed.feed(b"" if prefetched else record)
        with fails(errno.EBUSY):
            keyed.install(Direction.RX, new)
        with fails(errno.EBADMSG):
            keyed.recv()
        return
    if prefetched:
        keyed.install(Direction.RX, new)
    else:
        keyed.install(Direction.RX, new)
        assert not keyed.readable()
        keyed.feed(record)
    assert keyed.readable()
    assert keyed.recv() == (DATA, b"new key", True)
    assert keyed.seq(Direction.RX) == 1


def test_parked_key_update(keyed: Bench) -> None:
    """Data and a KeyUpdate at once: it is decrypted with the data, and poll is silent with it."""
    keyed.feed(keyed.seal(b"data"), keyed.seal(KEY_UPDATE, HANDSHAKE))
    assert keyed.ours.recv(99) == b"data"
    assert keyed.seq(Direction.RX) == 7
    assert keyed.readable() is not keyed.kernel.rekey
    assert keyed.counted() == ({"TlsRxRekeyReceived": 1} if keyed.kernel.rekey else {})
    with fails(errno.EIO):
        keyed.ours.recv(99)
    assert keyed.recv(flags=PEEK | DONTWAIT)[:2] == (HANDSHAKE, KEY_UPDATE)
    assert keyed.recv() == (HANDSHAKE, KEY_UPDATE, True)
    with fails(uapi.EKEYEXPIRED if keyed.kernel.rekey else errno.EAGAIN):
        keyed.recv(flags=DONTWAIT)


def refuses_rekey(keyed: Bench) -> bool:
    """Return whether this kernel takes no second key, and see it refuse one if so."""
    if keyed.kernel.rekey:
        return False
    with fails(errno.EBUSY):
        keyed.install(Direction.RX, make_keys())
    return True


def test_key_while_the_update_is_parked(keyed: Bench) -> None:
    """It may be installed before the record is read."""
    if refuses_rekey(keyed):
        return
    keyed.feed(keyed.seal(KEY_UPDATE, HANDSHAKE))
    with fails(errno.EIO):
        keyed.ours.recv(99)
    keyed.install(Direction.RX, make_keys())
    assert keyed.readable()
    assert keyed.recv() == (HANDSHAKE, KEY_UPDATE, True)
    keyed.feed(keyed.seal(b"new key"))
    assert keyed.recv() == (DATA, b"new key", True)


def test_coalesced_key_update(keyed: Bench) -> None:
    """Behind a ticket in one record it is not seen; the next record fails until it has its key."""
    keyed.feed(keyed.seal(b"\4\0\0\0" + KEY_UPDATE, HANDSHAKE))
    assert keyed.recv()[0] == HANDSHAKE
    new = make_keys()
    keyed.feed(seal_record(new, 0, ContentType.application_data, b"new key"))
    with fails(errno.EBADMSG):
        keyed.recv()
    if not keyed.kernel.rekey:
        return
    keyed.install(Direction.RX, new)
    assert keyed.recv() == (DATA, b"new key", True)
    assert keyed.so_error() == errno.EBADMSG
    assert keyed.counted() == {"TlsDecryptError": 1, "TlsRxRekeyOk": 1}


def test_pending_error_after_recovery(keyed: Bench) -> None:
    """Left unread, it is what the first read finds that has no record."""
    if refuses_rekey(keyed):
        return
    new = make_keys()
    keyed.feed(seal_record(new, 0, ContentType.application_data, b"new key"))
    with fails(errno.EBADMSG):
        keyed.recv()
    keyed.install(Direction.RX, new)
    assert keyed.recv() == (DATA, b"new key", True)
    with fails(errno.EBADMSG):
        keyed.recv(flags=DONTWAIT)
    with fails(errno.EAGAIN):
        keyed.recv(flags=DONTWAIT)


def test_wrong_next_generation(keyed: Bench) -> None:
    """EBADMSG, until the right one is installed."""
    if refuses_rekey(keyed):
        return
    new = make_keys()
    keyed.feed(
        keyed.seal(KEY_UPDATE, HANDSHAKE),
        seal_record(new, 0, ContentType.application_data, b"new key"),
    )
    assert keyed.recv()[0] == HANDSHAKE
    keyed.install(Direction.RX, make_keys())
    with fails(errno.EBADMSG):
        keyed.recv()
    keyed.install(Direction.RX, new)
    assert keyed.recv() == (DATA, b"new key", True)


def test_refused_key_leaves_the_update_pending(keyed: Bench) -> None:
    """As if nobody had tried."""
    if refuses_rekey(keyed):
        return
    keyed.feed(keyed.seal(KEY_UPDATE, HANDSHAKE))
    assert keyed.recv()[0] == HANDSHAKE
    with fails(errno.EINVAL):
        keyed.install(Direction.RX, make_keys(CHACHA_13))
    with fails(uapi.EKEYEXPIRED):
        keyed.recv()


@pytest.mark.parametrize("suite", [GCM_12])
def test_key_update_in_tls12(keyed: Bench) -> None:
    """It stops the kernel that can rekey just so, and there is no key to be had."""
    keyed.feed(keyed.seal(b"\x18", HANDSHAKE), keyed.seal(b"data"))
    assert keyed.recv() == (HANDSHAKE, b"\x18", True)
    if not keyed.kernel.rekey:
        assert keyed.recv() == (DATA, b"data", True)
        return
    with fails(uapi.EKEYEXPIRED):
        keyed.recv()
    with fails(errno.EBUSY):
        keyed.install(Direction.RX, make_keys(GCM_12))


@pytest.mark.parametrize(
    ("content_type", "payload"),
    [(HANDSHAKE, b"\4\x18"), (HANDSHAKE, b""), (ALERT, b"\x18"), (DATA, b"\x18")],
)
def test_not_a_key_update(keyed: Bench, content_type: int, payload: bytes) -> None:
    """Only a handshake record that begins like one."""
    keyed.feed(keyed.seal(payload, content_type))
    assert keyed.recv() == (content_type, payload, True)
    keyed.feed(keyed.seal(b"data"))
    assert keyed.recv() == (DATA, b"data", True)


def test_end_of_stream_behind_a_key_update(keyed: Bench) -> None:
    """Poll tells of it; it can be read when the key is there."""
    keyed.feed(keyed.seal(KEY_UPDATE, HANDSHAKE))
    assert keyed.recv()[0] == HANDSHAKE
    keyed.end()
    assert keyed.readable()
    if keyed.kernel.rekey:
        with fails(uapi.EKEYEXPIRED):
            keyed.recv()
        keyed.install(Direction.RX, make_keys())
    assert keyed.recv() == (None, b"", False)


def test_own_key_update(keyed: Bench) -> None:
    """The next record after the installation is the first under the new key."""
    keyed.send(HANDSHAKE, KEY_UPDATE)
    assert keyed.opened() == (HANDSHAKE, KEY_UPDATE)
    keyed.ours.sendall(b"old key")
    assert keyed.opened() == (DATA, b"old key")
    if not keyed.kernel.rekey:
        return
    keyed.install(Direction.TX, make_keys())
    keyed.ours.sendall(b"new key")
    assert keyed.opened() == (DATA, b"new key")
    assert keyed.counted() == {"TlsTxRekeyOk": 1}


# -- poll (kernel.md 3.2)


def test_poll(keyed: Bench) -> None:
    """Quiet on nothing, awake for as long as there is something."""
    assert not keyed.readable()
    keyed.feed(keyed.seal(b"one"), keyed.seal(b"two"))
    assert keyed.readable()
    assert keyed.ours.recv(1) == b"o"
    assert keyed.readable()
    assert keyed.ours.recv(9) == b"netwo"
    assert not keyed.readable()


def test_poll_after_our_own_shutdown(keyed: Bench) -> None:
    """Any byte counts again, on every kernel."""
    keyed.ours.shutdown(socket.SHUT_WR)
    assert not keyed.readable()
    record = keyed.seal(b"data")
    keyed.feed(record[:-1])
    assert keyed.readable()
    with fails(errno.EAGAIN):
        keyed.recv(flags=DONTWAIT)
    keyed.feed(record[-1:])
    assert keyed.recv() == (DATA, b"data", True)


def test_poll_after_giving_up_reading(keyed: Bench) -> None:
    """The end, even behind a partial record."""
    keyed.ours.shutdown(socket.SHUT_RD)
    assert keyed.readable()
    keyed.feed(keyed.seal(b"data")[:-1])
    assert keyed.readable()
    assert keyed.recv() == (None, b"", False)


# -- the fake alone: what CPython does round the system calls


@pytest.fixture
def fake(tcp_pair: tuple[socket.socket, socket.socket]) -> Iterator[Bench]:
    """A keyed connection on the latest fake."""
    made = Bench(Carrier(FakeKernel.LINUX_7_3, real=False), tcp_pair)
    with closing(made.ours):
        made.attach()
        for direction in Direction:
            made.install(direction, make_keys())
        yield made


def test_python_timeout(fake: Bench) -> None:
    """It polls first, so a parked KeyUpdate is never read."""
    fake.feed(fake.seal(b"data"), fake.seal(KEY_UPDATE, HANDSHAKE))
    fake.ours.settimeout(5)
    assert fake.ours.recv(9) == b"data"
    fake.ours.settimeout(0.02)
    with pytest.raises(TimeoutError, match="timed out"):
        fake.recv()
    fake.ours.settimeout(None)
    assert fake.recv() == (HANDSHAKE, KEY_UPDATE, True)


def test_python_timeout_of_a_send(fake: Bench) -> None:
    """It ends when nothing fits any more."""
    fake.ours.settimeout(0.02)
    with pytest.raises(TimeoutError, match="timed out"):
        fake.ours.sendall(bytes(2**25))


def test_detaching(fake: Bench) -> None:
    """What is left is the TCP connection, held by the descriptor alone."""
    with closing(socket.socket(fileno=fake.ours.detach())) as sock:
        sock.sendall(b"plain")
    assert fake.theirs.recv(9) == b"plain"
    assert fake.theirs.recv(9) == b""


def test_wrapping_keeps_the_timeout(tcp_pair: tuple[socket.socket, socket.socket]) -> None:
    """As the descriptor is the same, so are its flags."""
    tcp_pair[0].settimeout(7)
    with closing(FakeSocket(tcp_pair[0])) as sock:
        assert sock.gettimeout() == 7
