"""Tests of exit: a program that ends with connections open."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.connection.ending.test_forks import _fork
from tests.doubles import OFFLOADS, Endpoint, until
from tlsify import ClientConfig, TLSSocket, connect
from tlsify.connection import exit as interpreter
from tlsify.system.process import status_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import trustme

    from tlsify.config import KtlsPolicy

SIZE = 600_000
_SLOW = 2**16  # bytes, after which the peer waits a moment
_PRELUDE = f"""
import os, signal, socket, sys, threading
N = {SIZE}
from tlsify import ClientConfig, TLSSocket, connect
from tlsify.config import KtlsMode, KtlsPolicy
def opened():
    sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    return connect(sock, ClientConfig(verify=False), KtlsPolicy(KtlsMode(sys.argv[2])))
"""
_THREAD = """
def work():
    threading.main_thread().join()
    stream.sendall(bytes(N))
stream = TLSSocket(opened())
threading.Thread(target=work).start()
"""
# A child that has imported nothing of tlsify before it was forked, and waits for what it closes.
_CHILD = f"""
import os, sys
if pid := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
import asyncio, uvloop
from tlsify import ClientConfig, aio
from tlsify.config import KtlsMode, KtlsPolicy
async def main():
    policy = KtlsPolicy(KtlsMode(sys.argv[2]))
    options = dict(config=ClientConfig(verify=False), policy=policy)
    _, writer = await aio.open_connection("127.0.0.1", int(sys.argv[1]), **options)
    writer.write(bytes({SIZE}))
    writer.close()
    await writer.wait_closed()
    os._exit(0)
"""
# What a program does with a connection, besides to send, and its exit status.
_PROGRAMS = {
    "ends": ("stream = TLSSocket(opened()); stream.sendall(bytes(N))", 0),
    "bare": ("handed = opened(); handed.sock.sendall(bytes(N))", 0),
    "exits": ("stream = TLSSocket(opened()); stream.sendall(bytes(N)); sys.exit(3)", 3),
    "fails": ("stream = TLSSocket(opened()); stream.sendall(bytes(N)); {}[1]", 1),
    "in another thread": (_THREAD, 0),
    "idle": ("stream = TLSSocket(opened())", 0),
}
both = pytest.mark.parametrize("mode", ["off", pytest.param("require", marks=pytest.mark.ktls)])


class Arrived(NamedTuple):
    """What a peer has received, and whether that ended with close_notify."""

    size: int
    in_order: bool


class Peer:
    """A server that sends its tickets, reads slowly, and never closes first."""

    def __init__(self, authority: trustme.CA) -> None:
        """Listen."""
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("example.org").configure_cert(self._context)
        self._listener = socket.create_server(("127.0.0.1", 0))
        # Loopback's segments are longer than the window below: TCP would wait before each.
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1400)
        self.port = self._listener.getsockname()[1]

    def close(self) -> None:
        """Listen no more."""
        self._listener.close()

    def serve(self) -> Arrived:
        """Serve one connection."""
        sock, _ = self._listener.accept()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)
        sock.settimeout(60)
        with self._context.wrap_socket(
            sock, server_side=True, suppress_ragged_eofs=False
        ) as stream:
            size = paused_at = 0
            pause = threading.Event()
            try:
                while received := stream.recv(2**14):
                    size += len(received)
                    if size >= paused_at + _SLOW:
                        paused_at = size
                        pause.wait(0.002)
            except (ssl.SSLEOFError, ConnectionError):  # whether the reset, too, is here already
                return Arrived(size, in_order=False)
            return Arrived(size, in_order=True)


@pytest.fixture
def peer(authority: trustme.CA) -> Iterator[Peer]:
    """A peer."""
    made = Peer(authority)
    yield made
    made.close()


def _start(peer: Peer, mode: str, program: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", _PRELUDE + program, str(peer.port), mode])


@pytest.mark.ktls
def test_program_that_ends(peer: Peer) -> None:
    """What it has sent arrives, in front of what nobody has read."""
    serving = Endpoint(peer.serve)
    with _start(peer, "require", _PROGRAMS["ends"][0]) as process:
        assert process.wait(60) == 0
    assert serving.result() == Arrived(SIZE, in_order=False)


@both
@pytest.mark.parametrize("program", _PROGRAMS)
def test_program_that_closes_nothing(peer: Peer, mode: str, program: str) -> None:
    """It ends, what it has sent arrives, and that is no end in good order."""
    serving = Endpoint(peer.serve)
    text, status = _PROGRAMS[program]
    with _start(peer, mode, text) as process:
        assert process.wait(60) == status
    arrived = serving.result()
    assert arrived == Arrived(0 if program == "idle" else SIZE, in_order=False)


# What programs still do at their end: its text, and what their peers see of it.
_LAST_WORDS = {
    "an open connection in atexit": (
        "stream = TLSSocket(opened())\natexit.register(lambda: stream.sendall(bytes(N)))",
        Arrived(SIZE, in_order=False),
    ),
    "a new one in atexit": (
        (
            "def report():\n"
            "    with TLSSocket(opened()) as stream: stream.sendall(bytes(N))\n"
            "atexit.register(report)"
        ),
        Arrived(SIZE, in_order=True),
    ),
    "a file's buffer": (
        "stream = TLSSocket(opened()); file = stream.makefile('wb', N); file.write(bytes(N - 1))",
        Arrived(SIZE - 1, in_order=False),
    ),
    "daemons": (
        (
            "stream = TLSSocket(opened()); stream.sendall(bytes(N))\n"
            "def work(call):\n"
            "    while True: call()\n"
            "wait = threading.Event().wait\n"  # behind the answer to our close_notify
            "for call in (lambda: stream.sendall(b'1'), lambda: stream.recv(1) or wait()):\n"
            "    threading.Thread(target=work, args=[call], daemon=True).start()"
        ),
        None,
    ),
    "after a fork": (
        (
            "stream = TLSSocket(opened()); stream.sendall(bytes(N))\n"
            "if not os.fork(): os._exit(0)\n"
            "os.wait()"
        ),
        Arrived(SIZE, in_order=False),
    ),
    "a process of multiprocessing": (
        (
            "import multiprocessing\n"
            "def work():\n"
            "    global stream\n"
            "    stream = TLSSocket(opened()); stream.sendall(bytes(N))\n"
            "child = multiprocessing.get_context('fork').Process(target=work)\n"
            "child.start(); child.join()"
        ),
        Arrived(SIZE, in_order=False),
    ),
}
# What comes too late is an error, and no end in order.
_TOO_LATE = """
import atexit
@atexit.register
def report():
    for attempt in (lambda: stream.sendall(bytes(N)), lambda: stream.recv(1), connect_again):
        try: print("done", attempt(), flush=True)
        except (OSError, TlsifyError) as exc: print(exc, flush=True)
