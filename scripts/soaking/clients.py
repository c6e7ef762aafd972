"""The clients: honest ones, who must be served, and others."""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
import struct
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from functools import partial
    from pathlib import Path

_PATIENCE = 60.0
# A request under way when its worker is killed is lost, and so is who was about to be accepted.
_AFTERMATH = 3.0
_HELLO = bytes.fromhex("16030100050100000100")


@dataclass
class Tally:
    """What became of all of it.

    Attributes:
        served: requests of honest clients that were answered as they should be.
        lost: those that a worker's death has taken along.
        failures: the others, in words.
        rude: visits of the others.
    """

    served: int = 0
    lost: int = 0
    failures: list[str] = field(default_factory=list)
    rude: int = 0


class Crowd:
    """Threads that come and go until they are told to stop."""

    def __init__(self, authority: Path, seed: int) -> None:
        """Prepare; `add` begins."""
        self.tally = Tally()
        self._context = ssl.create_default_context(cafile=authority)
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self.last_kill = 0.0

    def add(self, visit: partial[None], *, honest: bool, pause: float) -> None:
        """Start a thread that visits a server again and again."""
        thread = threading.Thread(target=self._go_on, args=(visit, honest, pause), daemon=True)
        self._threads.append(thread)
        thread.start()

    def end(self) -> None:
        """Stop all of them, and wait for that."""
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * _PATIENCE)
            assert not thread.is_alive(), "a client hangs"

    def _go_on(self, visit: partial[None], honest: bool, pause: float) -> None:
        while not self._stop.wait(pause * self._random.random()):
            began = time.monotonic()
            try:
                visit()
            except (OSError, AssertionError) as exc:
                if honest:
                    with self._lock:
                        if self.last_kill > began - _AFTERMATH:
                            self.tally.lost += 1
                        else:
                            since = time.monotonic() - self.last_kill
                            self.tally.failures.append(
                                f"{visit.func.__name__}{visit.args}, {since:.0f} s after a kill: "
                                f"{type(exc).__name__}: {exc}"
                            )
                    continue
            with self._lock:
                self.tally.served += honest
                self.tally.rude += not honest

    def _connect(self, port: int) -> ssl.SSLSocket:
        sock = socket.create_connection(("127.0.0.1", port), _PATIENCE)
        return self._context.wrap_socket(sock, server_hostname="localhost")

    # -- honest ones

    def fetch(self, port: int, path: str, size: int) -> None:
        """Fetch a page of HTTP."""
        with self._connect(port) as sock:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            answer = bytearray()
            while data := sock.recv(2**16):
                answer += data
        head, _, body = bytes(answer).partition(b"\r\n\r\n")
        assert head.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")), head[:80]
        assert len(body) == size, f"{len(body)} of {size} bytes"

    def echo(self, port: int) -> None:
        """Send a line, and receive it back."""
        with self._connect(port) as sock:
            line = b"x" * self._random.randrange(1, 20_000) + b"\n"
            sock.sendall(line)
            answer = bytearray()
            while len(answer) < len(line) and (data := sock.recv(2**16)):
                answer += data
            assert bytes(answer) == line, f"{len(answer)} of {len(line)} bytes"

    # -- and others

    def be_rude(self, port: int, path: str) -> None:
        """Do one of the things that nobody should do."""
        self._random.choice(
            (self._leave, self._talk_nonsense, self._stall, self._vanish, self._never_read)
        )(port, path)

    def _leave(self, port: int, _path: str) -> None:
        socket.create_connection(("127.0.0.1", port), _PATIENCE).close()

    def _talk_nonsense(self, port: int, _path: str) -> None:
        with socket.create_connection(("127.0.0.1", port), _PATIENCE) as sock:
            sock.sendall(self._random.randbytes(300))
            while sock.recv(2**12):
                pass

    def _stall(self, port: int, _path: str) -> None:
        with socket.create_connection(("127.0.0.1", port), _PATIENCE) as sock:
            sock.sendall(_HELLO[: self._random.randrange(len(_HELLO))])
            self._stop.wait(2)

    def _vanish(self, port: int, path: str) -> None:
        with contextlib.closing(self._connect(port)) as sock:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            sock.recv(100)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _never_read(self, port: int, path: str) -> None:
        with self._connect(port) as sock:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            self._stop.wait(3)
