"""Tests of keepalive: which sockets have it, and peers that have vanished."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from typing import TYPE_CHECKING

import pytest

from tests.doubles import KERNEL, OFFLOADS, RELAY, Endpoint, RawPeer, vanish
from tlsify.aio import dialing
from tlsify.aio.acceptor import Acceptor
from tlsify.aio.handshake import hand_over
from tlsify.connection.establish import accept, connect
from tlsify.connection.setup import keepalive
from tlsify.connection.setup.keepalive import keep_alive
from tlsify.connection.stream import TLSSocket
from tlsify.sslcontext.context import SSLContext

if TYPE_CHECKING:
    from tests.doubles import Lab
    from tlsify.config import KtlsPolicy
    from tlsify.connection.handoff import Handoff

both = pytest.mark.parametrize("policy", OFFLOADS)


def network(handed: Handoff) -> socket.socket:
    """Return the socket that is connected to the peer."""
    below = handed.sock if handed.relay is None else handed.relay.network
    assert below is not None
    return below


def times(sock: socket.socket) -> tuple[int, ...]:
    """Return what is set: whether, and by which times; and how long unacknowledged data may be."""
    names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
    found = [sock.getsockopt(socket.IPPROTO_TCP, name) for name in names]
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)), *found


OURS = (True, 60, 15, 4, 0)


@both
def test_connect_and_accept(lab: Lab, policy: KtlsPolicy) -> None:
    """Both have it, two minutes in all, on the socket that is the network's."""
    for handed in lab.pair(policy):
        assert times(network(handed)) == OURS


@both
def test_on_a_loop(lab: Lab, policy: KtlsPolicy) -> None:
    """So has what `tlsify.aio` hands over, and what it connects to."""

    async def run() -> None:
        ours, theirs = lab.tcp()
        client, server = lab.configs()
        other = Endpoint(lambda: RawPeer(ours, client))
        handed = lab.keep(await hand_over(theirs, server, policy))
        other.result()
        assert times(network(handed)) == OURS
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            await dialing.connect(*listener.getsockname()) as sock,
        ):
            assert times(sock) == OURS

    asyncio.run(run())


def test_accepted(lab: Lab) -> None:
    """What a server accepts has it already, from the socket that listens."""

    async def serve(_: Handoff) -> None:
        raise AssertionError

    async def run() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        async with Acceptor([listener], serve, lab.configs()[1], RELAY):
            with socket.create_connection(listener.getsockname()):
                sock, _ = listener.accept()  # before the acceptor's turn
                with sock:
                    assert times(sock) == OURS

    asyncio.run(run())


def test_like_pythons_own_ssl(lab: Lab) -> None:
    """So have the sockets of an `SSLContext`."""
    ours, theirs = lab.tcp()
    other = Endpoint(lambda: RawPeer(theirs, lab.configs()[1]))
    context = SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.policy = RELAY
    with context.wrap_socket(ours) as sock:
        assert times(network(sock.handoff)) == OURS
    other.result()


@both
def test_what_somebody_has_set(lab: Lab, policy: KtlsPolicy) -> None:
    """It stays as it was."""
    ours, theirs = lab.tcp()
    for option, value in ((socket.TCP_KEEPIDLE, 7), (socket.TCP_USER_TIMEOUT, 9000)):
        ours.setsockopt(socket.IPPROTO_TCP, option, value)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    before = times(ours)
    client, server = lab.configs()
    other = Endpoint(lambda: RawPeer(theirs, server))
    handed = lab.keep(connect(ours, client, policy))
    other.result()
    assert times(network(handed)) == before
    assert before[1:] == (7, *before[2:4], 9000)


@both
def test_program_that_wants_none(lab: Lab, policy: KtlsPolicy) -> None:
    """What it sets afterwards is set on the connection, wherever that is."""
    stream, _ = lab.stream(policy)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0)
    assert times(network(stream.handoff))[0] is False


def test_what_is_not_tcp(lab: Lab) -> None:
    """It is left alone, and goes on; a socket that has ended, too."""
    ours, theirs = socket.socketpair()
    client, server = lab.configs()
    other = Endpoint(lambda: RawPeer(theirs, server))
    handed = lab.keep(connect(ours, client))
    peer = other.result()
    peer.send_data(b"data")
    assert handed.sock.recv(4) == b"data"
    theirs.close()
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        keep_alive(sock)
        assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    keep_alive(sock)


@pytest.mark.each_kernel
@both
def test_peer_that_has_vanished(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, policy: KtlsPolicy
) -> None:
    """It is noticed where nobody sends anything."""
    for name in ("IDLE", "INTERVAL", "COUNT"):
        monkeypatch.setattr(keepalive, name, 1)
    handed, peer = lab.server(policy)
    with TLSSocket(handed) as stream:
        peer.send_data(b"x")  # which acknowledges whatever we have sent
        assert stream.recv(1)
        vanish(peer.sock)
        with pytest.raises(TimeoutError) as raised:
            stream.recv(1)
        assert raised.value.errno == errno.ETIMEDOUT


@pytest.mark.ktls
def test_detached(lab: Lab) -> None:
    """It goes along to whoever adopts the connection."""
    ours, theirs = lab.tcp()
    client, server = lab.configs()
    other = Endpoint(lambda: RawPeer(ours, client))
    number, _ = accept(theirs, server, KERNEL).detach()
    other.result()
    with socket.socket(fileno=number) as sock:
        assert times(sock) == OURS
