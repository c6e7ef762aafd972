"""Tests of client: what a requester finds, above all when its agent is not what it should be."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.agent.harness import HOST, PATIENCE, Agent, Impostor, serving, talk, tcp
from tests.doubles import Endpoint, descriptors, until
from tests.want import Want
from tlsify import agent
from tlsify.agent import awaiting, client, wire
from tlsify.connection.handoff import Offload
from tlsify.connection.stream import TLSSocket
from tlsify.errors import AgentError, ConfigError, IdentityError

if TYPE_CHECKING:
    from tests.agent.harness import Files

pytestmark = pytest.mark.usefixtures("nothing_left")

KTLS = (
    pytest.param("off", id="relay"),
    pytest.param("require", id="kernel", marks=pytest.mark.ktls),
)


@pytest.mark.parametrize("ktls", KTLS)
def test_connection(running: Agent, files: Files, ktls: str) -> None:
    """A client's handshake done elsewhere gives what one done here does."""
    with tcp() as (ours, theirs):
        peer = serving(files, theirs)
        addresses = ours.getsockname(), ours.getpeername()
        handed = agent.connect(running.place, ours, files.request(ktls=ktls))
        agreed = handed.negotiated
        assert agreed.suite.name.startswith("TLS_AES")
        assert agreed.peer_certificate is not None
        assert (agreed.server_name, agreed.resumed, bool(agreed.group)) == (HOST, False, True)
        is_kernel = ktls == "require"
        assert handed.offload is (Offload.KERNEL if is_kernel else Offload.RELAY)
        assert handed.sock.gettimeout() is None
        assert os.get_blocking(handed.sock.fileno())
        if not is_kernel:
            assert handed.reason is not None
            assert handed.reason.code == "policy-off"
            assert ours.fileno() == -1
            stream = TLSSocket(handed)
            assert (stream.getsockname(), stream.getpeername()) == addresses
        talk(handed)
        assert peer.result() == b"data"
        if handed.relay is not None:
            assert handed.relay.join(PATIENCE)
            handed.raise_failure()


@pytest.mark.parametrize("ktls", KTLS)
def test_timeout_is_the_callers(running: Agent, files: Files, ktls: str) -> None:
    """The flags that both processes share are as they were."""
    with tcp() as (ours, theirs):
        peer = serving(files, theirs)
        ours.settimeout(PATIENCE)
        handed = agent.connect(running.place, ours, files.request(ktls=ktls))
        assert handed.sock.gettimeout() == PATIENCE
        talk(handed)
        peer.result()


@pytest.mark.parametrize("ktls", KTLS)
def test_server(running: Agent, files: Files, ktls: str) -> None:
    """A server's handshake is done with a key that only the agent has."""
    with tcp() as (ours, theirs):

        def visit() -> bytes:
            with files.client_context().wrap_socket(ours, server_hostname=HOST) as stream:
                stream.sendall(b"data")
                return stream.recv(100)

        visitor = Endpoint(visit)
        theirs.settimeout(None)
        handed = agent.accept(running.place, theirs, agent.ServerRequest(ktls=ktls))
        with TLSSocket(handed) as stream:
            assert stream.recv(100) == b"data"
            stream.sendall(b"answer")
            assert visitor.result() == b"answer"


def test_same_error(running: Agent, files: Files) -> None:
    """What goes wrong there is raised here, and the peer gets its alert."""
    with tcp() as (ours, theirs):
        peer = serving(files, theirs)
        request = files.request().but(identities=("dns:other.example",))
        with pytest.raises(IdentityError, match="is not dns:other") as caught:
            agent.connect(running.place, ours, request)
        assert f"dns:{HOST}" in caught.value.mismatches
        assert ours.fileno() == -1
        with pytest.raises(ssl.SSLError, match=r"(?i)bad.certificate"):
            peer.result()


def test_unusable_request(running: Agent, files: Files) -> None:
    """A configuration that cannot be is said to be one, and nothing is sent."""
    with tcp() as (ours, theirs):
        with pytest.raises(ConfigError, match="no absolute path"):
            agent.connect(running.place, ours, files.request().but(trust="ca.pem"))
        assert ours.fileno() == -1
        assert theirs.recv(1) == b""


# -- no agent, or no more


def check_untouched(place: agent.Place, files: Files, why: str) -> None:
    """Expect a refusal after which the handshake can be done here."""
    with tcp() as (ours, theirs):
        with pytest.raises(AgentError, match=why) as caught:
            agent.connect(place, ours, files.request())
        assert caught.value.untouched
        ours.sendall(b"still mine")
        assert theirs.recv(100) == b"still mine"


