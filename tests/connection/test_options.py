"""Tests of options."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

import pytest

from tests.doubles import KERNEL, OFFLOADS, Lab
from tlsify.connection.handoff import Offload

if TYPE_CHECKING:
    from tlsify.config import KtlsPolicy

pytestmark = pytest.mark.each_kernel

both = pytest.mark.parametrize("policy", OFFLOADS)


@both
def test_tcp_options(lab: Lab, policy: KtlsPolicy) -> None:
    """They are set on the connection, wherever it is; after its end nobody minds."""
    stream, peer = lab.stream(policy)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    relay = stream.handoff.relay
    below = stream if relay is None else relay.network
    assert below is not None
    assert below.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    for option in (
        (socket.IPPROTO_TCP, socket.TCP_INFO, 1),
        (socket.IPPROTO_IP, socket.IP_TOS),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
        (socket.SOL_SOCKET, socket.SO_DOMAIN),
    ):
        assert stream.getsockopt(*option) == below.getsockopt(*option)
    assert (stream.family, stream.proto) == (socket.AF_INET, socket.IPPROTO_TCP)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**16)
    if relay is not None:
        peer.close_notify()
        peer.sock.close()
        stream.shutdown(socket.SHUT_RDWR)
        assert relay.join(20)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)


@both
@pytest.mark.parametrize(
    ("level", "option", "value", "number"),
    [
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 0, errno.EINVAL),
        (socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bogus", errno.ENOENT),
        (socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1, errno.EINVAL),
        (socket.IPPROTO_TCP, 9999, 1, errno.ENOPROTOOPT),
        (socket.IPPROTO_IP, socket.IP_TTL, 5000, errno.EINVAL),
    ],
)
def test_refused_options(
    lab: Lab, policy: KtlsPolicy, level: int, option: int, value: int | bytes, number: int
) -> None:
    """What the kernel refuses is an error, wherever the connection is."""
    stream, _peer = lab.stream(policy)
    with pytest.raises(OSError, match="Errno") as caught:
        stream.setsockopt(level, option, value)
    assert caught.value.errno == number


@both
def test_addresses(lab: Lab, policy: KtlsPolicy) -> None:
    """They are the TCP connection's, whoever holds it."""
    stream, peer = lab.stream(policy)
    assert stream.getpeername() == peer.sock.getsockname()
    assert stream.getsockname() == peer.sock.getpeername()


@both
def test_dup(lab: Lab, policy: KtlsPolicy) -> None:
    """A second object on the same records is refused."""
    stream, _peer = lab.stream(policy)
    with pytest.raises(NotImplementedError):
        stream.dup()
    assert stream.offload is (Offload.KERNEL if policy is KERNEL else Offload.RELAY)
