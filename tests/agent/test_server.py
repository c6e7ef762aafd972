"""Tests of server: many at once, the slow, the malformed, and the end."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.agent.harness import HOST, PATIENCE, Agent, Files, echo, serving, start, tcp
from tests.doubles import Endpoint, until
from tests.system.test_scm_rights import Overtaken
from tlsify import agent
from tlsify.agent import client, wire
from tlsify.agent.config_cache import Configs
from tlsify.agent.errors import revive
from tlsify.agent.server import Worker
from tlsify.connection.stream import TLSSocket
from tlsify.errors import AgentError, DeadlineExceeded, ResourceError, TlsifyError
from tlsify.system import scm_rights

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHORT = 0.3  # seconds


def converse(place: agent.Place, files: Files) -> None:
    """Make a connection, use it, and wait for its end."""
    with tcp() as (ours, theirs):
        peer = serving(files, theirs, echo)
        handed = agent.connect(place, ours, files.request())
        with TLSSocket(handed) as stream:
            stream.sendall(b"data")
            assert stream.recv(100) == b"DATA"
            stream.shutdown(socket.SHUT_WR)
            assert stream.recv(100) == b""
        peer.result(PATIENCE)
        assert handed.relay is not None
        assert handed.relay.join(PATIENCE)


def open_channel(place: Path) -> socket.socket:
    """Connect as a requester does."""
    channel = client._open(place)
    channel.settimeout(PATIENCE)
    return channel


def reply_to(place: Path, message: bytes, number: int | None = 0) -> Exception | None:
    """Send an agent anything, and give the error that it answers with."""
    with open_channel(place) as channel:
        scm_rights.send(channel, message, number)
        raw, extra = scm_rights.receive(channel, wire.MAX_REPLY)
        assert extra is None
        assert channel.recv(1) == b""
    return revive(wire.decode(raw, wire.Failed))


# -- many


def test_two_hundred_at_once(running: Agent, files: Files) -> None:
    """All are served, and nothing is left of them."""
    everybody = threading.Barrier(200)

    def one() -> None:
        everybody.wait(PATIENCE)
        converse(running.place, files)

    for session in [Endpoint(one) for _ in range(200)]:
        session.result(50)
    running.at_rest()


def test_slow_peers_hold_up_nobody(running: Agent, files: Files) -> None:
    """While handshakes hang, others are done."""
    with ExitStack() as stack:
        hanging = []
        for _ in range(40):
            ours, theirs = stack.enter_context(tcp())
            hanging.append(
                Endpoint(lambda sock=ours: agent.connect(running.place, sock, files.request()))  # type: ignore[misc]
            )
            assert theirs.recv(1) == b"\x16"
        converse(running.place, files)
        assert not any(one.done for one in hanging)
        stack.close()
        for one in hanging:
            with pytest.raises((TlsifyError, OSError)):
                one.result()


def test_beyond_the_bound(files: Files) -> None:
    """More sessions than are allowed wait until it is their turn."""
    with Agent("--sessions", "1") as it, tcp() as (ours, theirs):
        request = files.request().but(timeout=SHORT)
        first = Endpoint(lambda: agent.connect(it.place, ours, request))
        assert theirs.recv(1) == b"\x16"
        second = Endpoint(lambda: converse(it.place, files))
        with pytest.raises(DeadlineExceeded, match=r"within 0\.3 seconds"):
            first.result()
        second.result()
        it.at_rest()


def test_requester_that_says_nothing(running: Agent, files: Files) -> None:
    """It costs nobody else anything, and goes as it came."""
    with open_channel(running.place):
        converse(running.place, files)
    running.at_rest()


def test_requester_that_goes(running: Agent, files: Files) -> None:
    """Whoever ends while the agent works for it leaves nothing there."""
    with tcp() as (ours, theirs):
        channel = client._ask(running.place, wire.encode_request(files.request()), ours)
        assert theirs.recv(1, socket.MSG_PEEK) == b"\x16"
        channel.close()
        ours.close()
        peer = serving(files, theirs)
        assert peer.result() == b""  # in good order
    running.at_rest()


def test_requester_that_is_gone_already(files: Files) -> None:
    """What nobody waits for any more is not begun."""
    with Agent() as it, tcp() as (ours, theirs):
        it.signal(signal.SIGSTOP)
        client._ask(it.place, wire.encode_request(files.request()), ours).close()
        ours.close()
        it.signal(signal.SIGCONT)
        assert theirs.recv(1) == b""


def test_out_of_descriptors(files: Files) -> None:
    """An agent that has none left says so, or waits, and serves on later."""
    with Agent(limit=16) as it:
        with ExitStack() as stack:
            held = [stack.enter_context(open_channel(it.place)) for _ in range(20)]
            (worker,) = it.pids()[1:]
            until(lambda: len(os.listdir(f"/proc/{worker}/fd")) == 16)
            with tcp() as (ours, _):
                # Once the agent has given up on some of the silent ones it has a place for this
                # one, too: then it is the peer, equally silent, that is waited for in vain.
                request = files.request(timeout=1)
                asking = Endpoint(lambda: agent.connect(it.place, ours, request))
                held[0].close()
                # Which of the descriptors that a session takes is the missing one is left open.
                with pytest.raises((TlsifyError, OSError)):
                    asking.result(PATIENCE)
        it.at_rest()
        converse(it.place, files)
        it.at_rest()
        status, said = it.stop()
        assert status == 0
        assert "accept() failed, retrying" in said


# -- a moment without threads

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


@pytest.fixture
def bound() -> Iterator[Agent]:
    """An agent of a user who is nobody else's, and may have a few threads."""
    with Agent(user=2**30 + os.getpid()) as it:
        yield it


