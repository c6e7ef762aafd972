"""Fetch files over HTTP and TLS while decrypting nothing: records are counted by their headers.

A client that decrypts would cost as much as what is measured. Only the first answer on a connection
is read as TLS; it tells how long the others are.
"""

from __future__ import annotations

import select
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from scripts.bench import client

if TYPE_CHECKING:
    import socket

    from OpenSSL import SSL

_HEADER = 5
# What a TLS 1.3 record of AES-GCM has beside plaintext: content type and tag (RFC 8446 5.2).
_OVERHEAD = 17
_APPLICATION_DATA = 23
_ROOM = 2**20
_SETTLING = 0.05
_CLOSED = "the server closed the connection"


class Meter:
    """Counts the plaintext in a stream of records of TLS 1.3."""

    def __init__(self) -> None:
        """Start at the beginning of a record."""
        self.plaintext = self.records = 0
        self._left = 0  # of the current record's body
        self._header = b""

    def feed(self, data: memoryview) -> None:
        """Process what was received next."""
        at, end = 0, len(data)
        while at < end:
            if self._left:
                step = min(self._left, end - at)
                self._left -= step
                at += step
                continue
            step = min(_HEADER - len(self._header), end - at)
            self._header += bytes(data[at : at + step])
            at += step
            if len(self._header) == _HEADER:
                if self._header[0] != _APPLICATION_DATA:
                    raise RuntimeError(f"record of type {self._header[0]}")
                self._left = int.from_bytes(self._header[3:], "big")
                self.plaintext += self._left - _OVERHEAD
                self.records += 1
                self._header = b""


class Plain:
    """Counts the bytes of a stream without records."""

    def __init__(self) -> None:
        """Start at zero."""
        self.plaintext = self.records = 0

    def feed(self, data: memoryview) -> None:
        """Process what was received next."""
        self.plaintext += len(data)


class Fetcher:
    """One connection that fetches the same file over and over."""

    def __init__(self, port: int, path: str, *, tls: bool, keep: bool) -> None:
        """Connect.

        Args:
            port: of loopback.
            path: what to ask for.
            tls: whether there is TLS 1.3, with AES-128-GCM.
            keep: whether the connection is kept for more; otherwise its end ends the one answer.
        """
        self.connection: SSL.Connection | None = None
        if tls:
            self.connection, self.sock = client.shake(client.context(client.Offer()), port)
        else:
            self.sock = client.dial(port)
        self.meter: Meter | Plain = Meter() if tls else Plain()
        how = "keep-alive" if keep else "close"
        self._request = f"GET /{path} HTTP/1.1\r\nHost: localhost\r\nConnection: {how}\r\n\r\n"
        self._length = 0  # of an answer, its head included

    def learn(self, size: int) -> None:
        """Fetch once, and remember how long an answer is."""
        self.ask()
        head, body = self.begin()
        self._length = head + size
        while body < size:
            body += len(self._read())
        self.meter.plaintext = 0

    def begin(self) -> tuple[int, int]:
        """Read an answer's head, as TLS; return its bytes, and those of the body that came with it.

        Raises:
            RuntimeError: the answer is no success.
        """
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self._read()
        head = answer.index(b"\r\n\r\n") + 4
        if b" 200 " not in answer.partition(b"\r\n")[0]:
            raise RuntimeError(f"answered {answer[:40]!r}")
        return head, len(answer) - head

    def _read(self) -> bytes:
        source: Any = self.sock if self.connection is None else self.connection
        data: bytes = source.recv(2**14)
        if not data:
            raise RuntimeError(_CLOSED)
        return data

    def ask(self) -> None:
        """Send a request."""
        (self.sock if self.connection is None else self.connection).send(self._request.encode())

    def take(self, room: bytearray) -> bool:
        """Process what has come; return whether an answer is complete.

        Raises:
            RuntimeError: the connection is closed.
        """
        size = self.sock.recv_into(room)
        if not size:
            raise RuntimeError(_CLOSED)
        with memoryview(room) as view:
            self.meter.feed(view[:size])
        if self.meter.plaintext < self._length:
            return False
        if self.meter.plaintext > self._length:
            raise RuntimeError("more was sent than asked for")
        self.meter.plaintext = 0
        return True


def whole(port: int, path: str, size: int, times: int, *, tls: bool) -> dict[str, float]:
    """Fetch a large file, on a connection for each time.

    Returns:
        ``seconds``, without those of connecting and handshakes; ``bytes`` of the file,
        ``records``, ``answers``.
    """
    room, seconds, records = bytearray(_ROOM), 0.0, 0
    for _ in range(times):
        fetcher = Fetcher(port, path, tls=tls, keep=False)
        with fetcher.sock:
            # What a server does after the client's Finished is no part of this.
            time.sleep(_SETTLING)
            begun = time.perf_counter()
            fetcher.ask()
            left = size - fetcher.begin()[1]
            # Not until the end of the stream: asyncio's ssl waits for our own close_notify first.
            while fetcher.meter.plaintext < left:
                if not (received := fetcher.sock.recv_into(room)):
                    raise RuntimeError(_CLOSED)
                with memoryview(room) as view:
                    fetcher.meter.feed(view[:received])
            seconds += time.perf_counter() - begun
        records += fetcher.meter.records
    return {"seconds": seconds, "bytes": size * times, "records": records, "answers": times}


class Times(NamedTuple):
    """How many answers to fetch, and over how many connections side by side."""

    answers: int
    connections: int


def repeatedly(port: int, path: str, size: int, times: Times, *, tls: bool) -> dict[str, float]:
    """Fetch a file again and again over connections that are kept; return what `whole` gives."""
    room = bytearray(_ROOM)
    poller = select.epoll()
    fetchers = {}
    for _ in range(times.connections):
        one = Fetcher(port, path, tls=tls, keep=True)
        one.learn(size)
        fetchers[one.sock.fileno()] = one
        poller.register(one.sock, select.EPOLLIN)
    started = finished = 0
    begun = time.perf_counter()
    for one in fetchers.values():
        one.ask()
        started += 1
    while finished < started:
        for descriptor, _ in poller.poll():
            if fetchers[descriptor].take(room):
                finished += 1
                if started < times.answers:
                    fetchers[descriptor].ask()
                    started += 1
    seconds = time.perf_counter() - begun
    records = sum(one.meter.records for one in fetchers.values())
    for one in fetchers.values():
        one.sock.close()
    return {"seconds": seconds, "bytes": size * finished, "records": records, "answers": finished}


def first_byte(port: int, path: str, times: int, *, tls: bool) -> dict[str, float]:
    """Connect, ask, and wait for the first byte of the answer; gives median and worst, in ms."""
    made, taken = client.context(client.Offer()), []
    request = f"GET /{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    for _ in range(times):
        begun = time.perf_counter()
        source: SSL.Connection | socket.socket
        if tls:
            source, sock = client.shake(made, port)
        else:
            source = sock = client.dial(port)
        source.send(request)
        answer = source.recv(1)
        taken.append(time.perf_counter() - begun)
        sock.close()
        if answer != b"H":
            raise RuntimeError(f"answered {answer!r}")
    taken.sort()
    return {"median": 1e3 * taken[len(taken) // 2], "p99": 1e3 * taken[len(taken) * 99 // 100]}
