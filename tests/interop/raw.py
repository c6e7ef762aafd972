"""A TLS peer that the test holds in its own hands, and tlsify's side run in step with it."""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from tests.interop.programs import PATIENCE
from tlsify.codepoints import ContentType, ProtocolVersion
from tlsify.connection.establish import PendingConnection, take
from tlsify.connection.stream import TLSSocket
from tlsify.tls import schedule
from tlsify.tls.engine import Engine
from tlsify.tls.handshake_keys import secrets
from tlsify.tls.protection import open_record, seal_record
from tlsify.tls.record import Framer, split_records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tlsify.codepoints import CipherSuite
    from tlsify.config import ClientConfig, KtlsPolicy, ServerConfig
    from tlsify.keys import TrafficKeys

T = TypeVar("T")
_CLOSE_NOTIFY = b"\1\0"


@dataclass(frozen=True)
class Manner:
    """How a raw peer sends.

    Attributes:
        early: data that goes out in the same flight as Finished, before the other side has
            answered it (TLS 1.3 server: RFC 8446 2; TLS 1.2 client: RFC 7918).
        held_back: how many bytes at the end of that flight come in a segment of their own.
        cut: how every other flight is divided; each piece becomes one send.
    """

    early: bytes = b""
    held_back: int = 0
    cut: Callable[[bytes], Iterable[bytes]] = field(default=lambda flight: [flight])


class RawPeer:
    """Decides by itself which bytes go out together; its records are sealed in userspace.

    Attributes:
        sock: its end of the connection, non-blocking.
        records: content type and payload of each protected record received.
    """

    def __init__(
        self,
        sock: socket.socket,
        config: ClientConfig | ServerConfig,
        suite: CipherSuite,
        manner: Manner,
    ) -> None:
        """Wrap a connected socket; a client's first flight is ready to be delivered."""
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.records: list[tuple[int, bytes]] = []
        self._suite, self._manner = suite, manner
        self._engine = Engine(config)
        self._framer = Framer()
        self._pieces: deque[bytes] = deque()
        self._tx: TrafficKeys | None = None
        self._sent = self._opened = 0
        self._emit()

    def step(self) -> bool:
        """Deliver the next piece, or take what has come; False if there was neither."""
        if self._pieces:
            piece = self._pieces.popleft()
            assert self.sock.send(piece) == len(piece)
            return True
        try:
            data = self.sock.recv(self._framer.need())
        except BlockingIOError:
            return False
        if record := self._framer.feed(data):
            self._take(record)
        return bool(data)

    def send(self, *payloads: bytes) -> None:
        """Queue data, one record each, as one flight."""
        self._deliver(self._seal(ContentType.application_data, *payloads))

    def close(self) -> None:
        """Queue close_notify."""
        self._deliver(self._seal(ContentType.alert, _CLOSE_NOTIFY))

    @property
    def data(self) -> list[bytes]:
        """What has come as application data, record by record."""
        return [data for kind, data in self.records if kind == ContentType.application_data]

    @property
    def is_closed(self) -> bool:
        """Whether the other side has sent close_notify."""
        return (ContentType.alert, _CLOSE_NOTIFY) in self.records

    def _take(self, record: bytes) -> None:
        keys = self._engine.keys
        if keys is None:
            self._engine.feed(record)
            self._emit()
        else:
            number = keys.rx.seq + self._opened
            self._opened += 1
            self.records.append(open_record(keys.rx, number, record))

    def _emit(self) -> None:
        """Queue what the engine puts out; early data goes behind Finished."""
        flight = self._engine.output()
        if not flight:
            return
        if self._manner.early and self._tx is None and self._holds_finished(flight):
            flight += self._seal(ContentType.application_data, self._manner.early)
            cut = len(flight) - self._manner.held_back
            self._pieces.extend(piece for piece in (flight[:cut], flight[cut:]) if piece)
        else:
            self._deliver(flight)

    def _holds_finished(self, flight: bytes) -> bool:
        if self._engine.result() is not None:
            return True
        if self._suite.version is ProtocolVersion.TLSv1_3:
            return not self._engine.is_client
        kinds = [record[0] for record in split_records(flight)]
        return ContentType.change_cipher_spec in kinds

    def _deliver(self, flight: bytes) -> None:
        self._pieces.extend(self._manner.cut(flight))

    def _seal(self, kind: ContentType, *payloads: bytes) -> bytes:
        if self._tx is None:
            self._tx = self._own_keys()
        sealed = b""
        for payload in payloads:
            sealed += seal_record(self._tx, self._tx.seq + self._sent, kind, payload)
            self._sent += 1
        return sealed

    def _own_keys(self) -> TrafficKeys:
        """Return the keys of our direction, which exist before the engine has finished."""
        if self._engine.keys is not None:
            return self._engine.keys.tx
        if self._suite.version is ProtocolVersion.TLSv1_3:
            secret = secrets(self._engine._key_log)[b"SERVER_TRAFFIC_SECRET_0"]
            return schedule.traffic_keys(self._suite, bytes(secret))
        connection = self._engine._connection
        assert connection is not None
        randoms = connection.client_random(), connection.server_random()
        block = schedule.key_block(
            self._suite, connection.master_key() or b"", randoms[0] or b"", randoms[1] or b""
        )
        *_, finished = split_records(self._engine._last_flight)
        return schedule.tls12_keys(self._suite, block.client_key, block.client_iv, finished)


def hand_over(
    sock: socket.socket,
    config: ClientConfig | ServerConfig,
    policy: KtlsPolicy,
    peer: RawPeer,
) -> TLSSocket:
    """Do what ``connect`` and ``accept`` do, taking turns with the peer in one thread.

    The peer delivers its next piece only when everything before it has been read, so what is in
    one piece and what is not decides what tlsify sees, whatever the machine's load.
    """
    sock = take(sock)  # whoever closes it: the relay may not be through with it
    opening = PendingConnection(sock, config, policy)
    sock.setblocking(False)
    engine = opening.engine
    sock.sendall(engine.output())
    while engine.result() is None:
        engine.feed(_take_turns(sock, peer, sock.recv, engine.need()))
        sock.sendall(engine.output())
    stream = TLSSocket(opening.commit())
    stream.setblocking(False)
    return stream


def _take_turns(
    sock: socket.socket, peer: RawPeer, attempt: Callable[[int], T], argument: int
) -> T:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            return attempt(argument)
        except BlockingIOError:
            if not peer.step():
                _wait(sock, peer.sock)
    raise AssertionError("nothing comes any more")


def _wait(*socks: socket.socket) -> None:
    poller = select.poll()
    for sock in socks:
        poller.register(sock, select.POLLIN)
    assert poller.poll(PATIENCE * 1000), "both sides wait"


def receive(stream: TLSSocket, peer: RawPeer, count: int) -> bytes:
    """Receive a number of bytes, or fewer if the stream ends before, in turns with the peer."""
    received = bytearray()
    while len(received) < count:
        data = _take_turns(stream, peer, stream.recv, count - len(received))
        if not data:
            break
        received += data
    return bytes(received)


def settle(peer: RawPeer, condition: Callable[[], bool]) -> None:
    """Run the peer until something has reached it."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it does not arrive"
        if not peer.step():
            _wait(peer.sock)
