"""Tests of by_agent."""

from __future__ import annotations

import signal
import socket
import subprocess
from typing import TYPE_CHECKING, Self

import psutil
import pytest

from tests.cli.forked import refused
from tests.cli.harness import (
    CARRIERS,
    LOOPBACK,
    PATIENCE,
    Server,
    converse,
    end_raw,
    finish,
    over_tls,
    read_line,
    refusal,
    run,
    start,
)
from tlsify.errors import ExitCode

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.conftest import Pki

each_carrier = pytest.mark.parametrize("carrier", CARRIERS)


class Agent:
    """A running ``tlsify agent``."""

    def __init__(self, folder: Path, *words: str | Path) -> None:
        """Start it and wait until it is ready."""
        folder.mkdir(mode=0o700)
        self.path = folder / "agent"
        self.process = start("agent", "--workers", "1", *words, self.path, stdin=subprocess.DEVNULL)
        assert "agent at" in read_line(self.process.stdout)

    def __enter__(self) -> Self:
        """Serve."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        finish(self.process)

    def die(self) -> None:
        """Kill all of its processes."""
        workers = psutil.Process(self.process.pid).children()
        self.process.kill()
        for worker in workers:
            worker.kill()


@pytest.fixture
def agent(pki: Pki, tmp_path: Path) -> Iterator[Agent]:
    """One that has the server's key."""
    shown = ("--cert", pki.good.certificate, "--key", pki.good.key)
    with Agent(tmp_path / "place", *shown) as running:
        yield running


def _connect(pki: Pki, agent: Path, port: int, *words: str) -> tuple[str | int | Path, ...]:
    given = ("--agent", agent, "--ca", pki.authority, LOOPBACK, port)
    return ("connect", *given, *words)


@each_carrier
def test_client(pki: Pki, agent: Agent, carrier: str) -> None:
    """The agent shakes hands, and the command goes on."""
    server = Server(over_tls(pki.good.server_context(), converse))
    outcome = run(carrier, "-v", *_connect(pki, agent.path, server.port), data=b"answer")
    assert (outcome.status, outcome.out) == (0, b"hello\n")
    assert "agent unavailable" not in outcome.err
    assert server.result() == b"answer"


@each_carrier
def test_program(pki: Pki, agent: Agent, carrier: str) -> None:
    """It cannot tell who has shaken hands, and has its keeper all the same."""
    server = Server(over_tls(pki.good.server_context(), converse))
    script = "read line <&6; echo $line $SSL_PROTOCOL; echo answer >&7"
    words = _connect(pki, agent.path, server.port, "--", "sh", "-c", script)
    assert run(carrier, *words).succeeded() == b"hello TLSv1.3\n"
    assert server.result() == b"answer\n"


@each_carrier
def test_server(pki: Pki, agent: Agent, carrier: str) -> None:
    """Whoever accepts needs no key."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        client = start("connect", "--ca", pki.authority, "localhost", listener.getsockname()[1])
        sock, _ = listener.accept()
    with sock:
        words = ("accept", "--agent", agent.path, "--", "cat")
        process = start(carrier, *words, stdin=sock.fileno())
    assert finish(client, b"to and fro").succeeded() == b"to and fro"
    assert finish(process).succeeded() == b""


@each_carrier
def test_idle(pki: Pki, agent: Agent, carrier: str) -> None:
    """A relayed connection is out of sight: it is idle when nothing is written or read."""

    def answer(stream: ssl.SSLSocket) -> None:
        assert stream.recv(100) == b"question"
        stream.sendall(b"answer")
        assert stream.recv(1) == b""
        stream.unwrap()

    server = Server(over_tls(pki.good.server_context(), answer))
    process = start(carrier, *_connect(pki, agent.path, server.port, "--idle", "2"))
    assert process.stdin is not None
    process.stdin.write(b"question")
    process.stdin.flush()
    assert process.wait(PATIENCE) == ExitCode.DEADLINE  # with stdin open
    assert finish(process).out == b"answer"
    server.result()


def test_same_errors(pki: Pki, agent: Agent, tmp_path: Path) -> None:
    """What goes wrong in the agent is told as if it had gone wrong here."""
    server = Server(refusal(pki.bad["wrong-name"].server_context()))
    run(*_connect(pki, agent.path, server.port)).failed(98)
    server.result()
    server = Server(over_tls(pki.good.server_context(), end_raw))
    run(*_connect(pki, agent.path, server.port)).failed(99)
    server.result()
    words = ("--agent", agent.path, "--ca", tmp_path / "nonexistent", LOOPBACK, server.port)
    with socket.create_server((LOOPBACK, 0)) as listener:
        port = listener.getsockname()[1]
        run("connect", *words[:-1], port).failed(96, "nonexistent")


def test_no_agent(pki: Pki, tmp_path: Path) -> None:
    """It is done without, and said."""
    server = Server(over_tls(pki.good.server_context(), converse))
    outcome = run(*_connect(pki, tmp_path / "nobody", server.port))
    assert (outcome.status, outcome.out) == (0, b"hello\n")
    assert outcome.err.startswith(
        "tlsify: warning: agent unavailable, doing the handshake locally: "
    )
    server.result()


def test_agent_that_dies(pki: Pki, agent: Agent) -> None:
    """In the midst of the handshake: another connection is made, and the handshake done here."""
    context = pki.good.server_context()
    with socket.create_server((LOOPBACK, 0)) as listener:
        process = start(*_connect(pki, agent.path, listener.getsockname()[1]))
        first, _ = listener.accept()
        with first:
            assert first.recv(5)
            agent.die()
            assert process.stdin is not None
            process.stdin.write(b"answer")
            process.stdin.close()
            process.stdin = None
            listener.settimeout(PATIENCE)
            second, _ = listener.accept()
    with context.wrap_socket(second, server_side=True) as stream:
        assert converse(stream) == b"answer"
    outcome = finish(process)
    assert (outcome.status, outcome.out) == (0, b"hello\n")
    assert "agent unavailable" in outcome.err


def test_agent_that_dies_with_an_inherited_socket(pki: Pki, agent: Agent) -> None:
    """There is no other connection to be had: 105."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        ours = socket.create_connection(listener.getsockname(), timeout=PATIENCE)
        theirs, _ = listener.accept()
    with ours, theirs:
        words = ("--agent", agent.path, "--ca", pki.authority, "--servername", "localhost")
        process = start("connect", *words, "--fd", ours.fileno(), pass_fds=[ours.fileno()])
        assert theirs.recv(5)
        agent.die()
        finish(process).failed(105, "agent")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("connect", "--agent", "x", "--cert", "c", "--key-fd", "5", "h", "1"), "--key-fd"),
        (("connect", "--agent", "x", "--keylog", "h", "1"), "--keylog"),
        (("accept", "--agent", "x", "--key", "k", "--", "true"), "--key is a setting of the agent"),
        (("accept", "--agent", "x", "--resumption", "--", "true"), "--resumption is a setting of"),
    ],
)
def test_what_an_agent_cannot(words: tuple[str, ...], said: str) -> None:
    """It is told before anything is sent."""
    refused(*words).failed(100, said)
