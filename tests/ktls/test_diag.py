"""Tests of diag."""

from __future__ import annotations

import os
import socket
import struct
import sys
from contextlib import closing
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlsify.codepoints import Aead, ProtocolVersion
from tlsify.ktls import diag, uapi
from tlsify.ktls.diag import (
    SocketEntry,
    UlpInfo,
    list_sockets,
    socket_info,
    tls_features,
    tls_stat,
)

if TYPE_CHECKING:
    from pathlib import Path

SocketPair = tuple[socket.socket, socket.socket]


def attribute(kind: int, value: bytes) -> bytes:
    """Build one netlink attribute, padded."""
    length = 4 + len(value)
    return struct.pack("=HH", length, kind) + value + bytes(-length % 4)


def number(kind: int, value: int) -> bytes:
    """Build an attribute that holds a u16."""
    return attribute(kind, value.to_bytes(2, sys.byteorder))


def nest(version: int, cipher: int, tx: int, rx: int) -> bytes:
    """Build INET_DIAG_ULP_INFO as the kernel does for a kTLS socket."""
    info = (
        number(uapi.TLS_INFO_VERSION, version)
        + number(uapi.TLS_INFO_CIPHER, cipher)
        + number(uapi.TLS_INFO_TXCONF, tx)
        + number(uapi.TLS_INFO_RXCONF, rx)
    )
    return attribute(1, b"tls\0") + attribute(2 | 0x8000, info)


def message(family: int, addresses: tuple[bytes, bytes], attributes: bytes = b"") -> bytes:
    """Build a struct inet_diag_msg and what follows it."""
    source, destination = (a.ljust(16, b"\0") for a in addresses)
    return (
        struct.pack("=BBBB", family, 1, 0, 0)
        + struct.pack("!HH", 443, 50000)
        + source
        + destination
        + struct.pack("=III", 0, 1, 2)
        + struct.pack("=IIIII", 0, 0, 0, 1000, 4711)
        + attributes
    )


LOOPBACK = (b"\x7f\0\0\1", b"\x7f\0\0\2")


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=20)), max_size=6))
def test_attributes(pairs: list[tuple[int, bytes]]) -> None:
    """Attributes come out as they went in, whatever their padding and flags."""
    data = b"".join(attribute(kind | 0x8000, value) for kind, value in pairs)
    assert list(diag.attributes(data)) == pairs


@given(st.binary(max_size=80))
def test_arbitrary_attributes(data: bytes) -> None:
    """Arbitrary bytes end the iteration, and never it goes on for ever."""
    assert sum(4 for _ in diag.attributes(data)) <= len(data)


@given(st.binary(max_size=80))
def test_arbitrary_ulp_info(data: bytes) -> None:
    """Arbitrary bytes give some information or none."""
    assert isinstance(diag.parse_ulp(data), UlpInfo)


@given(st.binary(max_size=300))
def test_arbitrary_tcp_info(data: bytes) -> None:
    """Arbitrary bytes give numbers, or nothing where an old kernel says less."""
    assert (diag.parse_traffic(data) is None) is (len(data) < 208)


def test_traffic_is_that_of_the_kernel(tcp_pair: SocketPair) -> None:
    """The numbers stand where the running kernel puts them."""
    ours, theirs = tcp_pair
    ours.sendall(bytes(12345))
    assert theirs.recv(12345, socket.MSG_WAITALL)
    traffic = diag.parse_traffic(ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 512))
    assert traffic is not None
    assert (traffic.sent, traffic.received) == (12345, 0)
    assert traffic.acknowledged <= 12345 + 1  # the SYN's
    assert 0 <= traffic.idle < 60


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        (
            (0x0304, 51, uapi.TLS_CONF_SW, uapi.TLS_CONF_SW),
            UlpInfo("tls", ProtocolVersion.TLSv1_3, Aead.AES_GCM_128, "kernel", "kernel"),
        ),
        (
            (0x0303, 54, uapi.TLS_CONF_HW, uapi.TLS_CONF_BASE),
            UlpInfo("tls", ProtocolVersion.TLSv1_2, Aead.CHACHA20_POLY1305, "device", "none"),
        ),
        ((0, 0, uapi.TLS_CONF_BASE, uapi.TLS_CONF_BASE), UlpInfo("tls")),
        ((0x0304, 55, 2, 9), UlpInfo("tls", ProtocolVersion.TLSv1_3, None, "kernel", "none")),
    ],
)
def test_ulp_info(numbers: tuple[int, int, int, int], expected: UlpInfo) -> None:
    """Version, cipher and modes are read; what is unknown is not guessed."""
    assert diag.parse_ulp(nest(*numbers)) == expected


