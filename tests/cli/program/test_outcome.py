"""Tests of ending; test_execute has programs, test_connect has stdin and stdout."""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import tlsify
from tests.cli.forked import refused
from tests.cli.harness import (
    CARRIERS,
    LOOPBACK,
    PATIENCE,
    Server,
    converse,
    finish,
    over_tls,
    pause,
    read_all,
    read_line,
    refusal,
    run,
    start,
)
from tests.doubles import Endpoint
from tlsify.errors import ExitCode
from tlsify.system.process import THE_PROGRAMS, ignore

if TYPE_CHECKING:
    import ssl
    import subprocess

    from tests.cli.conftest import Pki


_PEER = struct.Struct("iII")  # struct ucred
_MPTCP = 262  # socket.IPPROTO_MPTCP, unless Python was built without it


def _start_sending(
    pki: Pki, port: int, *words: str
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a command that sends a descriptor through a socketpair; gives our end of that."""
    ours, theirs = socket.socketpair()
    with theirs:
        number = theirs.fileno()
        given = ("--ca", pki.authority, LOOPBACK, port)
        process = start("connect", "--send-fd", number, *words, *given, pass_fds=[number])
    ours.settimeout(PATIENCE)
    return process, ours


def _receive(channel: socket.socket) -> tuple[bytes, list[int]]:
    with channel:
        data, numbers, _, _ = socket.recv_fds(channel, 100, 10)
        assert channel.recv(100) == b""
    return data, numbers


# -- a descriptor for somebody else


def test_sent_descriptor(pki: Pki) -> None:
    """One byte and one descriptor, and the command is over while the connection goes on."""
    server = Server(over_tls(pki.good.server_context(), converse))
    process, channel = _start_sending(pki, server.port)
    data, (number,) = _receive(channel)
    assert data == b"\0"
    assert finish(process).succeeded() == b""
    with socket.socket(fileno=number) as sock:
        sock.settimeout(PATIENCE)
        assert sock.recv(100) == b"hello\n"
        sock.sendall(b"answer")
        sock.shutdown(socket.SHUT_WR)
        assert server.result() == b"answer"
        assert sock.recv(100) == b""


def test_signals_to_the_relay(pki: Pki) -> None:
    """They are for whoever has the descriptor, and his last words arrive."""
    server = Server(over_tls(pki.good.server_context(), converse))
    process, channel = _start_sending(pki, server.port)
    _, (number,) = _receive(channel)
    assert finish(process).succeeded() == b""
    with socket.socket(fileno=number) as sock:
        sock.settimeout(PATIENCE)
        relay, _, _ = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        for each in THE_PROGRAMS:
            os.kill(relay, each)
        sock.sendall(b"farewell")
        sock.shutdown(socket.SHUT_WR)
        assert server.result() == b"farewell"


@pytest.mark.ktls
def test_sent_descriptor_of_the_connection(pki: Pki) -> None:
    """Who is aware gets the connection itself, and the session through a pipe."""
    server = Server(over_tls(pki.good.server_context(), converse))
    ours, theirs = socket.socketpair()
    reader, writer = os.pipe()
    words = ("connect", "--aware", "--send-fd", theirs.fileno(), "--session-fd", writer)
    process = start(
        *("--ktls=require", *words, "--ca", pki.authority, LOOPBACK, server.port),
        pass_fds=[theirs.fileno(), writer],
    )
    theirs.close()
    os.close(writer)
    _, (number,) = _receive(ours)
    assert finish(process).succeeded() == b""
    with open(reader, "rb") as pipe:
        handoff = tlsify.adopt(socket.socket(fileno=number), pipe.read())
    assert handoff.offload is tlsify.Offload.KERNEL
    with tlsify.TLSSocket(handoff) as stream:
        assert stream.recv(100) == b"hello\n"
        stream.sendall(b"answer")
        stream.shutdown(socket.SHUT_WR)
        assert stream.recv(100) == b""
    assert server.result() == b"answer"


def test_nothing_is_sent_in_failure(pki: Pki) -> None:
    """The socket stays empty, stderr has the reason, and the exit code its kind."""
    server = Server(refusal(pki.bad["wrong-name"].server_context()))
    process, channel = _start_sending(pki, server.port)
    assert _receive(channel) == (b"", [])
    finish(process).failed(98)
    server.result()


def test_receiver_that_is_gone(pki: Pki) -> None:
    """It is a system error; the peer gets its close_notify."""
    ended = threading.Event()

    def wait(stream: ssl.SSLSocket) -> bytes:
        received = read_all(stream)
        ended.set()
        return received

    server = Server(over_tls(pki.good.server_context(), wait))
    process, channel = _start_sending(pki, server.port)
    channel.close()
    finish(process).failed(111, "EPIPE")
    assert ended.wait(PATIENCE)


# -- the caller's own descriptor


def _connected(server: Server) -> socket.socket:
    sock = socket.create_connection((LOOPBACK, server.port), timeout=PATIENCE)
    sock.setblocking(True)
    return sock


@pytest.mark.parametrize("carrier", CARRIERS)
def test_socket_of_the_callers(pki: Pki, carrier: str) -> None:
    """With --fd nothing is dialled: the socket is the caller's, and stdin goes there."""
    server = Server(over_tls(pki.good.server_context(), converse))
    with _connected(server) as sock:
        number = sock.fileno()
        words = ("connect", "--fd", number, "--servername", "localhost", "--ca", pki.authority)
        process = start(carrier, *words, pass_fds=[number])
    assert finish(process, b"question").succeeded() == b"hello\n"
    assert server.result() == b"question"


@pytest.mark.ktls
def test_caller_goes_on_with_its_own_descriptor(pki: Pki) -> None:
    """The inherited socket is keyed in place, and nothing of tlsify is left."""
    context = pki.good.server_context()
    context.num_tickets = 0  # they would come first
    server = Server(over_tls(context, converse))
    with _connected(server) as sock:
        number = sock.fileno()
        words = ("connect", "--fd", number, "--aware", "--servername", "localhost")
        assert run(*words, "--ca", pki.authority, pass_fds=[number]).succeeded() == b""
        assert sock.recv(100) == b"hello\n"
        sock.sendall(b"answer")
        sock.sendmsg([b"\1\0"], [(282, 1, b"\x15")])  # close_notify
        sock.shutdown(socket.SHUT_WR)
        assert server.result() == b"answer"


@pytest.mark.usefixtures("lacks_ktls")
def test_caller_without_kernel(pki: Pki) -> None:
    """There is no relay in one's own descriptor: 103, and nothing was sent."""
    server = Server(read_all)
    with _connected(server) as sock:
        words = ("connect", "--fd", sock.fileno(), "--aware", "--servername", "localhost")
        run(*words, "--ca", pki.authority, pass_fds=[sock.fileno()]).failed(103)
    assert server.result() == b""


def test_socket_that_is_no_tcp(pki: Pki) -> None:
    """TLS runs over any stream; only the kernel's needs TCP."""
    ours, theirs = socket.socketpair()
    context = pki.good.server_context()
    with ours:
        words = ("--fd", ours.fileno(), "--servername", "localhost")
        process = start(
            "--ktls", "-v", "connect", *words, "--ca", pki.authority, pass_fds=[ours.fileno()]
        )
    with context.wrap_socket(theirs, server_side=True) as stream:
        stream.sendall(b"hello")
        stream.unwrap()
    outcome = finish(process)
    assert (outcome.status, outcome.out) == (0, b"hello")
    assert "relay" in outcome.err


# -- what does not go together


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--send-fd", "0", LOOPBACK, "1", "--", "true"], 100, "--send-fd and PROG"),
        (["--aware", LOOPBACK, "1"], 100, "--aware"),
        (["--session-fd", "5", LOOPBACK, "1"], 100, "--session-fd"),
        (["--aware", "--session-fd", "5", LOOPBACK, "1", "--", "true"], 100, "--session-fd"),
        (["--send-fd", "0", LOOPBACK, "1"], 96, "not an AF_UNIX socket"),
        (["--fd", "0"], 100, "no server name or identity"),
        (["--fd", "0", "--servername", "x"], 96, "descriptor 0: not a socket"),
        (["--key", "k", LOOPBACK, "1"], 100, "without its certificate"),
        (["--key", "k", "--key-fd", "0", "--cert", "c", LOOPBACK, "1"], 100, "exclude"),
        (["--tls-min", "1.3", "--tls-max", "1.2", LOOPBACK, "1"], 100, "--tls-min is above"),
    ],
)
def test_contradictions(words: list[str], status: int, said: str) -> None:
    """Each is told before anything is sent."""
    refused("connect", *words).failed(status, said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "HOST:PORT is required"),
        ([LOOPBACK], "has no port"),
        (["--fd", "0", "h", "1"], "exclude"),
    ],
)
def test_whom_to_connect_to(words: list[str], said: str) -> None:
    """It is said in one way."""
    refused("connect", *words).failed(100, said)


