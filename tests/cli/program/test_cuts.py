"""Tests of cuts, and of what the verbs make of them."""

from __future__ import annotations

import errno
import os
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from tests.cli.harness import (
    CARRIERS,
    LOOPBACK,
    PATIENCE,
    Server,
    end_raw,
    finish,
    over_tls,
    read_line,
    start,
)
from tests.cli.test_listen import Listening
from tests.doubles import reset
from tlsify.cli.program import cuts
from tlsify.errors import CUTS, ConnectionCut, DeadlineExceeded, ExitCode, Truncated

if TYPE_CHECKING:
    import ssl

    from tests.cli.conftest import Pki

each_carrier = pytest.mark.parametrize("carrier", CARRIERS)


@pytest.mark.parametrize("number", CUTS, ids=errno.errorcode.get)
def test_every_death_of_a_connection(number: int) -> None:
    """The peer, the cause and a hint of its own; the exit code is that of a cut."""
    with pytest.raises(ConnectionCut) as raised, cuts.told("example.org:443"):
        raise OSError(number, os.strerror(number))
    said = str(raised.value)
    assert said.startswith("example.org:443: the connection was cut: ")
    assert errno.errorcode[number] in said
    assert raised.value.exit_code is ExitCode.CLOSED
    assert raised.value.hint


@pytest.mark.parametrize(
    "error",
    [
        BrokenPipeError(errno.EPIPE, "Broken pipe", "stdout"),
        OSError(errno.EMFILE, "Too many open files"),
        TimeoutError("timed out"),
        DeadlineExceeded("too slow"),
    ],
)
def test_what_is_none(error: OSError) -> None:
    """Files' errors, ours, and time limits stay what they are."""
    with pytest.raises(type(error)) as raised, cuts.told("x:1"):
        raise error
    assert raised.value is error


def test_truncation_is_named_too() -> None:
    """It is the same to whoever reads the error."""
    with pytest.raises(Truncated, match=r"^x:1: half$") as raised, cuts.told("x:1"):
        raise Truncated("half", hint="look")
    assert raised.value.hint == "look"


def test_peers(tcp_pair: tuple[socket.socket, socket.socket]) -> None:
    """As they are typed; those without an address or a port have no name."""
    ours, theirs = tcp_pair
    assert cuts.peer_of(ours) == f"127.0.0.1:{theirs.getsockname()[1]}"
    with socket.socket() as alone:
        assert cuts.peer_of(alone) == ""
    for end in (pair := socket.socketpair()):
        assert cuts.peer_of(end) == ""
    for end in pair:
        end.close()


def _greet_and_reset(stream: ssl.SSLSocket) -> None:
    stream.sendall(b"hello\n")
    stream.recv(1)
    reset(stream)


@each_carrier
@pytest.mark.parametrize(
    "program", [(), ("--", "sh", "-c", "read x <&6; echo $x; echo go >&7; cat <&6")]
)
def test_reset(pki: Pki, carrier: str, program: tuple[str, ...]) -> None:
    """99, with host and port, for stdin and stdout; a program's keeper says the same."""
    server = Server(over_tls(pki.good.server_context(), _greet_and_reset))
    words = ("connect", "--ca", pki.authority, "localhost", server.port)
    process = start(carrier, *words, *program)
    assert read_line(process.stdout) == "hello\n"
    assert process.stdin is not None
    if not program:
        process.stdin.write(b"go")
        process.stdin.flush()
        process.wait(PATIENCE)
    server.result()
    outcome = finish(process)
    name = f"localhost:{server.port}: the connection was cut: ECONNRESET"
    assert name in outcome.err
    assert "hint: the peer" in outcome.err
    if not program:
        assert outcome.status == ExitCode.CLOSED


@each_carrier
def test_truncation(pki: Pki, carrier: str) -> None:
    """An end without close_notify says whose it was."""
    server = Server(over_tls(pki.good.server_context(), end_raw))
    words = ("connect", "--ca", pki.authority, "localhost", server.port)
    process = start(carrier, *words)
    process.wait(PATIENCE)  # with stdin open: the server answers what it gets with a reset
    said = finish(process).failed(99, "without close_notify")
    server.result()
    assert f"error: localhost:{server.port}: " in said


@each_carrier
def test_silence(pki: Pki, carrier: str) -> None:
    """TCP's own time-out is a cut, and not our time limit's."""
    over = threading.Event()
    server = Server(over_tls(pki.good.server_context(), lambda _: over.wait(PATIENCE)))
    with socket.create_connection((LOOPBACK, server.port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 200)
        sock.setblocking(False)
        words = ("connect", "--fd", sock.fileno(), "--servername", "localhost")
        process = start(carrier, *words, "--ca", pki.authority, pass_fds=[sock.fileno()])
        said = finish(process, bytes(2**24)).failed(99, f"error: {LOOPBACK}:{server.port}: ")
    if "ETIMEDOUT" in said:
        assert "the connection was cut: ETIMEDOUT" in said
        assert "nothing came back" in said
    else:  # a send that the kernel tells of it keeps it to itself if it has sent something already
        assert carrier != CARRIERS[0].values[0]
        assert "without close_notify" in said or "the connection was cut: ECONNRESET" in said
    over.set()
    server.result()


@each_carrier
def test_reset_of_a_servers_connection(pki: Pki, carrier: str) -> None:
    """The server says it in one line, with the client's address."""
    with Listening(pki.good, carrier) as server:
        with server.connect(pki) as stream:
            stream.sendall(b"x")
            assert stream.recv(1) == b"x"
            port = stream.getsockname()[1]
            reset(stream)
        said = f"tlsify: error: {LOOPBACK}:{port}: the connection was cut: ECONNRESET"
        lines: list[str] = []
        while not lines or not lines[-1].startswith("tlsify: error: "):  # cat may be the first
            lines.append(read_line(server.process.stderr))
        assert lines[-1].startswith(said), lines
        server.stop()
