"""Tests of handoff."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.doubles import Endpoint
from tlsify.config import ClientConfig, KtlsMode, KtlsPolicy, ServerConfig
from tlsify.handoff import Offload, accept, connect

if TYPE_CHECKING:
    import socket


@pytest.mark.ktls
def test_both_ends_are_the_kernels(
    tcp_pair: tuple[socket.socket, socket.socket],
    client_config: ClientConfig,
    server_config: ServerConfig,
) -> None:
    """With --ktls=require both sides are offloaded, and plain reads and writes carry TLS."""
    policy = KtlsPolicy(KtlsMode.REQUIRE)
    ours, theirs = tcp_pair
    other = Endpoint(lambda: accept(theirs, server_config, policy))
    with connect(ours, client_config, policy) as client, other.result() as server:
        assert client.offload is server.offload is Offload.KERNEL
        client.sock.sendall(b"ping")
        assert server.sock.recv(16) == b"ping"