@pytest.mark.parametrize("words", [["--aware", "--keep"], ["--ciphers", "rc4"], ["--fd", "-1"]])
def test_misuse(words: list[str]) -> None:
    """What the parser itself sees is usage."""
    refused("connect", *words, LOOPBACK, "1").failed(100)


def test_one_descriptor_of_the_kernels() -> None:
    """--send-fd for the unaware is a relay's: requiring the kernel contradicts that."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        number = theirs.fileno()
        words = ("connect", "--send-fd", number, LOOPBACK, "1")
        run("--ktls=require", *words, pass_fds=[number]).failed(100, "aware")


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_ended_by_a_signal(pki: Pki, carrier: str, number: int) -> None:
    """The peer gets its close_notify all the same: ssh, for one, ends its ProxyCommand so."""
    server = Server(over_tls(pki.good.server_context(), converse))
    words = ("connect", "--ca", pki.authority, LOOPBACK, server.port)
    process = start(carrier, *words)
    assert read_line(process.stdout) == "hello\n"
    process.send_signal(number)
    outcome = finish(process)
    assert (outcome.status, outcome.err) == (128 + number, "")
    assert server.result() == b""


@pytest.mark.parametrize("carrier", CARRIERS)
def test_signals_that_the_caller_ignores(pki: Pki, carrier: str) -> None:
    """They stay ignored, as nohup and a shell's background jobs want it."""
    ignored = (signal.SIGHUP, signal.SIGINT)
    server = Server(over_tls(pki.good.server_context(), converse))
    words = ("connect", "--ca", pki.authority, LOOPBACK, server.port)
    process = start(carrier, *words, preexec_fn=lambda: ignore(ignored))
    assert read_line(process.stdout) == "hello\n"
    pause(process)
    for number in (*ignored, signal.SIGCONT):
        process.send_signal(number)
    outcome = finish(process, b"goes on\n")
    assert (outcome.status, outcome.err) == (0, "")
    assert server.result() == b"goes on\n"


