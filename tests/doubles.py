"""Stand-ins and harnesses: two engines back to back, a side in a thread, failing system calls."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from tlsify.tls.engine import Engine
from tlsify.tls.negotiated import Negotiated
from tlsify.tls.record import split_records

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlsify.codepoints import Aead
    from tlsify.config import ClientConfig, ServerConfig

T = TypeVar("T")


class EnginePair:
    """A client's and a server's engine, wired to each other without a socket."""

    def __init__(
        self,
        client: ClientConfig,
        server: ServerConfig,
        aeads: tuple[Aead, ...] | None = None,
    ) -> None:
        """Make both engines; the client's first flight is ready."""
        self.client = Engine(client, aeads)
        self.server = Engine(server, aeads)

    def step(self) -> bool:
        """Carry each side's output to the other, record by record; False if there was none."""
        moved = False
        for source, sink in ((self.client, self.server), (self.server, self.client)):
            for record in split_records(source.output()):
                moved = True
                sink.feed(record)
        return moved

    def run(self) -> tuple[Negotiated, Negotiated]:
        """Finish the handshake; gives the client's and the server's outcome."""
        while self.step():
            pass
        client, server = self.client.result(), self.server.result()
        assert client is not None
        assert server is not None
        return client, server


class Endpoint(Generic[T]):
    """Runs one side of a conversation in a thread, and gives its result or raises its error."""

    def __init__(self, work: Callable[[], T]) -> None:
        """Start at once."""
        self._work = work
        self._result: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result.append(self._work())
        except BaseException as exc:  # noqa: BLE001 - handed to the thread that asks
            self._error = exc

    def result(self, timeout: float = 20) -> T:
        """Wait for the end."""
        self._thread.join(timeout)
        assert not self._thread.is_alive(), "the other side hangs"
        if self._error is not None:
            raise self._error
        return self._result[0]


class FailingSocket(socket.socket):
    """A real socket whose n-th privileged call fails with a given errno."""

    def __init__(self, sock: socket.socket, fail_at: int, error: OSError) -> None:
        """Take over a socket's descriptor; calls are counted from 0."""
        super().__init__(fileno=sock.detach())
        self.calls: list[tuple[Any, ...]] = []
        self._fail_at = fail_at
        self._error = error

    def setsockopt(self, *args: Any) -> None:
        """Fail if it is the turn of this call."""
        self.calls.append(args)
        if len(self.calls) - 1 == self._fail_at:
            raise self._error
        super().setsockopt(*args)