@as_root
def test_out_of_threads(bound: Agent, files: Files) -> None:
    """While there are none the one that there is serves; afterwards there are as many as before."""
    with bound.without_threads():
        for _ in range(3):
            with tcp() as (ours, theirs):
                peer = serving(files, theirs)
                with pytest.raises(
                    ResourceError, match="no thread to relay connections: can't start"
                ) as caught:
                    agent.connect(bound.place, ours, files.request())
                assert "TasksMax" in caught.value.hint
                with pytest.raises(ssl.SSLEOFError):  # that was no end in good order
                    peer.result()
    for _ in range(2):
        converse(bound.place, files)
    bound.at_rest()
    status, said = bound.stop()
    assert status == 0
    (line,) = said.splitlines()
    assert line.startswith(
        "tlsify: warning: sessions wait for others to end: cannot start a thread for the"
    )
    assert line.endswith("next session: can't start new thread")


@as_root
def test_threads_come_back(bound: Agent, files: Files) -> None:
    """Sessions wait for one that hangs only as long as there are no threads."""
    with tcp() as (ours, theirs), tcp() as (more, others):
        hanging = [Endpoint(lambda: agent.connect(bound.place, ours, files.request()))]
        assert theirs.recv(1, socket.MSG_PEEK) == b"\x16"  # and a second thread waits
        with bound.without_threads():
            hanging.append(Endpoint(lambda: agent.connect(bound.place, more, files.request())))
            assert others.recv(1, socket.MSG_PEEK) == b"\x16"
        converse(bound.place, files)
        for each, sock in zip(hanging, (theirs, others), strict=True):
            assert not each.done
            peer = serving(files, sock)
            each.result().close()
            peer.result()
    bound.at_rest()
    assert bound.stop()[0] == 0


@as_root
def test_end_without_threads(bound: Agent, files: Files) -> None:
    """It ends when it is told to, and what it is at before that."""
    with tcp() as (ours, theirs):
        hanging = Endpoint(lambda: agent.connect(bound.place, ours, files.request()))
        assert theirs.recv(1, socket.MSG_PEEK) == b"\x16"
        with bound.without_threads():
            bound.process.terminate()
            until(lambda: not bound.place.exists(), PATIENCE)
        assert bound.process.poll() is None
        theirs.shutdown(socket.SHUT_RDWR)
        with pytest.raises((TlsifyError, OSError)):
            hanging.result()
        assert bound.process.wait(PATIENCE) == 0


# -- the malformed


