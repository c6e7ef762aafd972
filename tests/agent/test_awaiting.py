"""Tests of waiting for an agent: one that hangs is told from one whose handshake takes its time."""

from __future__ import annotations

import signal
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.agent.harness import HOST, PATIENCE, Agent, serving, tcp
from tests.doubles import Endpoint, check_descriptors, descriptors, until
from tlsify import agent
from tlsify.agent import awaiting, wire
from tlsify.agent.awaiting import Watch
from tlsify.errors import AgentError
from tlsify.system import scm_rights

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.agent.harness import Files


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Shorten our patience, until undone, but not the minute that each handshake has."""
    monkeypatch.setattr(awaiting, "PATIENCE", 0.2)
    monkeypatch.setattr(awaiting, "_STALLED", 0.2)
    monkeypatch.setattr(awaiting, "_LOOK", 0.05)
    return monkeypatch


@contextmanager
def channel() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Connect a requester and an agent."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def test_not_taken(files: Files, hasty: pytest.MonkeyPatch) -> None:
    """A request that lies unread is taken back: the connection is ours, and the agent's no more."""
    before = descriptors()
    with Agent() as it, tcp() as (ours, theirs):
        it.signal(signal.SIGSTOP)
        with pytest.raises(AgentError, match="takes no session within") as caught:
            agent.connect(it.place, ours, files.request())
        assert caught.value.untouched
        hasty.undo()
        it.signal(signal.SIGCONT)
        with tcp() as (more, others):  # behind which it has looked at the first, and let go of it
            peer = serving(files, others)
            agent.connect(it.place, more, files.request()).close()
            peer.result()
        ours.sendall(b"still mine")
        assert theirs.recv(100) == b"still mine"
    check_descriptors(before)


def test_not_taken_where_there_is_little_time(files: Files) -> None:
    """Half of it is left for a handshake without the agent."""
    with (
        channel() as (pair, _theirs),
        tcp() as (ours, _),
        pytest.raises(AgentError, match=r"0\.1 "),
    ):
        agent.connect(pair, ours, files.request(timeout=0.2))


@pytest.mark.usefixtures("hasty")
def test_not_taken_from_an_inherited_pair(files: Files) -> None:
    """Likewise where nobody accepts."""
    with channel() as (pair, theirs), tcp() as (ours, _):
        with pytest.raises(AgentError, match="takes no session within") as caught:
            agent.connect(pair, ours, files.request())
        assert caught.value.untouched
        assert theirs.recv(1)


@pytest.mark.usefixtures("hasty")
def test_server_goes_on_alone(files: Files) -> None:
    """What was taken back is good for a handshake here, although the client has spoken already."""

    def visit() -> bytes:
        with files.client_context().wrap_socket(ours, server_hostname=HOST) as stream:
            stream.sendall(b"hello")
            answer = stream.recv(100)
            stream.unwrap()
            return answer

    with Agent() as it, tcp() as (ours, theirs):
        it.signal(signal.SIGSTOP)
        visitor = Endpoint(visit)
        with pytest.raises(AgentError) as caught:
            agent.accept(it.place, theirs, agent.ServerRequest())
        assert caught.value.untouched
        it.signal(signal.SIGCONT)
        serving(files, theirs).result()
        assert visitor.result() == b"HELLO"


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("role", ["client", "server", "client-midway"])
def test_hangs_in_the_handshake(files: Files, role: str) -> None:
    """One that has taken the request and leaves the peer waiting is given up."""
    request: wire.Request = files.request()
    if role == "server":
        request = wire.ServerRequest()
    with channel() as (mine, its), tcp() as (ours, theirs):
        watch = Watch(ours, request)
        scm_rights.send(mine, wire.encode_request(request), ours.fileno())
        _, number = scm_rights.receive(its, wire.MAX_REQUEST)
        assert number is not None
        with socket.socket(fileno=number) as agents:
            if role != "client":
                theirs.sendall(b"what the agent should read")
            if role == "client-midway":
                agents.sendall(b"hello")
            with pytest.raises(AgentError, match="does not answer") as caught:
                watch.wait(mine)
            assert not caught.value.untouched


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("role", ["client", "server"])
def test_peer_that_takes_its_time(files: Files, role: str) -> None:
    """Nobody gives up an agent that waits itself."""
    request: wire.Request = files.request()
    if role == "server":
        request = wire.ServerRequest()
    with channel() as (mine, its), tcp() as (ours, theirs):
        watch = Watch(ours, request)
        scm_rights.send(mine, wire.encode_request(request), ours.fileno())
        _, number = scm_rights.receive(its, wire.MAX_REQUEST)
        assert number is not None
        with socket.socket(fileno=number) as agents:
            if role == "client":
                agents.sendall(b"hello")
                assert theirs.recv(5) == b"hello"
            waiting = Endpoint(lambda: watch.wait(mine))
            with pytest.raises(AssertionError):
                waiting.result(0.6)
            scm_rights.send(its, b"reply")
            waiting.result()


@pytest.mark.usefixtures("hasty")
def test_handshake_that_takes_too_long(files: Files) -> None:
    """The request's own limit holds, and a little more."""
    request = files.request(timeout=0.1)
    with channel() as (mine, its), tcp() as (ours, _):
        ours.sendall(b"greeting")
        watch = Watch(ours, request)
        scm_rights.send(mine, wire.encode_request(request), ours.fileno())
        _, number = scm_rights.receive(its, wire.MAX_REQUEST)
        assert number is not None
        with socket.socket(fileno=number) as agents:
            agents.sendall(b"hello")
            with pytest.raises(AgentError, match="does not answer"):
                watch.wait(mine)


@pytest.mark.usefixtures("hasty")
def test_given_up_for_both(files: Files) -> None:
    """Where the agent may have begun, the peer sees an end at once, though the agent lives."""
    with channel() as (pair, theirs), tcp() as (ours, peer):
        asking = Endpoint(lambda: agent.connect(pair, ours, files.request()))
        _, number = scm_rights.receive(theirs, wire.MAX_REQUEST)
        with socket.socket(fileno=number) as its:
            _, taken = scm_rights.receive(its, wire.MAX_REQUEST)
            assert taken is not None
            with socket.socket(fileno=taken):
                with pytest.raises(AgentError, match="does not answer"):
                    asking.result(PATIENCE)
                assert peer.recv(1) == b""
    until(lambda: ours.fileno() == -1)