def test_another_ulp() -> None:
    """A socket of another protocol is told by its name."""
    assert diag.parse_ulp(attribute(1, b"mptcp\0")) == UlpInfo("mptcp")


def test_entry() -> None:
    """Addresses, ports, owner, inode and ULP stand where the kernel puts them."""
    attributes = attribute(2, bytes(8)) + attribute(19, nest(0x0304, 52, 2, 2))
    assert diag.parse_entry(message(socket.AF_INET, LOOPBACK, attributes)) == SocketEntry(
        ("127.0.0.1", 443),
        ("127.0.0.2", 50000),
        4711,
        1000,
        UlpInfo("tls", ProtocolVersion.TLSv1_3, Aead.AES_GCM_256, "kernel", "kernel"),
    )


def test_traffic_of_an_entry() -> None:
    """What TCP has carried is told of a socket with a ULP, and not worked out for the others."""
    info = bytes(44) + struct.pack("=IIII", 1500, 0, 2500, 9) + bytes(60)
    info += struct.pack("=QQ", 30, 20) + bytes(64) + struct.pack("=Q", 40)
    told = attribute(2, info)
    with_ulp = diag.parse_entry(
        message(socket.AF_INET, LOOPBACK, told + attribute(19, nest(0x0304, 51, 2, 2)))
    )
    assert with_ulp.traffic == diag.Traffic(sent=40, acknowledged=30, received=20, idle=1.5)
    without = message(socket.AF_INET, LOOPBACK, told)
    assert diag.parse_entry(without).traffic is None
    pair = (with_ulp.local, with_ulp.remote)
    assert diag.parse_entry(without, {pair}).traffic == with_ulp.traffic


def test_entry_of_ipv6() -> None:
    """An IPv6 socket has sixteen bytes of address."""
    one = b"\0" * 15 + b"\1"
    entry = diag.parse_entry(message(socket.AF_INET6, (one, one)))
    assert entry.local == ("::1", 443)
    assert entry.ulp is None


class FakeNetlink:
    """Gives prepared answers in place of the kernel."""

    def __init__(self, answers: list[bytes]) -> None:
        """Store the datagrams to return, in order."""
        self._answers = answers
        self.closed = False

    def send(self, request: bytes) -> None:
        """Check the request's own length."""
        assert struct.unpack_from("=I", request)[0] == len(request)

    def recv(self, size: int) -> bytes:
        """Return the next datagram."""
        assert size
        return self._answers.pop(0)

    def close(self) -> None:
        """Remember it."""
        self.closed = True


def netlink_message(kind: int, body: bytes) -> bytes:
    """Build one netlink message, padded."""
    length = 16 + len(body)
    return struct.pack("=IHHII", length, kind, 0, 1, 0) + body + bytes(-length % 4)


def _answer(monkeypatch: pytest.MonkeyPatch, *datagrams: bytes) -> FakeNetlink:
    fake = FakeNetlink(list(datagrams))
    monkeypatch.setattr(socket, "socket", lambda *_: fake)
    return fake


