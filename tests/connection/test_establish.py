"""Tests of establish: kernel or relay, the order of the commit, what a failure leaves behind."""

from __future__ import annotations

import select
import socket
from typing import Any

import pytest

from tests.doubles import (
    KERNEL,
    OFFLOADS,
    RELAY,
    Endpoint,
    Lab,
    Middleman,
    read,
    reset,
    until,
)
from tests.want import Want
from tlsify.config import KtlsPolicy
from tlsify.connection.ending.patience import tcp_progress
from tlsify.connection.establish import PendingConnection, accept, connect
from tlsify.connection.handoff import Offload
from tlsify.connection.relay import threads as relay_threads
from tlsify.connection.stream import TLSSocket
from tlsify.errors import (
    ConfigError,
    KtlsUnavailable,
    ResourceError,
    Truncated,
)
from tlsify.ktls import ulp
from tlsify.ktls.probe import capabilities
from tlsify.tls.engine import Engine
from tlsify.tls.record import split_records

pytestmark = pytest.mark.each_kernel

AUTO = KtlsPolicy()
_CLOSE_WAIT = 8  # of include/net/tcp_states.h


@pytest.mark.parametrize("timeout", [None, 0.5])
@pytest.mark.parametrize("policy", OFFLOADS)
def test_timeout_stays(lab: Lab, policy: KtlsPolicy, timeout: float | None) -> None:
    """The socket's own timeout is that of the connection, on either carrier."""
    ours, theirs = lab.tcp()
    client, server = lab.configs()
    other = Endpoint(lambda: accept(theirs, server, policy))
    ours.settimeout(timeout)
    with connect(ours, client, policy) as handed, other.result():
        assert handed.sock.gettimeout() == timeout
        stream = TLSSocket(handed)
        assert stream.gettimeout() == timeout


def test_configuration_of_the_other_role(lab: Lab) -> None:
    """It is refused, as is anything that is none: both sides would wait for a ClientHello."""
    ours, theirs = lab.tcp()
    client, server = lab.configs()
    cases: tuple[tuple[Any, Any], ...] = ((connect, server), (accept, client), (connect, None))
    for establish, config in cases:
        with pytest.raises(ConfigError, match=r"requires a (Client|Server)Config, not "):
            establish(ours, config)
    assert ours.fileno() != -1
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        theirs.recv(1)


@pytest.mark.parametrize("policy", OFFLOADS)
@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02"], ids=["nothing", "a part"])
def test_client_that_leaves_at_once(lab: Lab, policy: KtlsPolicy, said: bytes) -> None:
    """It has ended the handshake: that the kernel takes no such connection is beside the point."""
    ours, theirs = lab.tcp()
    ours.sendall(said)
    ours.shutdown(socket.SHUT_WR)
    until(lambda: tcp_progress(theirs).state == _CLOSE_WAIT)
    with pytest.raises(Truncated):
        accept(theirs, lab.configs()[1], policy)


# -- the decision


without_ktls = pytest.mark.skipif(
    capabilities().refusal is None, reason="this kernel has what the test wants to be missing"
)


@without_ktls
def test_kernel_required_where_there_is_none(lab: Lab) -> None:
    """--ktls=require refuses before a byte is sent, and closes the socket."""
    ours, theirs = lab.tcp()
    with pytest.raises(KtlsUnavailable) as raised:
        connect(ours, lab.configs()[0], KERNEL)
    assert raised.value.code == "no-tls-ulp"
    assert ours.fileno() == -1
    assert theirs.recv(1) == b""


@without_ktls
def test_relay_says_why(lab: Lab) -> None:
    """A fallback carries the kernel's reason with it."""
    client, server = lab.pair(AUTO)
    assert client.offload is server.offload is Offload.RELAY
    assert client.reason is not None
    assert client.reason.code == "no-tls-ulp"


def test_kernel_switched_off(lab: Lab) -> None:
    """The policy is a reason like any other, and the hand-off stays usable."""
    client, _server = lab.pair(RELAY)
    assert client.reason is not None
    assert client.reason.code == "policy-off"
    assert client.channel is None
    assert not client.peer_closed


@pytest.mark.ktls
def test_kernel_as_a_matter_of_course(lab: Lab) -> None:
    """Without any policy the kernel takes what it can."""
    client, server = lab.pair(AUTO)
    assert client.offload is server.offload is Offload.KERNEL
    assert client.reason is None


@pytest.mark.ktls
def test_socket_that_has_a_ulp_already(lab: Lab) -> None:
    """Somebody else's keys may be on it, so it is refused, and left as it was."""
    ours, _theirs = lab.tcp()
    ulp.attach(ours)
    with pytest.raises(ConfigError, match="in the kernel"):
        connect(ours, lab.configs()[0], AUTO)
    with pytest.raises(ConfigError, match="EEXIST"):
        PendingConnection(ours, lab.configs()[0], AUTO)
    assert ours.fileno() != -1


@pytest.mark.ktls
def test_client_that_has_gone(lab: Lab) -> None:
    """Who has reset the connection is blamed, and not the kernel that takes none such."""
    ours, theirs = lab.tcp()
    reset(ours)
    until(lambda: select.select([theirs], [], [], 0)[0])
    with pytest.raises(ConnectionResetError):
        accept(theirs, lab.configs()[1], KERNEL)
    assert theirs.fileno() == -1


@pytest.mark.parametrize("policy", OFFLOADS)
def test_peer_that_has_gone(lab: Lab, policy: KtlsPolicy) -> None:
    """A connection that was reset has been one: its own error is raised, on either side of it."""
    client, server = lab.configs()
    for is_client in (True, False):
        ours, theirs = lab.tcp()
        sock, other = (ours, theirs) if is_client else (theirs, ours)
        reset(other)
        assert select.select([sock], [], [], 20)[0]
        with pytest.raises(ConnectionError):
            connect(sock, client, policy) if is_client else accept(sock, server, policy)


def test_framing_of_what_the_middleman_sees(lab: Lab) -> None:
    """Even the relay's last byte is a whole record, so nothing unprotected can hide behind it."""
    ours, left = lab.tcp()
    right, theirs = lab.tcp()
    middleman = Middleman(left, right)
    client_config, server_config = lab.configs()
    other = Endpoint(lambda: accept(theirs, server_config, RELAY))
    client = lab.keep(connect(ours, client_config, RELAY))
    server = lab.keep(other.result())
    server.sock.sendall(b"data")
    assert read(client) == b"data"
    server.close()
    client.close()
    middleman.join()
    for seen in (middleman.from_left, middleman.from_right):
        assert b"".join(split_records(bytes(seen))) == bytes(seen)


def test_no_thread_for_a_relay(lab: Lab) -> None:
    """It fails before the handshake: the peer gets no answer to its ClientHello."""
    until(lambda: not any(each.is_running for each in relay_threads._threads))
    ours, theirs = lab.tcp()
    client, server = lab.configs()
    ours.sendall(Engine(client).output())
    with Want("thread", 1), pytest.raises(ResourceError, match="no thread to relay") as caught:
        accept(theirs, server, RELAY)
    assert "ulimit -u" in caught.value.hint
    with pytest.raises(ConnectionResetError):
        ours.recv(1)