def test_absent(files: Files, tmp_path: Path) -> None:
    """Where no agent is, the connection stays as it was."""
    check_untouched(tmp_path / "none", files, "no agent at .*/none: ENOENT: No such file")
    check_untouched(str(tmp_path / ("x" * 200)), files, "no agent at .*: AF_UNIX path too long")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        theirs.close()
        check_untouched(ours, files, "no agent at the inherited socket: EPIPE: Broken pipe")
        check_untouched(ours.fileno(), files, "Broken pipe")
    check_untouched(9999, files, "Bad file descriptor")


def test_nothing_to_ask_with(files: Files, tmp_path: Path) -> None:
    """It is not the agent that is missing where we have no descriptor left."""
    with Want("socket", 1):
        check_untouched(tmp_path / "none", files, "cannot ask the agent at .*/none: ENFILE: Too")


def test_dead(files: Files) -> None:
    """A socket whose agent has died is as good as none."""
    with Agent() as it:
        it.kill()
        check_untouched(it.place, files, "Connection refused")


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_before_it_takes_the_request(files: Files, workers: int) -> None:
    """A request that nobody has read leaves the connection as it was."""
    with Agent(workers=workers) as it, tcp() as (ours, theirs):
        it.signal(signal.SIGSTOP)
        channel = client._ask(it.place, wire.encode_request(files.request()), ours)
        it.kill()
        with channel, pytest.raises(AgentError, match="before the request was read") as caught:
            client._receive_reply(channel, PATIENCE)
        assert caught.value.untouched
        ours.sendall(b"still mine")
        assert theirs.recv(100) == b"still mine"


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_in_the_handshake(files: Files, workers: int) -> None:
    """Nobody knows what was sent: the connection is closed, and that is said."""
    with Agent(workers=workers) as it, tcp() as (ours, theirs):
        asking = Endpoint(lambda: agent.connect(it.place, ours, files.request()))
        assert theirs.recv(1) == b"\x16"
        it.kill()
        with pytest.raises(AgentError, match="in the middle of the handshake") as caught:
            asking.result()
        assert not caught.value.untouched
        assert ours.fileno() == -1


def test_one_worker_killed(files: Files) -> None:
    """Its handshakes are lost, and nobody else's."""
    with Agent(workers=2) as it, tcp() as (ours, theirs), tcp() as (more, others):
        asking = Endpoint(lambda: agent.connect(it.place, ours, files.request()))
        assert theirs.recv(1) == b"\x16"
        (victim,) = (pid for pid in it.pids()[1:] if has_tcp(pid))
        os.kill(victim, signal.SIGKILL)
        with pytest.raises(AgentError, match="in the middle"):
            asking.result()
        peer = serving(files, others)
        handed = agent.connect(it.place, more, files.request())
        talk(handed)
        peer.result()
        assert handed.relay is not None
        assert handed.relay.join(PATIENCE)
        until(lambda: len(set(it.pids()) - {victim}) == 3, PATIENCE)


def has_tcp(pid: int) -> bool:
    """Return whether a process has a connection with somebody."""
    table = Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]
    established = {line.split()[9] for line in table if line.split()[3] == "01"}
    sockets = {f" socket:[{inode}]" for inode in established}
    return any(each.endswith(tuple(sockets)) for each in descriptors(pid))


@pytest.mark.ktls
def test_offloaded_connection_survives(files: Files) -> None:
    """A crash costs handshakes, not established connections."""
    with Agent() as it, tcp() as (ours, theirs):
        peer = serving(files, theirs)
        handed = agent.connect(it.place, ours, files.request(ktls="require"))
        it.kill()
        talk(handed)
        assert peer.result() == b"data"


# -- agents that are none


def test_silent_agent(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not answer in the time that the handshake may take, and a little more."""
    monkeypatch.setattr(awaiting, "PATIENCE", 0.01)
    impostor = Impostor(lambda channel: channel.recv(1))
    with tcp() as (ours, _):
        with pytest.raises(AgentError, match="does not answer") as caught:
            agent.connect(impostor.place, ours, files.request().but(timeout=0.01))
        assert not caught.value.untouched
    impostor.join()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_somebody_elses_agent(files: Files) -> None:
    """An agent of another user gets no connection of ours."""
    with tempfile.TemporaryDirectory(prefix="tlsify-") as folder:
        place = Path(folder, "agent")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(place))
            os.seteuid(65534)
            try:
                listener.listen()
            finally:
                os.seteuid(0)
            check_untouched(place, files, "is user 65534's")