@pytest.mark.parametrize("carrier", CARRIERS)
def test_ended_by_several_signals(pki: Pki, carrier: str) -> None:
    """As timeout(1) and systemd send them: one does not disturb what another has begun."""
    server = Server(over_tls(pki.good.server_context(), converse))
    words = ("connect", "--ca", pki.authority, LOOPBACK, server.port)
    process = start(carrier, *words)
    assert read_line(process.stdout) == "hello\n"
    pause(process)
    numbers = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
    for number in (*numbers, signal.SIGCONT):
        process.send_signal(number)
    outcome = finish(process)
    assert outcome.status in [128 + number for number in numbers]
    assert outcome.err == ""
    assert server.result() == b""


@pytest.mark.parametrize("carrier", CARRIERS)
def test_end_of_stdin_that_is_ignored(pki: Pki, carrier: str) -> None:
    """A server that takes close_notify for the end of all interest still answers."""

    def answer(stream: ssl.SSLSocket) -> None:
        assert stream.recv(100) == b"question"
        stream.settimeout(0.2)
        with pytest.raises(TimeoutError):
            stream.recv(1)
        stream.sendall(b"answer")
        stream.settimeout(PATIENCE)
        stream.unwrap()

    server = Server(over_tls(pki.good.server_context(), answer))
    words = ("connect", "--ignore-eof", "--ca", pki.authority, LOOPBACK, server.port)
    assert run(carrier, *words, data=b"question").succeeded() == b"answer"
    server.result()


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("closing", ["strict", "relaxed"])
def test_idle(pki: Pki, carrier: str, closing: str) -> None:
    """With --idle the server is told in good order, and the caller by a status of its own."""

    def answer(stream: ssl.SSLSocket) -> None:
        assert stream.recv(100) == b"question"
        stream.sendall(b"answer")
        assert stream.recv(1) == b""
        stream.unwrap()

    server = Server(over_tls(pki.good.server_context(), answer))
    words = ("connect", "--idle", "2", "--close", closing, "--ca", pki.authority)
    process = start(carrier, *words, LOOPBACK, server.port)
    assert process.stdin is not None
    process.stdin.write(b"question")
    process.stdin.flush()
    assert process.wait(PATIENCE) == ExitCode.DEADLINE  # with stdin open
    outcome = finish(process)
    assert outcome.out == b"answer"
    assert "error: nothing has come or gone for 2 seconds\n" in outcome.err
    server.result()


