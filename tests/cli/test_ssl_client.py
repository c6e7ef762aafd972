"""Tests of ssl_client."""

from __future__ import annotations

import select
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import tlsify
from tests.cli.harness import (
    CARRIERS,
    ENVIRONMENT,
    LOOPBACK,
    PATIENCE,
    Outcome,
    Server,
    end_raw,
    finish,
    over_tls,
    read_all,
    refusal,
    start,
)
from tlsify.errors import ExitCode

if TYPE_CHECKING:
    import ssl

    from tests.cli.conftest import Pki

_PROJECT = Path(tlsify.__file__).parents[1]
each_carrier = pytest.mark.parametrize("carrier", CARRIERS)


class Wget:
    """Starts the helper as busybox's wget does, over one socket for stdin and stdout."""

    def __init__(self, pki: Pki, port: int, *words: str) -> None:
        """Connect, and start it; ``FD`` among the words becomes the connection's descriptor."""
        self.end, theirs = socket.socketpair()
        self.end.settimeout(PATIENCE)
        sock = socket.create_connection((LOOPBACK, port))
        number = str(sock.fileno())
        with theirs, sock:
            self.process = start(
                *(word.replace("FD", number) for word in words),
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                pass_fds=[sock.fileno()],
                env=ENVIRONMENT | {"CAFILE": str(pki.authority)},
            )

    def outcome(self) -> Outcome:
        """Wait for the helper's end."""
        with self.end:
            return finish(self.process)


def _read_some(stream: ssl.SSLSocket) -> bytes:
    received = stream.recv(100)
    stream.unwrap()
    return received


@each_carrier
def test_end_of_stdin_is_not_passed_on(pki: Pki, carrier: str) -> None:
    """The server hears nothing of it, and its answer comes."""

    def answer(stream: ssl.SSLSocket) -> bytes:
        request = stream.recv(100)
        readable, _, _ = select.select([stream], [], [], 0.2)
        assert not readable, "it has said goodbye"
        stream.sendall(b"answer")
        stream.unwrap()
        return request

    server = Server(over_tls(pki.good.server_context(), answer))
    wget = Wget(pki, server.port, carrier, "ssl_client", "-sFD", "-n", "localhost")
    wget.end.sendall(b"request")
    wget.end.shutdown(socket.SHUT_WR)
    assert read_all(wget.end) == b"answer"
    assert server.result() == b"request"
    assert wget.outcome() == Outcome(0, b"", "")


@each_carrier
def test_end_of_stdin_with_e(pki: Pki, carrier: str) -> None:
    """It ends the connection, in good order."""
    server = Server(over_tls(pki.good.server_context(), read_all))
    wget = Wget(pki, server.port, carrier, "ssl_client", "-e", "-s", "FD", "-n", "localhost")
    wget.end.sendall(b"QUIT")
    wget.end.shutdown(socket.SHUT_WR)
    assert server.result() == b"QUIT"
    assert wget.outcome() == Outcome(0, b"", "")


@each_carrier
def test_caller_that_is_gone(pki: Pki, carrier: str) -> None:
    """The helper does not outlive it, whatever the server does."""
    server = Server(over_tls(pki.good.server_context(), read_all))
    wget = Wget(pki, server.port, carrier, "ssl_client", "-sFD", "-n", "localhost")
    wget.end.sendall(b"request")
    wget.end.close()
    assert server.result() == b"request"
    assert wget.outcome() == Outcome(0, b"", "")


@each_carrier
def test_truncation(pki: Pki, carrier: str) -> None:
    """What came is passed on, and the helper says that there may have been more."""

    def cut(stream: ssl.SSLSocket) -> None:
        stream.recv(100)
        stream.sendall(b"part")
        end_raw(stream)

    server = Server(over_tls(pki.good.server_context(), cut))
    wget = Wget(pki, server.port, carrier, "ssl_client", "-sFD", "-n", "localhost")
    wget.end.sendall(b"request")
    received = wget.end.recv(100)
    outcome = finish(wget.process)
    wget.end.close()
    assert received == b"part"
    outcome.failed(ExitCode.CLOSED, "without close_notify")
    server.result()


def test_other_name(pki: Pki) -> None:
    """The certificate has to be for the name that wget asked for; else nothing is passed on."""
    server = Server(refusal(pki.good.server_context()))
    wget = Wget(pki, server.port, "ssl_client", "-sFD", "-n", "elsewhere.example")
    wget.end.sendall(b"secret")
    server.result()
    outcome = wget.outcome()
    outcome.failed(ExitCode.IDENTITY, "elsewhere.example")


@pytest.mark.parametrize("name", ["127.0.0.1", "[::1]"])
def test_address(pki: Pki, name: str) -> None:
    """An address is as good as a name, in brackets or without."""
    server = Server(over_tls(pki.good.server_context(), _read_some))
    wget = Wget(pki, server.port, "ssl_client", "-sFD", "-n", name)
    wget.end.sendall(b"request")
    assert server.result() == b"request"
    assert wget.outcome().status == 0


def test_no_verification(pki: Pki) -> None:
    """-I does without, as loudly as --no-verify."""
    server = Server(over_tls(pki.bad["self-signed"].server_context(), _read_some))
    wget = Wget(pki, server.port, "ssl_client", "-sFD", "-n", "localhost", "-I")
    wget.end.sendall(b"request")
    assert server.result() == b"request"
    outcome = wget.outcome()
    assert (outcome.status, outcome.err) == (0, "tlsify: warning: the peer is not verified\n")


def test_same_socket_twice(pki: Pki) -> None:
    """-r may name the descriptor of -s, or a copy of it."""
    server = Server(over_tls(pki.good.server_context(), _read_some))
    wget = Wget(pki, server.port, "ssl_client", "-sFD", "-rFD", "-n", "localhost")
    wget.end.sendall(b"request")
    assert server.result() == b"request"
    assert wget.outcome().status == 0


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["-n", "localhost"], ExitCode.USAGE),
        (["-s", "x", "-n", "localhost"], ExitCode.USAGE),
        (["-s99", "-n", "localhost"], ExitCode.CONFIG),
        (["-sFD"], ExitCode.USAGE),
        (["-sFD", "-r0", "-n", "localhost"], ExitCode.CONFIG),
        (["-sFD", "-r99", "-n", "localhost"], ExitCode.CONFIG),
    ],
)
def test_misuse(pki: Pki, words: list[str], status: int) -> None:
    """Nothing is sent to the server."""
    server = Server(read_all)
    wget = Wget(pki, server.port, "ssl_client", *words)
    assert server.result() == b""
    wget.outcome().failed(status)


def test_name_of_the_program(tmp_path: Path) -> None:
    """A link to the command with the helper's name is the helper."""
    command = tmp_path / "tlsify"
    script = "import sys\nfrom tlsify.cli import main\nsys.exit(main())\n"
    command.write_text(f"#!{sys.executable}\n{script}")
    command.chmod(0o700)
    link = tmp_path / "ssl_client"
    link.symlink_to(command)
    done = subprocess.run(
        [link, "--help"],
        env=ENVIRONMENT | {"PYTHONPATH": str(_PROJECT)},
        capture_output=True,
        check=True,
        timeout=PATIENCE,
    )
    assert done.stdout.startswith(b"usage: tlsify ssl_client [-e] -s FD")
