"""What the clients of a server under wrap do; each is strict: truncation is an error."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tests.cli.harness import PATIENCE
from tests.doubles import Endpoint, RawPeer, reset
from tlsify.codepoints import ContentType
from tlsify.config import ClientConfig
from tlsify.tls.messages import KeyUpdateRequest

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from tests.cli.conftest import Pki
    from tests.wrap.servers.harness import Served
    from tlsify.credentials.anchors import TrustAnchors

_AT_ONCE = 8
_PIECE = 2**18


class Clients:
    """Clients of one server.

    Attributes:
        made: how many connections the server certainly had.
    """

    def __init__(self, served: Served, pki: Pki, trust: TrustAnchors) -> None:
        """Store whom they trust."""
        self._port, self._talk = served.ground.port, served.talk
        self._context = pki.client_context()
        self._config = ClientConfig.for_host("localhost", trust=trust)
        self._lock = threading.Lock()
        self.made = 0

    def connect(self) -> ssl.SSLSocket:
        """Connect one."""
        sock = self._dial()
        return self._context.wrap_socket(
            sock, server_hostname="localhost", suppress_ragged_eofs=False
        )

    def _dial(self) -> socket.socket:
        with self._lock:
            self.made += 1
        return socket.create_connection(("127.0.0.1", self._port), PATIENCE)

    def fetch(self, name: str) -> None:
        """Fetch a file on a connection of its own, to the end of the stream."""
        with self.connect() as client, client.makefile("rb") as stream:
            client.sendall(self._talk.ask(name, last=True))
            assert self._talk.answer(stream) == self._talk.expected(name), name
            self._read_end(client, stream)

    def _read_end(self, client: ssl.SSLSocket, stream: Any) -> None:
        if self._talk.is_echo:  # it has no other way to know
            client.unwrap().close()
            return
        stream.read()  # and no error, as of a stream that was cut

    def prepare(self) -> None:
        """Store what is asked for later, if it is not in files."""
        if words := self._talk.store():
            with self.connect() as client, client.makefile("rb") as stream:
                client.sendall(words)
                for _ in self._talk.names:
                    assert self._talk.answer(stream) == b"+OK\r\n"
                client.unwrap().close()

    # -- visits

    def keep_alive(self) -> None:
        """Ask twice on one connection, and leave first, with close_notify."""
        with self.connect() as client, client.makefile("rb") as stream:
            for _ in range(2):
                client.sendall(self._talk.ask("page"))
                assert self._talk.answer(stream) == self._talk.expected("page")
            client.unwrap().close()

    def upload(self, size: int) -> None:
        """Send something, which the server must have wholly."""
        data = os.urandom(size)
        with self.connect() as client, client.makefile("rb") as stream:
            client.sendall(self._talk.upload(data))
            assert self._talk.has_arrived(data, self._talk.answer(stream))
            self._read_end(client, stream)

    def come(self, count: int, meanwhile: Callable[[], object] | None = None) -> None:
        """Come in numbers, some at a time; do something when half of them have been served."""
        turns = iter(range(count))
        lock = threading.Lock()

        def work() -> None:
            while True:
                with lock:
                    turn = next(turns, None)
                if turn is None:
                    return
                if turn == count // 2 and meanwhile is not None:
                    meanwhile()
                self.fetch("page")

        for endpoint in [Endpoint(work) for _ in range(min(_AT_ONCE, count))]:
            endpoint.result(PATIENCE + count)

    def cut(self) -> None:
        """Break off within a request, by FIN and by a reset; and within an answer."""
        request = self._talk.ask("page")
        with self.connect() as client:
            client.sendall(request[: len(request) // 2])
            client.shutdown(socket.SHUT_WR)
            with suppress(ConnectionError):
                while client.recv(_PIECE):
                    pass
        client = self.connect()
        client.sendall(request[: len(request) // 2])
        reset(client)
        self.made -= 1  # it may have gone before the server had finished its handshake
        client = self.connect()
        with client.makefile("rb") as stream:
            client.sendall(self._talk.ask(self._talk.names[-1], last=True))
            stream.read(1)
            reset(client)

    def half_close(self) -> bool:
        """End our direction behind a request; return whether it is answered, wholly then."""
        with self._dial() as sock:
            peer = self._raw(sock)
            peer.send_data(self._talk.ask("page"))
            peer.close_notify()
            found = _read_all(peer)
        return self._talk.expected("page") in found

    def update_key(self) -> bool:
        """Change keys within a request; return whether it is answered."""
        request = self._talk.ask("page", last=True)
        with self._dial() as sock:
            peer = self._raw(sock)
            peer.send_data(request[:9])
            sock.sendall(peer.key_update(KeyUpdateRequest.update_requested))
            with suppress(ConnectionError):
                peer.send_data(request[9:])
                if self._talk.is_echo:
                    peer.close_notify()
            found = _read_all(peer)
        return self._talk.expected("page") in found

    def _raw(self, sock: socket.socket) -> RawPeer:
        return RawPeer(sock, self._config)


def _read_all(peer: RawPeer) -> bytes:
    """Receive data to an alert, such as close_notify; an end without any is an error."""
    found = b""
    while (record := peer.recv()) is not None:
        if record[0] == ContentType.alert:
            return found
        if record[0] == ContentType.handshake:
            peer.follow_key_update()
        else:
            found += record[1]
    raise AssertionError(f"truncated: {found!r}")
