"""Tests of execute."""

from __future__ import annotations

import ast
import ctypes
import hashlib
import os
import random
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

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
    read_all,
    read_line,
    refusal,
    run,
    stalling,
    start,
)
from tests.doubles import Endpoint, RawPeer, recv_exactly, until
from tests.interop.programs import require
from tests.ports import free_port
from tlsify.cli.program import execute
from tlsify.codepoints import AlertDescription, ContentType
from tlsify.config import ServerConfig
from tlsify.credentials.key_pair import KeyPair
from tlsify.ktls.probe import capabilities
from tlsify.system.process import THE_PROGRAMS
from tlsify.tls.messages import KeyUpdateRequest, encode_key_update

if TYPE_CHECKING:
    import ssl
    import subprocess
    from collections.abc import Iterator

    from tests.cli.conftest import Pki

each_carrier = pytest.mark.parametrize("carrier", CARRIERS)
LARGE = 2**20 if "TLSIFY_GUEST" in os.environ else 2**23
_NOISE = random.Random(5).randbytes(LARGE)
_PR_SET_CHILD_SUBREAPER = 36
# What an interpreter of ours needs to be quick.
PYTHON = (sys.executable, "-S", "-E", "-c")


def _connect(pki: Pki, port: int, *program: str, aware: bool = False) -> tuple[str, ...]:
    words = ("connect", *["--aware"] * aware, "--ca", str(pki.authority), LOOPBACK, str(port))
    return (*words, "--", *program)


def _sh(script: str) -> tuple[str, ...]:
    return ("sh", "-c", script)


