"""Tests of ulp: what each errno becomes, and what a real kernel does."""

from __future__ import annotations

import errno
import os
import select
import socket
from contextlib import closing
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.doubles import FailingSocket, flipped
from tlsify.codepoints import Aead, AlertDescription, CipherSuite, ContentType, ProtocolVersion
from tlsify.errors import (
    ConfigError,
    KtlsUnavailable,
    PeerMisbehaved,
    RekeyUnsupported,
    TlsifyError,
)
from tlsify.keys import IV_LENGTH, Direction, TrafficKeys
from tlsify.ktls import diag, uapi, ulp
from tlsify.ktls.crypto_info import pack
from tlsify.ktls.probe import capabilities
from tlsify.tls.protection import open_record, seal_record
from tlsify.tls.record import encode_record

pytestmark = pytest.mark.each_kernel

GCM_13 = CipherSuite.TLS_AES_128_GCM_SHA256
GCM_12 = CipherSuite.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
CHACHA_13 = CipherSuite.TLS_CHACHA20_POLY1305_SHA256
SUITES = (
    GCM_13,
    CipherSuite.TLS_AES_256_GCM_SHA384,
    CHACHA_13,
    CipherSuite.TLS_AES_128_CCM_SHA256,
    GCM_12,
    CipherSuite.TLS_ECDHE_ECDSA_WITH_AES_128_CCM,
    CipherSuite.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
)
IPPROTO_MPTCP = 262

Pair = tuple[socket.socket, socket.socket]
needs_ktls = pytest.mark.ktls


def make_keys(suite: CipherSuite = GCM_13, seq: int = 0) -> TrafficKeys:
    """Make keys that nobody else has."""
    return TrafficKeys(
        suite,
        bytearray(os.urandom(suite.aead.key_length)),
        bytearray(os.urandom(IV_LENGTH)),
        seq,
    )


@pytest.fixture
def keyed(tcp_pair: Pair) -> tuple[socket.socket, socket.socket, TrafficKeys]:
    """Return a sender and a receiver under one TLS 1.3 key, and the key."""
    sender, receiver = tcp_pair
    keys = make_keys()
    for sock, direction in ((sender, Direction.TX), (receiver, Direction.RX)):
        ulp.attach(sock)
        ulp.install(sock, direction, keys)
    return sender, receiver, keys


@pytest.fixture
def receiving(tcp_pair: Pair) -> tuple[socket.socket, socket.socket, TrafficKeys]:
    """Return a plain TCP sender, a keyed receiver, and its key."""
    sender, receiver = tcp_pair
    keys = make_keys()
    ulp.attach(receiver)
    ulp.install(receiver, Direction.RX, keys)
    return sender, receiver, keys


def data(keys: TrafficKeys, seq: int, payload: bytes) -> bytes:
    """Seal a record of application data."""
    return seal_record(keys, seq, ContentType.application_data, payload)


# -- what each errno becomes, on any kernel


def failing(pair: Pair, number: int) -> FailingSocket:
    """Make the first socket's first option fail."""
    return FailingSocket(pair[0], 0, OSError(number, os.strerror(number)))


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOENT, "no-tls-ulp"),
        (errno.ENOTCONN, "not-established"),
        (errno.ENOPROTOOPT, "mptcp"),
        (errno.EOPNOTSUPP, "not-tcp"),
        (errno.EINVAL, "not-available"),
        (errno.ENOMEM, "no-memory"),
        (errno.EPERM, "forbidden"),
        (errno.EEXIST, "not-available"),
        (errno.EIO, "not-available"),
    ],
)
def test_attach_is_refused(tcp_pair: Pair, number: int, code: str) -> None:
    """Every errno has a reason of its own, or the general one."""
    with closing(failing(tcp_pair, number)) as sock, pytest.raises(KtlsUnavailable) as raised:
        ulp.attach(sock)
    assert raised.value.code == code
    assert raised.value.errno == number
    assert raised.value.step == "TCP_ULP"
    assert sock.calls == [(uapi.SOL_TCP, uapi.TCP_ULP, b"tls")]


