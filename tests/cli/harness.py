"""The command in a process of its own, and the peers that it meets."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import warnings
from contextlib import contextmanager, suppress
from http.client import HTTPSConnection
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Self

import psutil
import pytest

from tests.doubles import Endpoint, descriptors, until
from tests.interop.programs import AS_ROOT

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

COMMAND = (sys.executable, "-m", "tlsify")
LOOPBACK = "127.0.0.1"
PATIENCE = 60.0  # seconds; only failures take them
# For parametrize: who protects the records.
CARRIERS = (
    pytest.param("--ktls=off", id="relay"),
    pytest.param("--ktls=require", id="kernel", marks=pytest.mark.ktls),
)
REFUSED = re.compile(r"^tlsify: \S+:\d+: connection refused: .*\n", re.MULTILINE)
_FRESH = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
# A socket that nobody closed becomes a line on stderr, and then no expectation holds.
ENVIRONMENT = _FRESH | {"PYTHONWARNINGS": "always::ResourceWarning"}


class Outcome(NamedTuple):
    """How a command ended."""

    status: int
    out: bytes
    err: str

    def succeeded(self) -> bytes:
        """Expect success without a word on stderr, but for clients refused; gives stdout."""
        assert (self.status, REFUSED.sub("", self.err)) == (0, ""), self
        return self.out

    def failed(self, status: int, *words: str, out: bytes | None = b"") -> str:
        """Expect one error line and one hint line, nothing else; return both.

        Args:
            status: exit status.
            words: what the two lines must contain.
            out: what must have come on stdout; None for anything.
        """
        assert self.status == status, self.err
        lines = self.err.splitlines(keepends=True)
        starts = ["tlsify: error: ", "tlsify: hint: "]
        assert len(lines) == len(starts), self.err
        assert [line[: len(start)] for line, start in zip(lines, starts, strict=True)] == starts
        assert all(len(line) > len(start) + 5 for line, start in zip(lines, starts, strict=True))
        for word in words:
            assert word in self.err
        assert out is None or self.out == out
        return self.err


def start(*words: str | int | Path, **options: Any) -> subprocess.Popen[bytes]:
    """Start the command with pipes on all three streams."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    options = {"env": ENVIRONMENT, **pipes, **options}
    return subprocess.Popen([*COMMAND, *map(str, words)], **options)


def finish(process: subprocess.Popen[bytes], data: bytes = b"") -> Outcome:
    """Return a command its stdin and wait for its end."""
    with process:
        try:
            out, err = process.communicate(data if process.stdin else None, timeout=PATIENCE)
        finally:
            process.kill()
    return Outcome(process.returncode, out or b"", AS_ROOT.sub("", (err or b"").decode()))


def run(*words: str | int | Path, data: bytes = b"", **options: Any) -> Outcome:
    """Run the command to its end."""
    return finish(start(*words, **options), data)


def read_line(stream: IO[bytes] | None) -> str:
    """Read a line that must come."""
    assert stream is not None
    return stream.readline().decode()


def read_message(stream: IO[bytes] | None) -> str:
    """Read the next line of a log, apart from what servers tell root."""
    while AS_ROOT.match(line := read_line(stream)):
        pass
    return line


def pause(process: subprocess.Popen[bytes]) -> None:
    """Stop it, and wait until it stands."""
    process.send_signal(signal.SIGSTOP)
    until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, PATIENCE)


def insist(process: subprocess.Popen[Any], number: int = signal.SIGTERM) -> None:
    """Send a signal until the process has ended: one that follows at once is the same request."""

    def has_ended() -> bool:
        process.send_signal(number)
        return process.poll() is not None

    until(has_ended, PATIENCE)


# -- servers for connect


class Server:
    """Accepts one connection on loopback and gives it to a function, in a thread."""

    def __init__(self, work: Callable[[socket.socket], object]) -> None:
        """Listen at once."""
        self._listener = socket.create_server((LOOPBACK, 0))
        self._listener.settimeout(PATIENCE)
        self.port: int = self._listener.getsockname()[1]
        self._work = work
        self._endpoint = Endpoint(self._serve)

    def _serve(self) -> object:
        with self._listener:
            sock, _ = self._listener.accept()
        with sock:
            sock.settimeout(PATIENCE)
            return self._work(sock)

    def result(self) -> Any:
        """Wait for what the function returns, or raise what it raised."""
        return self._endpoint.result(PATIENCE)


def over_tls(
    context: ssl.SSLContext, work: Callable[[ssl.SSLSocket], object]
) -> Callable[[socket.socket], object]:
    """Put TLS, as Python's ssl does it, under a function for `Server`."""

    def serve(sock: socket.socket) -> object:
        with context.wrap_socket(sock, server_side=True, suppress_ragged_eofs=False) as stream:
            return work(stream)

    return serve


def refusal(
    context: ssl.SSLContext, end: Callable[[socket.socket], object] | None = None
) -> Callable[[socket.socket], object]:
    """Make a function for `Server` that gives the reason why its handshake failed.

    Args:
        context: the server's.
        end: what to do with the connection then; by default it is read to its end.
    """

    def serve(sock: socket.socket) -> str | None:
        copy = sock.dup()
        stream = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        with copy, stream:
            with pytest.raises(ssl.SSLError) as caught:
                stream.do_handshake()
            (end or read_all)(copy)
            return caught.value.reason

    return serve