@pytest.mark.parametrize(
    ("message", "number", "why"),
    [
        (b"\1\2", None, "without its descriptor"),
        (b"\2\2", 0, "version 2, not 1"),
        (b"\1\1", 0, "kind 1"),
        (b"\1\x10", 0, "kind 16"),
        (b"x" * (wire.MAX_REQUEST + 1), 0, "too many bytes"),
        (b"\1\2\xff", 0, "malformed"),
    ],
)
def test_malformed(running: Agent, message: bytes, number: int | None, why: str) -> None:
    """What is no request is refused, and the descriptor closed without having been touched."""
    with tcp() as (ours, theirs):
        error = reply_to(running.place, message, None if number is None else ours.fileno())
        assert isinstance(error, AgentError)
        assert why in str(error)
        assert error.untouched
        ours.sendall(b"still mine")
        assert theirs.recv(100) == b"still mine"
    running.at_rest()


@settings(max_examples=60)
@given(data=st.binary(max_size=60), kind=st.sampled_from([b"", b"\1\2", b"\1\3", b"\1"]))
def test_anything(running: Agent, data: bytes, kind: bytes) -> None:
    """Whatever is sent is answered with an error, and does no harm."""
    message = kind + data or b"\0"
    error = reply_to(running.place, message, 0)  # stdin is no connection
    assert isinstance(error, TlsifyError)
    assert type(error) is not TlsifyError


def test_several_descriptors(running: Agent) -> None:
    """Two descriptors are one too many."""
    with tcp() as (ours, _), open_channel(running.place) as channel:
        socket.send_fds(channel, [b"\1\2"], [ours.fileno()] * 2)
        raw, _ = scm_rights.receive(channel, wire.MAX_REPLY)
        assert "too many descriptors" in wire.decode(raw, wire.Failed).message
    running.at_rest()


def test_no_stream(running: Agent, files: Files) -> None:
    """A socket that is no stream is refused, one that is not connected fails."""
    request = wire.encode_request(files.request().but(timeout=SHORT))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert "is no stream" in str(reply_to(running.place, request, sock.fileno()))
    with socket.create_server(("127.0.0.1", 0)) as sock:
        assert isinstance(reply_to(running.place, request, sock.fileno()), BrokenPipeError)
    running.at_rest()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_somebody_else(files: Files) -> None:
    """Another user, for whom the folder is no obstacle, is refused unheard."""
    with Agent() as it:
        it.folder.chmod(0o711)
        it.place.chmod(0o777)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.setresuid(65534, 65534, 65534)
                with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
                    channel.connect(str(it.place))
                    scm_rights.send(channel, b"\1\2", 0)
                    channel.recv(100)
            except (ConnectionResetError, BrokenPipeError):
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        converse(it.place, files)
        assert it.stop() == (0, "tlsify: warning: refused: a requester of user 65534\n")


# -- the pair


def test_pair_of_several_workers() -> None:
    """A message comes whole, although another worker took a shorter one just before."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, Overtaken(fileno=theirs.detach()) as shared:
        scm_rights.send(ours, b"\1")
        scm_rights.send(ours, wire.encode(wire.Open()), ours.fileno())
        channel = Worker(shared, Configs(), 1)._next()
        assert channel is not None
        channel.close()


def test_pair(files: Files) -> None:
    """An inherited pair serves as well, any number of sessions, until it is closed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            words = ("--fd", str(theirs.fileno()))
            process = start(*words, workers=2, pass_fds=(theirs.fileno(),))
        with process:
            assert process.stdout is not None
            assert process.stdout.readline().endswith(b" (workers: 2)\n")
            for _ in range(3):
                converse(ours, files)
            scm_rights.send(ours, b"nonsense", ours.fileno())
            scm_rights.send(ours, wire.encode(wire.Open()))
            scm_rights.send(ours, wire.encode(wire.Open()), 0)
            for session in [Endpoint(lambda: converse(ours, files)) for _ in range(20)]:
                session.result(PATIENCE)
            ours.close()
            _, said = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0
            lines = said.decode().splitlines()
            assert sorted(line.removeprefix("tlsify: warning: ")[:10] for line in lines) == [
                "refused: a",
                "refused: a",
                "refused: t",
            ]