class Occupied(FailingSocket):
    """A socket that already has some ULP."""

    name = b""

    def getsockopt(self, *args: int) -> bytes:  # type: ignore[override]
        """Name it as the kernel does."""
        assert args == (uapi.SOL_TCP, uapi.TCP_ULP, 16)
        return self.name.ljust(16, b"\0")


@pytest.mark.parametrize(
    ("name", "error"), [(b"mptcp", KtlsUnavailable), (b"espintcp", ConfigError)]
)
def test_attach_to_an_occupied_socket(
    tcp_pair: Pair, name: bytes, error: type[TlsifyError]
) -> None:
    """An MPTCP socket may be relayed; any other ULP is the caller's mistake."""
    with closing(Occupied(tcp_pair[0], 0, OSError(errno.EEXIST, ""))) as sock:
        sock.name = name
        with pytest.raises(error):
            ulp.attach(sock)


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize(
    "number",
    [errno.EINVAL, errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.ENOENT, errno.ENOMEM, errno.EBUSY],
)
def test_install_is_refused(tcp_pair: Pair, direction: Direction, number: int) -> None:
    """EBUSY means keyed already; everything else that the kernel lacks something."""
    error = RekeyUnsupported if number == errno.EBUSY else KtlsUnavailable
    with closing(failing(tcp_pair, number)) as sock, pytest.raises(error) as raised:
        ulp.install(sock, direction, make_keys())
    assert raised.value.step == f"TLS_{direction.value}"
    assert raised.value.errno == number


@pytest.mark.parametrize("fails", [False, True])
def test_packed_key_is_wiped(tcp_pair: Pair, *, fails: bool) -> None:
    """Whatever the kernel says, the struct with the key does not stay in memory."""
    held: list[bytearray] = []

    class Keeping(FailingSocket):
        def setsockopt(self, *args: object) -> None:
            packed = args[2]
            assert isinstance(packed, bytearray)
            assert any(packed[4:])
            held.append(packed)
            if fails:
                raise self._error

    with closing(Keeping(tcp_pair[0], -1, OSError(errno.EINVAL, ""))) as sock:
        if fails:
            with pytest.raises(KtlsUnavailable):
                ulp.install(sock, Direction.TX, make_keys())
        else:
            ulp.install(sock, Direction.TX, make_keys())
    assert not any(held[0])


def test_limit_is_refused(tcp_pair: Pair) -> None:
    """A kernel without TLS_TX_MAX_PAYLOAD_LEN leads to the relay."""
    refusing = closing(failing(tcp_pair, errno.ENOPROTOOPT))
    with refusing as sock, pytest.raises(KtlsUnavailable) as raised:
        ulp.limit_payload(sock, 512)
    assert raised.value.code == "max-fragment-length"


def test_plain_socket(tcp_pair: Pair) -> None:
    """Without a ULP there is no name, no key and no limit."""
    sock, _ = tcp_pair
    assert ulp.ulp_name(sock) == ""
    assert not any(ulp.is_keyed(sock, direction) for direction in Direction)
    assert not ulp.can_limit_payload(sock)


def test_record_type() -> None:
    """It is found among other ancillary data, and nothing else is taken for it."""
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, b"\0\0\0\0")
    ours = (uapi.SOL_TLS, uapi.TLS_GET_RECORD_TYPE, b"\x16")
    assert ulp.record_type([rights, ours]) == ContentType.handshake
    for others in (
        [],
        [rights],
        [(uapi.SOL_TLS, 9, b"\x16")],
        [(uapi.SOL_TLS, uapi.TLS_GET_RECORD_TYPE, b"")],
    ):
        assert ulp.record_type(others) is None


# -- a real kernel: TCP_ULP (kernel.md 1.2)