def read_all(sock: socket.socket) -> bytes:
    """Receive until the end of the stream."""
    return b"".join(iter(lambda: sock.recv(2**16), b""))


def end_raw(stream: ssl.SSLSocket) -> None:
    """End the stream without close_notify: truncation."""
    with socket.socket(fileno=stream.detach()) as sock:
        sock.shutdown(socket.SHUT_WR)


class CutPeer:
    """One side of a handshake in memory, of which only the first bytes reach the wire."""

    def __init__(self, context: ssl.SSLContext, *, server: bool) -> None:
        """Prepare."""
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=server)

    def talk(self, sock: socket.socket, budget: int) -> bool:
        """Shake hands until the budget is used up, then end the stream and wait for the other's.

        Returns:
            Whether the budget cut something off.
        """
        with suppress(ConnectionResetError, BrokenPipeError):
            while True:
                done = True
                try:
                    self._tls.do_handshake()
                except ssl.SSLWantReadError:
                    done = False
                output = self._out.read()
                sock.sendall(output[:budget])
                if budget < len(output):
                    sock.shutdown(socket.SHUT_WR)
                    read_all(sock)
                    return True
                budget -= len(output)
                if done or not (received := sock.recv(2**16)):
                    return False
                self._in.write(received)
        return True


def converse(stream: ssl.SSLSocket) -> bytes:
    """Greet, take what comes up to the end, and close."""
    stream.sendall(b"hello\n")
    received = read_all(stream)
    stream.unwrap()
    return received


def stalling(started: threading.Event) -> Callable[[socket.socket], None]:
    """Return a server that receives the beginning of a handshake, says so, and never answers."""

    def stall(sock: socket.socket) -> None:
        sock.recv(5)
        started.set()
        read_all(sock)

    return stall


def only_tls11(context: ssl.SSLContext) -> None:
    """Allow TLS 1.1 alone."""
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1


def only_cbc(context: ssl.SSLContext) -> None:
    """Allow a CBC cipher alone."""
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-ECDSA-AES128-SHA")


# -- serve and its clients


def fetch(port: int, context: ssl.SSLContext, path: str = "/", **fields: str) -> tuple[int, bytes]:
    """Fetch a file: status and body; underscores in names of fields become hyphens."""
    connection = HTTPSConnection(
        "localhost", port, context=context, timeout=PATIENCE, source_address=(LOOPBACK, 0)
    )
    try:
        headers = {name.replace("_", "-"): value for name, value in fields.items()}
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


class Running:
    """A command that serves, until the end of a block."""

    process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        """Serve."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it, however the test ended."""
        if self.process.poll() is None:
            self.process.kill()
        finish(self.process)

    def stop(self, number: int = signal.SIGTERM) -> Outcome:
        """Ask it to end; return how it did."""
        self.process.send_signal(number)
        return self.finish()

    def finish(self) -> Outcome:
        """Wait for its end; return how it did."""
        return finish(self.process)

    def children(self) -> list[int]:
        """Return which processes it has forked, and which still run."""
        pid = self.process.pid
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Served(Running):
    """A running ``tlsify serve``."""

    def __init__(self, *words: str | int | Path, **options: Any) -> None:
        """Start it and wait until it is ready."""
        self.process = start(*words, stdin=subprocess.DEVNULL, **options)
        self.lines: list[str] = []
        while not self.lines or "serving" not in self.lines[-1]:
            line = read_line(self.process.stdout)
            if not line:
                raise AssertionError(f"it did not start: {finish(self.process).err}")
            self.lines.append(line)
        self.port = int(self.lines[-1].rpartition("/ (")[0].rpartition(":")[2])
        self._idle = self.descriptors()

    @property
    def ready_line(self) -> str:
        """What it said when it was ready."""
        return self.lines[-1]

    def read_lines(self, number: int) -> None:
        """Read on until there are so many in all."""
        while len(self.lines) < number:
            line = read_line(self.process.stdout)
            assert line, "it has ended"
            self.lines.append(line)

    def descriptors(self) -> int:
        """Return how many descriptors it and its workers have open."""
        return sum(len(descriptors(pid)) for pid in {self.process.pid, *self.workers()})

    def connect(self) -> socket.socket:
        """Make a TCP connection."""
        sock = socket.create_connection((LOOPBACK, self.port), timeout=PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def fetch(self, context: ssl.SSLContext, path: str = "/", **fields: str) -> tuple[int, bytes]:
        """Fetch as the function `fetch` does."""
        return fetch(self.port, context, path, **fields)

    def workers(self) -> set[int]:
        """Return which processes it has forked."""
        return set(self.children())

    @contextmanager
    def unharmed(self, context: ssl.SSLContext) -> Iterator[None]:
        """Expect that after the block it serves as before, and no connection has left anything."""
        yield
        assert self.fetch(context) == (200, b"index")
        until(lambda: self.descriptors() <= self._idle, PATIENCE)
        assert self.process.poll() is None


def in_threads(count: int, work: Callable[[int], object]) -> None:
    """Do something several times at once."""
    threads = [Endpoint(lambda n=n: work(n)) for n in range(count)]  # type: ignore[misc]
    for thread in threads:
        thread.result(PATIENCE)