@pytest.fixture
def orphans() -> Iterator[None]:
    """Adopt keepers once their programs have ended."""
    library = ctypes.CDLL(None)
    library.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    yield
    library.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _keeper(process: subprocess.Popen[bytes]) -> int:
    """Return the pid of a program's keeper."""
    pid = process.pid
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def _status(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# -- the program


@each_carrier
def test_program_has_our_pid_and_our_status(pki: Pki, carrier: str) -> None:
    """Whoever waits for the command waits for the program."""
    server = Server(over_tls(pki.good.server_context(), converse))
    script = "read line <&6; echo $line $$; echo answer $line >&7; exit 7"
    process = start(carrier, *_connect(pki, server.port, *_sh(script)))
    outcome = finish(process)
    assert (outcome.status, outcome.err) == (7, "")
    assert outcome.out == b"hello %d\n" % process.pid
    assert server.result() == b"answer hello\n"


def test_program_that_is_killed(pki: Pki) -> None:
    """Its end by a signal is the command's; the connection ends in good order all the same."""
    server = Server(over_tls(pki.good.server_context(), converse))
    outcome = run(*_connect(pki, server.port, *_sh("echo x >&7; kill -TERM $$")))
    assert (outcome.status, outcome.err) == (-signal.SIGTERM, "")
    assert server.result() == b"x\n"


def test_signals_are_as_programs_expect_them(pki: Pki) -> None:
    """What Python ignores or catches for itself is back at its default."""
    server = Server(over_tls(pki.good.server_context(), converse))
    outcome = run(*_connect(pki, server.port, "cat", "/proc/self/status"))
    found = dict(line.split(b":\t", 1) for line in outcome.succeeded().splitlines())
    assert {int(found[name], 16) for name in (b"SigBlk", b"SigIgn", b"SigCgt")} == {0}


def test_interrupt_from_the_terminal(pki: Pki) -> None:
    """It ends the program; the keeper goes on for as long as it takes to part."""
    server = Server(over_tls(pki.good.server_context(), converse))
    words = _connect(pki, server.port, *_sh("echo x >&7; exec cat <&6"))
    process = start(*words, start_new_session=True)
    assert read_line(process.stdout) == "hello\n"
    os.killpg(process.pid, signal.SIGINT)
    outcome = finish(process)
    assert (outcome.status, outcome.err) == (-signal.SIGINT, "")
    assert server.result() == b"x\n"


def test_interrupt_in_the_handshake(pki: Pki) -> None:
    """It ends everything at once, in silence."""
    started = threading.Event()

    server = Server(stalling(started))
    process = start(*_connect(pki, server.port, "true"), start_new_session=True)
    assert started.wait(PATIENCE)
    os.killpg(process.pid, signal.SIGINT)
    outcome = finish(process)
    assert (outcome.status, outcome.err) == (128 + signal.SIGINT, "")
    server.result()


@pytest.mark.usefixtures("orphans")
def test_killed_in_the_handshake(pki: Pki) -> None:
    """The connection that nobody will use any more is closed without a word."""
    started, goes_on = threading.Event(), threading.Event()
    context = pki.good.server_context()

    def wait(sock: socket.socket) -> bytes:
        sock.recv(1, socket.MSG_PEEK)
        started.set()
        assert goes_on.wait(PATIENCE)
        with context.wrap_socket(sock, server_side=True) as stream:
            return read_all(stream)

    server = Server(wait)
    process = start(*_connect(pki, server.port, "true"))
    assert started.wait(PATIENCE)
    keeper = _keeper(process)
    process.kill()
    process.wait(PATIENCE)
    goes_on.set()
    assert server.result() == b""
    assert _status(keeper) == 0
    assert finish(process).err == ""


_UNRUNNABLE = {
    "no-such-program": (127, "not found", "PATH"),
    "/nonexistent/program": (127, "not found", "PATH"),
    "plain-file": (126, "not executable", "executable"),
}


@pytest.mark.parametrize("name", _UNRUNNABLE)
def test_program_that_cannot_be_run(pki: Pki, tmp_path: Path, name: str) -> None:
    """It is told as shells tell it, before anything is sent."""
    status, *words = _UNRUNNABLE[name]
    (tmp_path / "plain-file").touch(0o644)
    program = str(tmp_path / name) if name == "plain-file" else name
    with socket.create_server((LOOPBACK, 0)) as listener:
        listener.setblocking(False)
        port = listener.getsockname()[1]
        run(*_connect(pki, port, program)).failed(status, program, *words)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_script_without_interpreter(pki: Pki, tmp_path: Path) -> None:
    """What only exec finds out ends the command with 126."""
    script = tmp_path / "script"
    script.write_text("#!/nonexistent\n")
    script.chmod(0o755)
    server = Server(over_tls(pki.good.server_context(), converse))
    run(*_connect(pki, server.port, str(script))).failed(126, "ENOENT: No such file", "interpreter")
    assert server.result() == b""


def test_words_of_the_program_are_its_own(pki: Pki) -> None:
    """Options of ours may stand behind HOST and PORT; behind "--" nothing is ours."""
    server = Server(over_tls(pki.good.server_context(), converse))
    words = ["connect", LOOPBACK, str(server.port), "--ca", str(pki.authority), "--"]
    program = ["printf", "<%s>", "--ktls", "--", "-v", "--", "--ca"]
    assert run(*words, *program).succeeded() == b"<--ktls><--><-v><--><--ca>"


def test_program_without_dashes(pki: Pki) -> None:
    """A third word is a mistake, not a program."""
    refused("connect", "--ca", pki.authority, LOOPBACK, "1", "true").failed(
        100, '"true" is one', "-- true"
    )


def test_aware_without_program() -> None:
    """--aware is about a program."""
    refused("connect", "--aware", LOOPBACK, "1").failed(100, "--aware", "PROG")


# -- failures before it starts


def _check_never_started(pki: Pki, folder: Path, port: int, status: int, *words: str) -> None:
    program = ("touch", str(folder / "started"))
    run("connect", *words, "--ca", pki.authority, LOOPBACK, port, "--", *program).failed(status)
    assert not (folder / "started").exists()


def test_peer_that_is_not_accepted(pki: Pki, tmp_path: Path) -> None:
    """A certificate for somebody else: 98."""
    server = Server(refusal(pki.bad["wrong-name"].server_context()))
    _check_never_started(pki, tmp_path, server.port, 98)
    server.result()


def test_handshake_that_fails(pki: Pki, tmp_path: Path) -> None:
    """No TLS at all: 97; cut short: 99; too slow: 106; nobody there: 102."""
    for sent, status, end, words in (
        (b"HTTP/1.0 400 \r\n\r\n", 97, False, ()),
        (b"\x16\x03\x03", 99, True, ()),
        (b"", 106, False, ("--timeout", "0.2")),
    ):

        def misbehave(sock: socket.socket, sent: bytes = sent, *, end: bool = end) -> None:
            sock.sendall(sent)
            if end:
                sock.shutdown(socket.SHUT_WR)
            read_all(sock)

        server = Server(misbehave)
        _check_never_started(pki, tmp_path, server.port, status, *words)
        server.result()
    _check_never_started(pki, tmp_path, free_port(), 102)


@pytest.mark.usefixtures("lacks_ktls")
def test_kernel_that_cannot(pki: Pki, tmp_path: Path) -> None:
    """Kernel TLS is required and absent: 103, and not one byte has been sent."""
    server = Server(read_all)
    _check_never_started(pki, tmp_path, server.port, 103, "--ktls=require")
    assert server.result() == b""


# -- what it gets


_LOOK = """
import os
numbers = sorted(int(n) for n in os.listdir("/proc/self/fd"))
print([n for n in numbers if os.path.exists(f"/proc/self/fd/{n}")], dict(os.environ))
"""


@each_carrier
@pytest.mark.parametrize("aware", [False, True], ids=["kept", "aware"])
def test_descriptors_and_environment(pki: Pki, carrier: str, *, aware: bool) -> None:
    """The three streams, the connection, and where there is a session its state: nothing else."""
    server = Server(over_tls(pki.good.server_context(), converse))
    given = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    given["LC_ALL"] = "C"  # or Python sets LC_CTYPE (PEP 538)
    words = _connect(pki, server.port, *PYTHON, _LOOK, aware=aware)
    outcome = run(carrier, *words, env=given | {"TLSIFY_SESSION_FD": "1", "KEYFILE": "/secret"})
    numbers = [0, 1, 2, 6, 7]
    if aware and carrier != "--ktls=off":
        numbers.append(8)
        given["TLSIFY_SESSION_FD"] = "8"
    found, _, environment = outcome.succeeded().decode().partition(" {")
    assert found == str(numbers)
    told = ast.literal_eval("{" + environment)
    assert {name: told.pop(name) for name in given} == given
    assert told.pop("TCPREMOTEPORT") == told.pop("SSLREMOTEPORT") == str(server.port)
    assert told.pop("TLSIFY_KTLS_TX") == told.pop("TLSIFY_KTLS_RX")
    assert set(told) >= {"PROTO", "SSL_PROTOCOL", "SSL_CIPHER", "SSL_PEER_CERT_HASH"}
    assert not [name for name in told if not name.startswith(("PROTO", "SSL", "TCP", "TLSIFY_"))]


@pytest.mark.parametrize("size", [10, 2**16, 100_000])
def test_state_of_any_size(size: int) -> None:
    """What the program is to read later lies there as a whole, though nobody reads it yet."""
    state = os.urandom(size)
    with open(execute._pipe_with(state), "rb") as pipe:
        assert pipe.read() == state


_WAIT = """
import os
try:
    while data := os.read(6, 65536):
        print(len(data), flush=True)
    print("end")
except ConnectionResetError:
    print("reset")
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""


def _truncate(stream: ssl.SSLSocket) -> None:
    stream.sendall(b"part")
    end_raw(stream)


@each_carrier
def test_truncation(pki: Pki, carrier: str) -> None:
    """The program reads what came, then an error; its keeper says what it was, and 99."""
    server = Server(over_tls(pki.good.server_context(), _truncate))
    outcome = run(carrier, *_connect(pki, server.port, *PYTHON, _WAIT))
    assert (outcome.status, outcome.out) == (0, b"4\nreset\n99\n")
    name = f"{LOOPBACK}:{server.port}"
    assert outcome.err.startswith(f"tlsify: error: {name}: the connection ended without close_")
    assert outcome.err.count("\n") == 2
    server.result()


def test_truncation_that_is_none(pki: Pki) -> None:
    """With --close=relaxed it is an end like any other."""
    server = Server(over_tls(pki.good.server_context(), _truncate))
    words = _connect(pki, server.port, *_sh("cat <&6"))
    assert run(words[0], "--close=relaxed", *words[1:]).succeeded() == b"part"
    server.result()


def test_alert(pki: Pki) -> None:
    """An error of the peer's is the keeper's 97."""

    def refuse(sock: socket.socket) -> None:
        peer = RawPeer(sock, ServerConfig(key_pair=KeyPair.load(*pki.good)))
        alert = bytes([2, AlertDescription.internal_error])
        sock.sendall(peer.data(b"part") + peer.seal(ContentType.alert, alert))
        peer.recv()

    server = Server(refuse)
    outcome = run(*_connect(pki, server.port, *PYTHON, _WAIT))
    assert (outcome.status, outcome.out) == (0, b"4\nreset\n97\n")
    assert "internal_error" in outcome.err
    server.result()


@each_carrier
@pytest.mark.usefixtures("orphans")
def test_keeper_ends_soon_and_holds_nothing(pki: Pki, carrier: str) -> None:
    """While it parts, nobody waits for streams that the program has closed; then it is gone."""
    seen = threading.Event()

    def hesitate(stream: ssl.SSLSocket) -> None:
        stream.sendall(b"hello\n")
        assert read_all(stream) == b"x"
        assert seen.wait(PATIENCE)
        stream.unwrap()

    server = Server(over_tls(pki.good.server_context(), hesitate))
    reader, writer = os.pipe()
    words = _connect(pki, server.port, *_sh("printf x >&7; read line <&6; echo $line; read end"))
    process = start(carrier, *words, pass_fds=[writer])
    os.close(writer)
    assert read_line(process.stdout) == "hello\n"
    keeper = _keeper(process)
    assert process.stdin is not None
    process.stdin.close()
    process.stdin = None
    process.wait(PATIENCE)
    assert process.stdout is not None
    assert process.stdout.read() == b""
    with open(reader, "rb") as pipe:
        assert pipe.read() == b""
    assert os.waitpid(keeper, os.WNOHANG) == (0, 0)
    seen.set()
    assert _status(keeper) == 0
    assert finish(process).err == ""
    server.result()


# -- real programs


@each_carrier
def test_download(pki: Pki, carrier: str) -> None:
    """Megabytes through a pipeline of ordinary programs."""

    def give(stream: ssl.SSLSocket) -> None:
        stream.sendall(_NOISE)
        stream.unwrap()

    server = Server(over_tls(pki.good.server_context(), give))
    words = _connect(pki, server.port, *_sh("cat <&6 | sha256sum"))
    digest = hashlib.sha256(_NOISE).hexdigest()
    assert run(carrier, *words).succeeded() == f"{digest}  -\n".encode()
    server.result()


@each_carrier
def test_upload(pki: Pki, carrier: str, tmp_path: Path) -> None:
    """Megabytes to the peer, by a program that ends as soon as it has written them."""
    (tmp_path / "file").write_bytes(_NOISE)
    server = Server(over_tls(pki.good.server_context(), converse))
    outcome = run(carrier, *_connect(pki, server.port, *_sh(f"exec cat {tmp_path}/file >&7")))
    assert outcome.succeeded() == b""
    assert hashlib.sha256(server.result()).digest() == hashlib.sha256(_NOISE).digest()


def test_socat(pki: Pki) -> None:
    """A program that polls both descriptors and uses them at once."""
    require("socat")

    def echo(stream: ssl.SSLSocket) -> None:
        stream.sendall(stream.recv(100).upper())
        stream.unwrap()

    server = Server(over_tls(pki.good.server_context(), echo))
    words = _connect(pki, server.port, "socat", "-t", "30", "-", "FD:6!!FD:7")
    assert run(*words, data=b"question").succeeded() == b"QUESTION"
    server.result()


# -- programs that know the contract


_ADOPT = """
import os, socket, tlsify
number = os.environ.get("TLSIFY_SESSION_FD")
sock = socket.socket(fileno=6)
if number is not None:
    os.close(7)
    with open(int(number), "rb") as pipe:
        sock = tlsify.TLSSocket(tlsify.adopt(sock, pipe.read()))
for _ in range(3):
    sock.sendall(sock.recv(100).upper())
try:
    assert sock.recv(1) == b""
    print("closed")
except tlsify.TlsifyError as exc:
    print(type(exc).__name__)
sock.close()
"""


@pytest.mark.each_kernel
@each_carrier
def test_session_store(pki: Pki, carrier: str, tmp_path: Path) -> None:
    """The keeper, confined or not, keeps what comes for connections to come."""

    def greet(stream: ssl.SSLSocket) -> bool | None:
        stream.sendall(b"hello\n")
        read_all(stream)
        return stream.session_reused

    serve = over_tls(pki.good.server_context(), greet)
    words = ("connect", "--ca", str(pki.authority), "--session-store", str(tmp_path / "store"))
    with socket.create_server((LOOPBACK, 0)) as listener:
        place = (LOOPBACK, str(listener.getsockname()[1]))
        for expected in (False, True):
            server = Endpoint(lambda: serve(listener.accept()[0]))
            outcome = run(carrier, *words, *place, "--", *_sh("head -n 1 <&6"))
            assert outcome.out == b"hello\n"
            assert server.result(PATIENCE) is expected
            until(lambda: any((tmp_path / "store").glob("*.session")))


@each_carrier
def test_aware_program(pki: Pki, carrier: str) -> None:
    """It goes on where the handshake ended, KeyUpdates included where the kernel follows them."""
    follows = carrier == "--ktls=off" or capabilities().rekey
    update = (ContentType.handshake, encode_key_update(KeyUpdateRequest.update_not_requested))

    def converse(sock: socket.socket) -> None:
        peer = RawPeer(sock, ServerConfig(key_pair=KeyPair.load(*pki.good)))
        for number in range(3):
            peer.send_data(b"data %d" % number)
            record = peer.recv()
            if record == update:
                peer.follow_key_update()
                record = peer.recv()
            assert record == (ContentType.application_data, b"DATA %d" % number)
            if follows:
                sock.sendall(peer.key_update(KeyUpdateRequest.update_requested))
        peer.close_notify()
        while (record := peer.recv()) is not None:
            if record == update:
                peer.follow_key_update()

    server = Server(converse)
    words = _connect(pki, server.port, sys.executable, "-c", _ADOPT, aware=True)
    assert run(carrier, *words).succeeded() == b"closed\n"
    server.result()


@pytest.mark.ktls
def test_aware_program_is_alone(pki: Pki) -> None:
    """Nothing of ours is left beside it."""
    server = Server(over_tls(pki.good.server_context(), lambda stream: stream.recv(1)))
    script = "cat /proc/$$/task/$$/children; printf x >&7; read end"
    words = _connect(pki, server.port, *_sh(script), aware=True)
    process = start("--ktls=require", *words)
    assert server.result() == b"x"
    outcome = finish(process, b"\n")
    assert outcome.status == 0
    assert len(outcome.out.split()) == 1  # cat itself


# -- signals that are sent to a program and its keeper alike

# Says goodbye once, and ends, when it is asked to end: a second signal may come amid the first.
_FAREWELL = """
farewell() { trap '' TERM INT HUP QUIT; echo bye >&7; exit 0; }
trap farewell TERM INT HUP QUIT; echo hello >&7; while :; do sleep 0.05; done
"""


@each_carrier
@pytest.mark.parametrize("number", THE_PROGRAMS)
def test_signal_to_the_whole_group(pki: Pki, carrier: str, number: int) -> None:
    """timeout(1) sends so, and systemd: the farewell arrives, and close_notify behind it."""
    greeted = threading.Event()

    def converse(stream: ssl.SSLSocket) -> bytes:
        assert recv_exactly(stream, 6) == b"hello\n"
        greeted.set()
        return read_all(stream)

    server = Server(over_tls(pki.good.server_context(), converse))
    process = start(carrier, *_connect(pki, server.port, *_sh(_FAREWELL)), start_new_session=True)
    assert greeted.wait(PATIENCE)
    for _ in range(2):
        os.killpg(process.pid, number)
    assert finish(process).status == 0
    assert server.result() == b"bye\n"


@each_carrier
def test_keeper_ends_with_its_program(pki: Pki, carrier: str, orphans: None) -> None:
    """A signal for the keeper alone does not end it before."""
    del orphans
    server = Server(over_tls(pki.good.server_context(), converse))
    process = start(
        carrier,
        *_connect(pki, server.port, *_sh("read line <&6; echo ready; read x; echo last >&7")),
    )
    assert read_line(process.stdout) == "ready\n"
    keeper = _keeper(process)
    os.kill(keeper, signal.SIGTERM)
    assert finish(process, b"x\n").status == 0
    assert _status(keeper) == 0
    assert server.result() == b"last\n"


_NEVER_WAITS = """
import os
os.set_blocking(7, False)
size = 0
try:
    while True:
        size += os.write(7, bytes(2**12))
except BlockingIOError:
    print(size, flush=True)
"""


@each_carrier
def test_program_that_never_waits(pki: Pki, carrier: str) -> None:
    """What it has written before its end arrives: its flags are not the keeper's."""
    begin = threading.Event()

    def take(stream: ssl.SSLSocket) -> int:
        assert begin.wait(PATIENCE)
        return len(read_all(stream))

    server = Server(over_tls(pki.good.server_context(), take))
    process = start(carrier, *_connect(pki, server.port, *PYTHON, _NEVER_WAITS))
    size = int(read_line(process.stdout))
    process.wait(PATIENCE)
    begin.set()
    assert finish(process).err == ""
    assert server.result() == size > 0