@needs_ktls
@pytest.mark.parametrize("state", ["unconnected", "listening", "peer closed", "half-closed"])
def test_attach_outside_established(tcp_pair: Pair, state: str) -> None:
    """ENOTCONN in every state but ESTABLISHED."""
    ours, theirs = tcp_pair
    with closing(socket.socket()) as fresh:
        if state == "listening":
            fresh.listen()
        elif state == "peer closed":
            theirs.shutdown(socket.SHUT_WR)
            assert ours.recv(1) == b""
        elif state == "half-closed":
            ours.shutdown(socket.SHUT_WR)
        sock = fresh if state in {"unconnected", "listening"} else ours
        with pytest.raises(KtlsUnavailable) as raised:
            ulp.attach(sock)
    assert raised.value.errno == errno.ENOTCONN
    assert raised.value.code == "not-established"


@needs_ktls
def test_attach_twice(tcp_pair: Pair) -> None:
    """EEXIST, and the error names the ULP."""
    sock, _ = tcp_pair
    ulp.attach(sock)
    assert ulp.ulp_name(sock) == "tls"
    with pytest.raises(ConfigError, match=r'EEXIST.*"tls"'):
        ulp.attach(sock)


@needs_ktls
def test_attach_to_mptcp() -> None:
    """A Multipath TCP socket has a ULP of its own."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP)) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP)) as ours:
            ours.connect(listener.getsockname())
            theirs, _ = listener.accept()
            with closing(theirs):
                for sock in (ours, theirs):
                    with pytest.raises(KtlsUnavailable) as raised:
                        ulp.attach(sock)
                    assert raised.value.code == "mptcp"


@needs_ktls
def test_attach_to_a_unix_socket() -> None:
    """EOPNOTSUPP."""
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs), pytest.raises(KtlsUnavailable) as raised:
        ulp.attach(ours)
    assert raised.value.code == "not-tcp"


@needs_ktls
def test_keyless_ulp_is_plain_tcp(tcp_pair: Pair) -> None:
    """The relay works over it, so that attaching early costs nothing."""
    ours, theirs = tcp_pair
    ulp.attach(ours)
    ours.sendall(b"plain")
    assert theirs.recv(9) == b"plain"
    theirs.sendall(b"text")
    assert ours.recv(9) == b"text"


@needs_ktls
def test_attached_before_the_peers_fin(tcp_pair: Pair) -> None:
    """Then both keys can still be installed behind it."""
    ours, theirs = tcp_pair
    ulp.attach(ours)
    theirs.shutdown(socket.SHUT_WR)
    keys = make_keys()
    ulp.install(ours, Direction.RX, keys)
    ulp.install(ours, Direction.TX, keys)
    ours.sendall(b"data")
    assert open_record(keys, 0, theirs.recv(100)) == (ContentType.application_data, b"data")


# -- a real kernel: keys (kernel.md 1.3)


@needs_ktls
@pytest.mark.parametrize("direction", Direction)
def test_key_without_ulp(tcp_pair: Pair, direction: Direction) -> None:
    """ENOPROTOOPT."""
    with pytest.raises(KtlsUnavailable) as raised:
        ulp.install(tcp_pair[0], direction, make_keys())
    assert raised.value.errno == errno.ENOPROTOOPT


@needs_ktls
@pytest.mark.parametrize("direction", Direction)
def test_second_key(tcp_pair: Pair, direction: Direction) -> None:
    """TLS 1.3 takes it where the kernel can rekey; EBUSY otherwise, and always in TLS 1.2."""
    for sock, suite in zip(tcp_pair, (GCM_13, GCM_12), strict=True):
        ulp.attach(sock)
        ulp.install(sock, direction, make_keys(suite))
        if suite is GCM_13 and capabilities().rekey:
            ulp.install(sock, direction, make_keys(suite))
            continue
        with pytest.raises(RekeyUnsupported) as raised:
            ulp.install(sock, direction, make_keys(suite))
        assert raised.value.errno == errno.EBUSY


@needs_ktls
@pytest.mark.parametrize("other", [GCM_12, CHACHA_13])
def test_directions_must_agree(tcp_pair: Pair, other: CipherSuite) -> None:
    """EINVAL for another version or cipher; the right one is taken afterwards."""
    sock, _ = tcp_pair
    ulp.attach(sock)
    ulp.install(sock, Direction.RX, make_keys(GCM_13))
    with pytest.raises(KtlsUnavailable) as raised:
        ulp.install(sock, Direction.TX, make_keys(other))
    assert raised.value.errno == errno.EINVAL
    assert not ulp.is_keyed(sock, Direction.TX)
    ulp.install(sock, Direction.TX, make_keys(GCM_13))
    assert ulp.is_keyed(sock, Direction.TX)


@needs_ktls
def test_malformed_struct(tcp_pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """EINVAL for a wrong length, an unknown version and an unknown cipher; a retry succeeds."""
    sock, _ = tcp_pair
    ulp.attach(sock)
    good = pack(make_keys())
    for bad in (
        good[:-1],
        good + b"\0",
        good[:3],
        b"\x05\x03" + good[2:],
        good[:2] + b"\xff\0" + good[4:],
    ):
        monkeypatch.setattr(ulp, "pack", lambda _keys, packed=bad: bytearray(packed))
        with pytest.raises(KtlsUnavailable) as raised:
            ulp.install(sock, Direction.TX, make_keys())
        assert raised.value.errno == errno.EINVAL
    monkeypatch.undo()
    ulp.install(sock, Direction.TX, make_keys())


@needs_ktls
@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
def test_kernel_and_userspace_agree(tcp_pair: Pair, suite: CipherSuite) -> None:
    """What the kernel seals we open, and the other way round, from any sequence number on."""
    ours, theirs = tcp_pair
    tx, rx = make_keys(suite, 7), make_keys(suite, 2**32)
    ulp.attach(ours)
    ulp.install(ours, Direction.RX, rx)
    ulp.install(ours, Direction.TX, tx)
    for number, payload in enumerate((b"one", b"two")):
        ours.sendall(payload)
        record = theirs.recv(200)
        assert open_record(tx, 7 + number, record) == (ContentType.application_data, payload)
        theirs.sendall(data(rx, 2**32 + number, payload))
        assert ulp.recv_record(ours, 9) == (ContentType.application_data, payload, True)


class _Keyed(socket.socket):
    """A socket that has a key, and keeps what it returns of it."""

    def __init__(self) -> None:
        super().__init__()
        self.returned: list[bytes] = []
        self.installed = b""

    def getsockopt(self, *_: int) -> bytes:  # type: ignore[override]
        self.returned.append(bytes(pack(make_keys(seq=5))))
        return self.returned[-1]

    def setsockopt(self, *args: Any) -> None:
        self.installed = bytes(bytearray(args[2]))


@needs_ktls
def test_next_seq(tcp_pair: Pair) -> None:
    """It counts records in each direction from where the key began."""
    ours, theirs = tcp_pair
    tx, rx = make_keys(seq=5), make_keys(seq=9)
    ulp.attach(ours)
    with pytest.raises(OSError, match=os.strerror(errno.EBUSY)):
        ulp.next_seq(ours, Direction.TX, Aead.AES_GCM_128)
    ulp.install(ours, Direction.RX, rx)
    ulp.install(ours, Direction.TX, tx)
    assert ulp.next_seq(ours, Direction.TX, Aead.AES_GCM_128) == 5
    assert ulp.next_seq(ours, Direction.RX, Aead.AES_GCM_128) == 9
    ours.sendall(b"a")
    ours.sendall(bytes(2**14 + 1))
    ulp.send_record(ours, ContentType.alert, b"\1\0")
    assert ulp.next_seq(ours, Direction.TX, Aead.AES_GCM_128) == 9
    theirs.sendall(data(rx, 9, b"a") + data(rx, 10, b"b"))
    received = b""
    while len(received) < 2:
        record = ulp.recv_record(ours, 9)
        assert record is not None
        received += record.payload
    assert ulp.next_seq(ours, Direction.RX, Aead.AES_GCM_128) == 11
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        ulp.next_seq(ours, Direction.RX, Aead.AES_GCM_256)


def test_keys_that_the_kernel_returns_are_wiped() -> None:
    """The whole key comes along with the number, and is not left in memory."""
    with _Keyed() as sock:
        assert ulp.next_seq(sock, Direction.TX, Aead.AES_GCM_128) == 5
        ulp.reinstall(sock, Direction.TX, Aead.AES_GCM_128)
        assert sock.installed[-8:] == bytes(7) + b"\5"
        assert [any(each) for each in sock.returned] == [False, False]


@needs_ktls
def test_limit_payload(tcp_pair: Pair) -> None:
    """Records stay at or below the limit, where the kernel has it."""
    ours, theirs = tcp_pair
    keys = make_keys()
    ulp.attach(ours)
    if not ulp.can_limit_payload(ours):
        with pytest.raises(KtlsUnavailable) as raised:
            ulp.limit_payload(ours, 512)
        assert raised.value.errno == errno.ENOPROTOOPT
        return
    ulp.limit_payload(ours, 512)
    ulp.install(ours, Direction.TX, keys)
    ours.sendall(bytes(1200))
    stream = b""
    while len(stream) < 1200 + 3 * 22:
        stream += theirs.recv(9999)
    lengths: list[int] = []
    while stream:
        length = 5 + int.from_bytes(stream[3:5], "big")
        record, stream = stream[:length], stream[length:]
        lengths.append(len(open_record(keys, len(lengths), record)[1]))
    assert lengths == [512, 512, 176]


# -- a real kernel: records (kernel.md 3)

Keyed = tuple[socket.socket, socket.socket, TrafficKeys]


@needs_ktls
def test_control_record(keyed: Keyed) -> None:
    """Plain recv refuses it with EIO and leaves it; recv_record gives it in pieces, then whole."""
    sender, receiver, _ = keyed
    sender.sendall(b"data")
    ulp.send_record(sender, ContentType.handshake, b"\x04message")
    assert receiver.recv(100) == b"data"
    for _ in range(2):
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            receiver.recv(100)
    assert ulp.recv_record(receiver, 3) == (ContentType.handshake, b"\x04me", False)
    assert ulp.recv_record(receiver, 100) == (ContentType.handshake, b"ssage", True)
    sender.shutdown(socket.SHUT_WR)
    assert ulp.recv_record(receiver, 100) is None
    assert ulp.recv_record_into(receiver, memoryview(bytearray(9))) == (None, 0, False)


@needs_ktls
def test_receiving_into_a_buffer(keyed: Keyed) -> None:
    """It gives the same as recv_record."""
    sender, receiver, _ = keyed
    sender.sendall(b"data")
    ulp.send_record(sender, ContentType.alert, b"\1\0")
    buffer = bytearray(9)
    assert ulp.recv_record_into(receiver, memoryview(buffer))[:2] == (
        ContentType.application_data,
        4,
    )
    assert buffer[:4] == b"data"
    assert ulp.recv_record_into(receiver, memoryview(buffer)) == (ContentType.alert, 2, True)


@needs_ktls
def test_nothing_there(keyed: Keyed) -> None:
    """BlockingIOError, as any socket."""
    _, receiver, _ = keyed
    receiver.settimeout(None)  # with a timeout Python would wait, whatever the flags
    with pytest.raises(BlockingIOError):
        ulp.recv_record(receiver, 9, socket.MSG_DONTWAIT)


@needs_ktls
@pytest.mark.parametrize(
    ("fault", "alert"),
    [
        ("flipped bit", AlertDescription.bad_record_mac),
        ("plain alert", AlertDescription.bad_record_mac),
        ("no content type", AlertDescription.bad_record_mac),
        ("too long", AlertDescription.record_overflow),
        ("not TLS", AlertDescription.protocol_version),
    ],
)
def test_bad_record(receiving: Keyed, fault: str, alert: AlertDescription) -> None:
    """Good records come first; then the fault has its alert, which can be sent."""
    sender, receiver, keys = receiving
    ulp.install(receiver, Direction.TX, keys)
    bad = {
        "flipped bit": flipped(data(keys, 1, b"x")),
        "plain alert": encode_record(ContentType.alert, b"\2\x28"),
        "no content type": _sealed_zeros(keys, 1),
        "too long": b"\x17\x03\x03\x48\x01",
        "not TLS": b"GET / HTTP/1.0\r\n",
    }[fault]
    sender.sendall(data(keys, 0, b"good") + bad)
    record = ulp.recv_record(receiver, 99)
    assert record is not None
    assert record.payload == b"good"
    with pytest.raises(PeerMisbehaved) as raised:
        ulp.recv_record(receiver, 99)
    assert raised.value.alert is alert
    ulp.send_record(receiver, ContentType.alert, bytes([2, alert]))
    assert open_record(keys, 0, sender.recv(99)) == (ContentType.alert, bytes([2, alert]))


def _sealed_zeros(keys: TrafficKeys, seq: int) -> bytes:
    """Seal a TLS 1.3 record whose inner plaintext is nothing but padding."""
    header = b"\x17\x03\x03\x00\x11"
    nonce = (int.from_bytes(keys.iv, "big") ^ seq).to_bytes(IV_LENGTH, "big")
    return header + AESGCM(bytes(keys.key)).encrypt(nonce, b"\0", header)


@needs_ktls
def test_key_update_pending(receiving: Keyed) -> None:
    """Where the kernel can rekey, reading past a KeyUpdate is our bug, and said so."""
    sender, receiver, keys = receiving
    receiver.settimeout(None)  # with a timeout Python would poll, and poll is silent
    update = b"\x18\0\0\1\0"
    sender.sendall(seal_record(keys, 0, ContentType.handshake, update) + data(keys, 1, b"x"))
    assert ulp.recv_record(receiver, 99) == (ContentType.handshake, update, True)
    if not capabilities().rekey:
        assert ulp.recv_record(receiver, 99) == (ContentType.application_data, b"x", True)
        return
    with pytest.raises(TlsifyError, match="EKEYEXPIRED"):
        ulp.recv_record(receiver, 99)


@needs_ktls
def test_poll_is_silent_on_nothing(keyed: Keyed) -> None:
    """A keyed socket without bytes is not readable; with a record it is."""
    sender, receiver, _ = keyed
    poller = select.poll()
    poller.register(receiver, select.POLLIN)
    assert not poller.poll(0)
    sender.sendall(b"x")
    assert poller.poll(5000)


# -- a real kernel: its own counters


@needs_ktls
def test_counters(tcp_pair: Pair) -> None:
    """Each installed direction counts once, a good connection has no error, a bad one has."""
    before = diag.tls_stat()
    sender, receiver = tcp_pair
    keys = make_keys()
    for sock, direction in ((sender, Direction.TX), (receiver, Direction.RX)):
        ulp.attach(sock)
        ulp.install(sock, direction, keys)
    sender.sendall(b"good")
    assert ulp.recv_record(receiver, 9) == (ContentType.application_data, b"good", True)
    after = diag.tls_stat()
    delta = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    assert delta == {"TlsTxSw": 1, "TlsRxSw": 1, "TlsCurrTxSw": 1, "TlsCurrRxSw": 1}
    ulp.install(sender, Direction.RX, keys)
    ulp.install(receiver, Direction.TX, make_keys())
    receiver.sendall(b"under another key")
    with pytest.raises(PeerMisbehaved):
        ulp.recv_record(sender, 9)
    assert diag.tls_stat()["TlsDecryptError"] == before["TlsDecryptError"] + 1


@needs_ktls
def test_socket_info(tcp_pair: Pair) -> None:
    """sock_diag shows the ULP, then version, cipher and directions as they are keyed."""
    sock, _ = tcp_pair
    assert diag.socket_info(sock).ulp is None
    ulp.attach(sock)
    seen = diag.socket_info(sock).ulp
    assert seen is not None
    assert (seen.name, seen.version, seen.tx, seen.rx) == ("tls", None, "none", "none")
    ulp.install(sock, Direction.RX, make_keys(CHACHA_13))
    seen = diag.socket_info(sock).ulp
    assert seen is not None
    assert (seen.tx, seen.rx) == ("none", "kernel")
    ulp.install(sock, Direction.TX, make_keys(CHACHA_13))
    seen = diag.socket_info(sock).ulp
    assert seen == diag.UlpInfo(
        "tls", ProtocolVersion.TLSv1_3, Aead.CHACHA20_POLY1305, "kernel", "kernel"
    )
