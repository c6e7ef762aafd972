"""Tests of plaintext: on which sockets a handshake may begin, by each door that takes one."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING

import pytest

from tests.doubles import KERNEL, RELAY, Endpoint, Lab
from tlsify import agent
from tlsify.connection.establish import PendingConnection, accept, connect
from tlsify.connection.stream import TLSSocket
from tlsify.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable


def _closed() -> socket.socket:
    sock = socket.socket()
    sock.close()
    return sock


_UNUSABLE: dict[str, tuple[Callable[[socket.socket], socket.socket], str]] = {
    "new": (lambda _: socket.socket(), "no connected stream"),
    "bound": (lambda _: socket.create_server(("127.0.0.1", 0)), "no connected stream"),
    "datagrams": (lambda _: socket.socket(type=socket.SOCK_DGRAM), "no connected stream"),
    "unix": (lambda _: socket.socket(socket.AF_UNIX), "no connected stream"),
    "closed": (lambda _: _closed(), "no connected stream"),
    "ssl": (
        lambda sock: ssl.create_default_context().wrap_socket(
            sock, server_hostname="example.org", do_handshake_on_connect=False
        ),
        "has TLS already",
    ),
}


@pytest.mark.parametrize("kind", _UNUSABLE)
def test_socket_that_is_no_plain_connection(lab: Lab, kind: str) -> None:
    """It is refused, and left as it was; a peer hears nothing."""
    ours, theirs = lab.tcp()
    make, said = _UNUSABLE[kind]
    with make(ours) as sock:
        before = sock.fileno()
        client, server = lab.configs()
        cases: tuple[Callable[[], object], ...] = (
            lambda: connect(sock, client),
            lambda: accept(sock, server),
            lambda: agent.connect("/no/agent", sock, agent.ClientRequest()),
            lambda: agent.accept("/no/agent", sock, agent.ServerRequest()),
        )
        for establish in cases:
            with pytest.raises(ConfigError, match=said):
                establish()
            assert sock.fileno() == before
        theirs.setblocking(False)
        with pytest.raises(BlockingIOError):
            theirs.recv(1)


@pytest.mark.ktls
def test_tls_in_the_kernel(lab: Lab) -> None:
    """Whatever the policy: its control records would break what goes on within it."""
    ours, theirs = lab.tcp()
    client, server = lab.configs()
    other = Endpoint(lambda: accept(theirs, server, KERNEL))
    with TLSSocket(connect(ours, client, KERNEL)) as stream, TLSSocket(other.result()) as far:
        before = stream.fileno()
        cases: tuple[Callable[[], object], ...] = (
            lambda: connect(stream, client, KERNEL),
            lambda: accept(stream, server, RELAY),
            lambda: agent.connect("/no/agent", stream, agent.ClientRequest()),
            lambda: PendingConnection(stream, client, RELAY),  # as sslcontext and aio do
        )
        for establish in cases:
            with pytest.raises(ConfigError, match="has TLS already, in the kernel"):
                establish()
            assert stream.fileno() == before
        stream.sendall(b"still there")
        assert far.recv(20) == b"still there"


def test_tls_within_tls(lab: Lab) -> None:
    """The outer one, relayed, is a connection as any other: so says the hint."""
    ours, theirs = lab.tcp()
    client, server = lab.configs()

    def answer() -> bytes:
        outer = TLSSocket(accept(theirs, server, RELAY))
        with TLSSocket(accept(outer, server, RELAY)) as stream:
            stream.sendall(stream.recv(20))
            stream.shutdown(socket.SHUT_WR)
            return stream.recv(20)

    other = Endpoint(answer)
    with TLSSocket(connect(TLSSocket(connect(ours, client, RELAY)), client, RELAY)) as stream:
        stream.sendall(b"within")
        assert stream.recv(20) == b"within"
        assert not stream.recv(20)
    assert not other.result()
