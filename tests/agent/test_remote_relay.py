"""Tests of remote_relay: what a program learns of a connection that the agent relays."""

from __future__ import annotations

import gc
import socket
import ssl
from typing import TYPE_CHECKING

import pytest

from tests.agent.harness import PATIENCE, RELAYED, Agent, Impostor, serving, talk, tcp
from tlsify import agent
from tlsify.agent import wire
from tlsify.connection.stream import TLSSocket
from tlsify.errors import AgentError, Truncated
from tlsify.system import scm_rights

if TYPE_CHECKING:
    from tests.agent.harness import Files

pytestmark = pytest.mark.usefixtures("nothing_left")


def test_truncation(running: Agent, files: Files) -> None:
    """What no descriptor can tell, the agent does: in time for whoever asks at the end."""
    with tcp() as (ours, theirs):

        def cut(stream: ssl.SSLSocket) -> None:
            stream.sendall(b"half")
            with socket.socket(fileno=stream.detach()) as sock:
                sock.shutdown(socket.SHUT_WR)

        peer = serving(files, theirs, cut)
        handed = agent.connect(running.place, ours, files.request())
        with TLSSocket(handed) as stream:
            assert stream.recv(100) == b"half"
            with pytest.raises(Truncated):
                stream.recv(100)
        peer.result()
        assert handed.relay is not None
        assert handed.relay.join(PATIENCE)
        assert isinstance(handed.relay.failure, Truncated)
        assert handed.relay.under_way() == 0


def test_relay_goes_on_without_its_handoff(running: Agent, files: Files) -> None:
    """Who lets go of everything but the descriptor loses nothing but the verdict."""
    with tcp() as (ours, theirs):
        peer = serving(files, theirs)
        sock = agent.connect(running.place, ours, files.request()).sock
        gc.collect()
        with sock:
            sock.sendall(b"data")
            assert sock.recv(100) == b"DATA"
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(100) == b""
        peer.result()


def test_join_in_time(running: Agent, files: Files) -> None:
    """Waiting for the end has its own end."""
    with tcp() as (ours, theirs):
        peer = serving(files, theirs)
        handed = agent.connect(running.place, ours, files.request())
        assert handed.relay is not None
        assert not handed.relay.join(0)
        assert not handed.relay.join(0.01)
        talk(handed)
        peer.result()
        assert handed.relay.join()


def test_killed_while_it_relays(files: Files) -> None:
    """The end of a stream that the agent could not finish is not taken for one."""
    with Agent() as it, tcp() as (ours, theirs):
        peer = serving(files, theirs)
        handed = agent.connect(it.place, ours, files.request())
        with TLSSocket(handed) as stream:
            stream.sendall(b"data")
            assert stream.recv(100) == b"DATA"
            it.kill()
            with pytest.raises(AgentError, match="while it carried the connection"):
                stream.recv(100)
        assert handed.relay is not None
        assert handed.relay.join(PATIENCE)
        with pytest.raises(ssl.SSLEOFError):
            peer.result()


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (b"\1", "malformed"),
        (bytes(wire.encode(wire.Failed(error=2))), "kind 18"),
        (b"x" * 2**18, "too many bytes"),
        (b"", "while it carried"),
    ],
)
def test_odd_end(files: Files, status: bytes, why: str) -> None:
    """An end that cannot be understood is a failure."""

    def answer(channel: socket.socket) -> None:
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            scm_rights.send(channel, RELAYED, theirs.fileno())
            if status:
                scm_rights.send(channel, status, ours.fileno())

    impostor = Impostor(answer)
    with tcp() as (ours, _):
        handed = agent.connect(impostor.place, ours, files.request())
        with handed.sock, pytest.raises(AgentError, match=why):
            handed.raise_failure()
        assert handed.relay is not None
        assert handed.relay.join(PATIENCE)
    impostor.join()
