"""The other side of each connection: Python's ssl, which behaves as the table says."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, Self

from tests.doubles import reset
from tests.endings.table import SIZE, Sees

if TYPE_CHECKING:
    import trustme

PATIENCE = float(os.environ.get("ENDINGS_PATIENCE", "60"))
HOST = "example.org"
# Below what a program sends, and above what the loopback interface puts into one segment.
_ROOM = 2**17


class Seen(NamedTuple):
    """What a peer has seen: how many bytes, and how they ended ("end", or "cut")."""

    size: int
    end: str

    def is_right(self, answer: Sees) -> bool:
        """Return whether that is what it should see."""
        if answer is Sees.TRUE:
            return self.end == "cut" or self.size == SIZE
        if answer is Sees.ARRIVED:
            return self.end in {"end", "cut"} and self.size == SIZE
        if answer in {Sees.WHOLE, Sees.ANY}:
            return self.end == "end" and (answer is Sees.ANY or self.size == SIZE)
        return self.end == "cut" and (answer is Sees.CUT or self.size == SIZE)


class Contexts:
    """A server's contexts, with tickets and without, and a client's."""

    def __init__(self, authority: trustme.CA) -> None:
        """Make them."""
        leaf = authority.issue_cert(HOST)
        self.servers = {}
        for tickets in (0, 2):
            self.servers[tickets] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.servers[tickets].num_tickets = tickets
            leaf.configure_cert(self.servers[tickets])
        self.client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        authority.configure_trust(self.client)


class Peer:
    """One peer."""

    def __init__(self, behaviour: str, contexts: Contexts) -> None:
        """Prepare to listen or to connect.

        Args:
            behaviour: of `table.PEERS`.
            contexts: for its TLS.
        """
        self._behaviour = behaviour
        self._contexts = contexts
        self._sock = socket.socket()
        self._sock.settimeout(PATIENCE)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM)
        self._tls: ssl.SSLSocket | None = None
        self._breaking = threading.Thread(target=self._break)

    def __enter__(self) -> Self:
        """Be there."""
        return self

    def __exit__(self, *_: object) -> None:
        """Be gone."""
        if self._breaking.is_alive():
            self._breaking.join()
        self._sock.close()
        if self._tls is not None:
            self._tls.close()

    def listen(self) -> tuple[str, int]:
        """Listen; gives where."""
        self._sock.bind(("127.0.0.1", 0))
        self._sock.listen()
        address: tuple[str, int] = self._sock.getsockname()
        return address

    def accept(self) -> None:
        """Accept a program's connection."""
        context = self._contexts.servers[0 if self._behaviour == "slow" else 2]
        sock, _ = self._sock.accept()
        sock.settimeout(PATIENCE)
        self._tls = context.wrap_socket(sock, server_side=True, suppress_ragged_eofs=False)

    def connect(self, port: int) -> None:
        """Connect to a server."""
        self._sock.connect(("127.0.0.1", port))
        self._tls = self._contexts.client.wrap_socket(
            self._sock, server_hostname=HOST, suppress_ragged_eofs=False
        )

    @property
    def tls(self) -> ssl.SSLSocket:
        """The connection."""
        assert self._tls is not None
        return self._tls

    def act(self) -> None:
        """Do what it does before the program sends."""
        if self._behaviour == "data":
            self.tls.sendall(bytes(1000))
        elif self._behaviour == "half":
            self._close_notify()
            self._fin()
        elif self._behaviour == "cut":
            self._fin()
        elif self._behaviour == "leaves":
            self._close_notify()
            self.tls.close()
        elif self._behaviour == "resets":
            reset(self.tls)
        elif self._behaviour == "breaks":
            self._breaking.start()

    def _break(self) -> None:
        """Read half of what others get, and reset the connection while more is on its way."""
        size = 0
        while size < SIZE // 2:
            size += len(self.tls.recv(2**16))
        reset(self.tls)

    def read(self) -> Seen:
        """Read to the end."""
        size = 0
        try:
            while data := self.tls.recv(2**16):
                size += len(data)
        except ssl.SSLZeroReturnError:  # as after our own close_notify
            return Seen(size, "end")
        except (ssl.SSLEOFError, ConnectionResetError, BrokenPipeError):
            # OpenSSL answers such an end with an alert, for which there may be no way any more.
            return Seen(size, "cut")
        return Seen(size, "end")

    def close(self) -> None:
        """End in good order."""
        with suppress(OSError):
            self._close_notify()
        self.tls.close()

    def _close_notify(self) -> None:
        self.tls.setblocking(False)
        with suppress(ssl.SSLWantReadError):  # it would wait for the other's
            self.tls.unwrap()
        self.tls.settimeout(PATIENCE)

    def _fin(self) -> None:
        socket.socket.shutdown(self.tls, socket.SHUT_WR)