# -- the end


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_idle(workers: int, number: int) -> None:
    """Nothing to finish: it ends at once, and takes its socket along."""
    with Agent(workers=workers) as it:
        it.process.send_signal(number)
        _, said = it.process.communicate(timeout=PATIENCE)
        assert (it.process.returncode, said) == (0, b"")
        assert not it.place.exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_drain(files: Files, workers: int) -> None:
    """After SIGTERM nobody is taken, a handshake ends well, and so does a relayed connection."""
    with Agent(workers=workers) as it, tcp() as (ours, theirs), tcp() as (more, others):
        peer = serving(files, theirs)
        handed = agent.connect(it.place, ours, files.request())
        hanging = Endpoint(lambda: agent.connect(it.place, more, files.request()))
        assert others.recv(1, socket.MSG_PEEK) == b"\x16"
        it.process.terminate()
        until(lambda: not it.place.exists(), PATIENCE)
        with Agent() as successor:
            converse(successor.place, files)
        second_peer = serving(files, others)
        for one, other in ((handed, peer), (hanging.result(), second_peer)):
            with TLSSocket(one) as stream:
                stream.sendall(b"data")
                assert stream.recv(100) == b"DATA"
                assert it.process.poll() is None
                stream.shutdown(socket.SHUT_WR)
                assert stream.recv(100) == b""
            assert other.result() == b"data"
        _, said = it.process.communicate(timeout=PATIENCE)
        assert (it.process.returncode, said) == (0, b"")


def test_worker_that_hangs(files: Files) -> None:
    """It is killed and replaced; the other one goes on meanwhile."""
    hooks = "agent.SupervisorHooks"
    settings = f"""
from functools import partial
from tlsify.cli import agent
{hooks} = partial({hooks}, patience=2.0)
"""
    with Agent(workers=2, settings=settings) as running:
        first, hung, other = running.pids()
        os.kill(hung, signal.SIGSTOP)
        until(lambda: hung not in running.pids() and len(running.pids()) == 3)
        assert other in running.pids()
        for _ in range(4):
            with tcp() as (ours, theirs):
                peer = serving(files, theirs)
                with TLSSocket(agent.connect(running.place, ours, files.request())) as stream:
                    stream.sendall(b"data")
                    assert stream.recv(100) == b"DATA"
                peer.result()
        assert running.process.pid == first
        status, said = running.stop()
        assert status == 0
        assert f"worker {hung} hangs and is killed: no sign of life for 2 seconds" in said


def test_only_the_supervisor_killed(files: Files) -> None:
    """Its workers finish what they have begun and end, and the place is free for another."""
    with Agent(workers=2) as it, tcp() as (ours, theirs):
        peer = serving(files, theirs)
        handed = agent.connect(it.place, ours, files.request())
        workers = it.pids()[1:]
        it.process.kill()
        it.process.wait(PATIENCE)
        until(lambda: client_finds_nobody(it.place), PATIENCE)
        with TLSSocket(handed) as stream:
            stream.sendall(b"data")
            assert stream.recv(100) == b"DATA"
        peer.result()
        until(lambda: not any(is_running(pid) for pid in workers), PATIENCE)


def client_finds_nobody(place: Path) -> bool:
    """Return whether a requester is refused."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        return sock.connect_ex(str(place)) != 0


def is_running(pid: int) -> bool:
    """Return whether a process is there, and no zombie that nobody has waited for."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_resumption_is_common_to_workers(files: Files) -> None:
    """The keys of tickets are the agent's: whoever of it is asked resumes."""
    words = ("--cert", str(files.certificate), "--key", files.key, "--resumption")
    with Agent(*words, workers=3) as it:
        context = files.client_context()
        session = None
        for number in range(6):
            with tcp() as (ours, theirs):
                theirs.settimeout(None)
                asked = Endpoint(
                    lambda sock=theirs: agent.accept(
                        it.place, sock, agent.ServerRequest(ktls="off")
                    )  # type: ignore[misc]
                )
                with context.wrap_socket(ours, server_hostname=HOST, session=session) as stream:
                    handed = asked.result()
                    with TLSSocket(handed) as server:
                        server.sendall(b"x")
                        assert stream.recv(1) == b"x"
                        assert bool(stream.session_reused) == bool(number)
                        assert handed.negotiated.resumed == bool(number)
                        session = stream.session