def connect_again():
    with TLSSocket(opened()) as second: second.sendall(b"second")
"""


@both
@pytest.mark.parametrize("program", _LAST_WORDS)
def test_last_words(peer: Peer, mode: str, program: str) -> None:
    """What a program sends at its end arrives, and it ends without a complaint."""
    serving = Endpoint(peer.serve)
    text, expected = _LAST_WORDS[program]
    text = f"{_PRELUDE}import atexit\n{text}"
    # A process with threads that forks is warned by Python, from 3.12 on.
    words = [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", text]
    words += [str(peer.port), mode]
    done = subprocess.run(words, timeout=60, check=True, capture_output=True, text=True)
    assert not done.stderr
    arrived = serving.result()
    assert arrived == expected or (expected is None and arrived.size >= SIZE)


@pytest.mark.parametrize("policy", OFFLOADS)
def test_daemon_that_closes_all_descriptors(peer: Peer, policy: KtlsPolicy, tmp_path: Path) -> None:
    """Its later connections work, and nothing is written into files that have got the numbers."""
    serving, path = Endpoint(peer.serve), tmp_path / "file"

    def be_daemon() -> None:
        bell = interpreter.bell()
        os.closerange(3, 2**12)
        files = [path.open("ab", buffering=0) for _ in range(100)]
        assert bell in {file.fileno() for file in files}
        sock = socket.create_connection(("127.0.0.1", peer.port))
        stream = TLSSocket(connect(sock, ClientConfig(verify=False), policy))
        stream.sendall(bytes(SIZE))
        interpreter.end()

    assert status_of(_fork(be_daemon)) == 0
    assert serving.result() == Arrived(SIZE, in_order=False)
    assert path.read_bytes() == b""


def test_too_late(peer: Peer) -> None:
    """Connections have ended for a callback that atexit had before tlsify was imported."""

    def serve() -> Arrived | None:
        try:
            return peer.serve()
        except (ssl.SSLError, ConnectionError):
            return None

    both_served = [Endpoint(serve) for _ in range(2)]
    program = f"{_TOO_LATE}{_PRELUDE}from tlsify import TlsifyError\nstream = TLSSocket(opened())"
    words = [sys.executable, "-c", program, str(peer.port), "off"]
    done = subprocess.run(words, timeout=60, check=True, stdout=subprocess.PIPE, text=True)
    sent, received, connected = done.stdout.splitlines()
    assert "Broken pipe" in sent
    assert "ended the connection" in received
    assert "the interpreter is ending" in connected
    arrived = {each.result() for each in both_served}
    assert arrived == {Arrived(0, in_order=False), None}, "without a thread there is no handshake"


@both
def test_interrupted(peer: Peer, mode: str, tmp_path: Path) -> None:
    """Ctrl-C ends a program that waits for a peer, however idle that is."""
    serving = Endpoint(peer.serve)
    ready = tmp_path / "ready"
    program = f"stream = TLSSocket(opened()); open({str(ready)!r}, 'w').close(); stream.recv(1)"
    with _start(peer, mode, program) as process:
        until(ready.exists)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == -signal.SIGINT
    assert not serving.result().in_order


@both
@pytest.mark.parametrize("how", ["close", "shutdown", "with"])
def test_what_was_closed_before(peer: Peer, mode: str, how: str) -> None:
    """An end in good order stays one, and nothing of it is lost at the program's."""
    program = {
        "close": "stream = TLSSocket(opened()); stream.sendall(bytes(N)); stream.close()",
        "shutdown": (
            "stream = TLSSocket(opened()); stream.sendall(bytes(N));stream.shutdown(socket.SHUT_WR)"
        ),
        "with": "with TLSSocket(opened()) as stream: stream.sendall(bytes(N))",
    }[how]
    serving = Endpoint(peer.serve)
    with _start(peer, mode, program) as process:
        assert process.wait(60) == 0
    assert serving.result() == Arrived(SIZE, in_order=True)


@both
@pytest.mark.parametrize("loop", ["asyncio.run", "uvloop.run"])
def test_child_on_a_loop(peer: Peer, mode: str, loop: str) -> None:
    """It is told that a connection is closed when nothing would be lost with it, and ends there."""
    serving = Endpoint(peer.serve)
    words = [sys.executable, "-c", f"{_CHILD}\n{loop}(main())", str(peer.port), mode]
    assert subprocess.run(words, timeout=60, check=False).returncode == 0
    assert serving.result() == Arrived(SIZE, in_order=True)