@pytest.mark.parametrize("words", [["--send-fd", "9"], ["--", "true"], ["--fd", "9", "--aware"]])
def test_idle_is_for_stdin_and_stdout(words: list[str]) -> None:
    """A program, or whoever gets the connection, decides for itself."""
    place = [] if "--fd" in words else ["localhost", "1"]
    given = [*place, *words] if "--" in words else [*words, *place]
    run("connect", "--idle", "5", *given).failed(100, "--idle is for stdin and stdout")


@pytest.mark.parametrize("carrier", CARRIERS)
def test_keeper_that_is_killed(pki: Pki, carrier: str) -> None:
    """Its program is told as of a cut stream: what is missing is not taken for an end."""
    server = Server(over_tls(pki.good.server_context(), _greet_and_wait))
    script = "read line <&6; echo $line; cat <&6; echo status $?"
    words = ("connect", "--ca", pki.authority, LOOPBACK, server.port, "--", "sh", "-c", script)
    process = start(carrier, *words)
    assert read_line(process.stdout) == "hello\n"
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    (keeper, *_) = children.read_text().split()
    os.kill(int(keeper), signal.SIGKILL)
    outcome = finish(process)
    assert outcome.out == b"status 1\n"
    assert "reset by peer" in outcome.err
    server.result()


def _greet_and_wait(stream: ssl.SSLSocket) -> None:
    stream.sendall(b"hello\n")
    with suppress(OSError):
        read_all(stream)


@pytest.mark.skipif(not Path("/proc/sys/net/mptcp").exists(), reason="this kernel has no MPTCP")
def test_socket_of_multipath_tcp(pki: Pki) -> None:
    """It cannot have another ULP: relayed, and 103 if that is not wanted."""
    for mode, status in (("--ktls", 0), ("--ktls=require", 103)):
        with socket.socket(proto=_MPTCP) as listener:
            listener.bind((LOOPBACK, 0))
            listener.listen()
            sock = socket.socket(proto=_MPTCP)
            sock.connect(listener.getsockname())
            theirs, _ = listener.accept()
        server = Endpoint(lambda peer=theirs: _serve_one(pki, peer))  # type: ignore[misc]
        with sock:
            words = ("--fd", sock.fileno(), "--servername", "localhost", "--ca", pki.authority)
            process = start(mode, "connect", *words, pass_fds=[sock.fileno()])
        outcome = finish(process)
        assert outcome.status == status, outcome
        server.result()


def _serve_one(pki: Pki, sock: socket.socket) -> None:
    context = pki.good.server_context()
    with suppress(OSError), context.wrap_socket(sock, server_side=True) as stream:
        converse(stream)