def test_dump_over_several_datagrams(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dump is read to its end, and the netlink socket closed."""
    one = netlink_message(20, message(socket.AF_INET, LOOPBACK))
    fake = _answer(monkeypatch, one + one, one, netlink_message(3, bytes(4)))
    assert len(list(list_sockets(socket.AF_INET))) == 3
    assert fake.closed


def test_kernel_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's errno is raised as it is."""
    error = (-13).to_bytes(4, sys.byteorder, signed=True)
    fake = _answer(monkeypatch, netlink_message(2, error))
    with pytest.raises(PermissionError):
        list(list_sockets(socket.AF_INET))
    assert fake.closed


@pytest.mark.parametrize("length", [0, 4, 15])
def test_message_of_an_impossible_length(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    """A message that claims to be shorter than its header is an error, not an endless loop."""
    broken = struct.pack("=IHHII", length, 20, 0, 1, 0) + message(socket.AF_INET, LOOPBACK)
    _answer(monkeypatch, broken)
    with pytest.raises(OSError, match="sock_diag"):
        list(list_sockets(socket.AF_INET))


# -- the real kernel


def _has_sock_diag() -> bool:
    try:
        list(list_sockets(socket.AF_INET))
    except OSError:
        return False
    return True


needs_sock_diag = pytest.mark.skipif(not _has_sock_diag(), reason="no sock_diag here")


@needs_sock_diag
def test_real_socket(tcp_pair: SocketPair) -> None:
    """The kernel tells of a real socket what Python knows of it."""
    ours, theirs = tcp_pair
    entry = socket_info(ours)
    assert entry.local == ours.getsockname()
    assert entry.remote == theirs.getsockname()
    assert entry.inode == os.fstat(ours.fileno()).st_ino
    assert entry.uid == os.getuid()
    assert entry.ulp in {None, UlpInfo("")}


@needs_sock_diag
def test_real_socket_in_the_listing(tcp_pair: SocketPair) -> None:
    """The listing has both ends of a connection."""
    inodes = {os.fstat(sock.fileno()).st_ino for sock in tcp_pair}
    assert inodes <= {entry.inode for entry in list_sockets(socket.AF_INET)}


@needs_sock_diag
@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_real_ipv6_socket() -> None:
    """IPv6 sockets are found as well, be they scoped or not."""
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 on the loopback interface")
    with closing(listener), socket.create_connection(listener.getsockname()[:2]) as ours:
        assert socket_info(ours).local == ours.getsockname()[:2]


def test_socket_that_is_not_connected() -> None:
    """There is nothing to ask about a socket without a peer."""
    with closing(socket.socket()) as sock, pytest.raises(OSError, match="not connected"):
        socket_info(sock)


# -- counters and devices


def test_counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line is a name and a number."""
    path = tmp_path / "tls_stat"
    path.write_text("TlsCurrTxSw                     \t3\nTlsDecryptError \t0\n")
    monkeypatch.setattr(diag, "TLS_STAT", path)
    assert tls_stat() == {"TlsCurrTxSw": 3, "TlsDecryptError": 0}


def test_no_counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the module there are none."""
    monkeypatch.setattr(diag, "TLS_STAT", tmp_path / "absent")
    assert tls_stat() == {}


def test_devices() -> None:
    """The loopback interface protects nothing."""
    try:
        assert "lo" not in [device.name for device in tls_features()]
    except OSError:
        pytest.skip("no generic netlink here")


def test_features() -> None:
    """What is on, what could be, and what is not there at all."""
    assert diag.feature(None) == "none"
    assert diag.feature(SimpleNamespace(enable=False, available=False)) == "none"
    assert diag.feature(SimpleNamespace(enable=False, available=True)) == "off"
    assert diag.feature(SimpleNamespace(enable=True, available=False)) == "on"
    features = dict(zip(diag.TLS_FEATURES, ("on", "off", "none"), strict=True))
    device = diag.Device("eth0", features)
    assert str(device) == "eth0: tls-hw-tx-offload on, tls-hw-rx-offload off"
