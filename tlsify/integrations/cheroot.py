"""cheroot, and so CherryPy: an SSL adapter whose handshakes take none of the worker threads."""

from __future__ import annotations

import os
import queue
import ssl
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, cast

from cheroot import errors
from cheroot.makefile import StreamReader, StreamWriter
from cheroot.ssl import Adapter as BaseAdapter

from tlsify.integrations.background import Handshakes
from tlsify.integrations.variables import variables
from tlsify.integrations.waiting import is_ready
from tlsify.sslcontext.context import SSLContext
from tlsify.sslcontext.socket import SSLSocket

if TYPE_CHECKING:
    from socket import socket

    from _typeshed import ReadableBuffer, WriteableBuffer

    from tlsify.connection.handoff import Handoff


class _Socket(SSLSocket):
    """Has cheroot drop a connection that breaks, without a traceback."""

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        try:
            return super().recv_into(buffer, nbytes, flags)
        except ssl.SSLError as exc:
            _drop(exc)

    def send(self, data: ReadableBuffer, flags: int = 0, /) -> int:
        try:
            return super().send(data, flags)
        except ssl.SSLError as exc:
            _drop(exc)


def _drop(exc: ssl.SSLError) -> NoReturn:
    raise errors.FatalSSLAlert(*exc.args) from exc


class _Reader(StreamReader):
    """Has cheroot go on at once where its selector would not tell."""

    def __init__(self, sock: socket, mode: str, bufsize: int) -> None:
        super().__init__(sock, mode, bufsize)
        self._sock = sock

    def has_data(self) -> bool:
        if super().has_data():  # type: ignore[no-untyped-call]
            return True
        return isinstance(self._sock, SSLSocket) and is_ready(self._sock)


class _Variables(Mapping[str, str]):
    """A connection's variables, which are there once it has done its handshake."""

    def __init__(self, sock: SSLSocket) -> None:
        self._sock = sock
        self._known: dict[str, str] = {}

    def _ask(self) -> dict[str, str]:
        if not self._known:
            self._known = {"wsgi.url_scheme": "https", **variables(self._sock.facts)}
        return self._known

    def __getitem__(self, name: str) -> str:
        return self._ask()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._ask())

    def __len__(self) -> int:
        return len(self._ask())

    def __bool__(self) -> bool:
        return True


class _Listener:
    """A listening socket as cheroot uses it; it gives connections that are past their handshakes.

    Once it listens, its descriptor is readable as long as there is one.
    """

    def __init__(self, sock: socket, adapter: Adapter) -> None:
        self._sock = sock
        self._adapter = adapter
        self._handshakes: Handshakes | None = None
        self._ready = -1
        self._done: queue.SimpleQueue[tuple[SSLSocket, Any]] = queue.SimpleQueue()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def listen(self, backlog: int) -> None:
        """Begin to accept."""
        self._handshakes = Handshakes(self._adapter.context)
        self._sock.listen(backlog)
        self._ready = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK | os.EFD_SEMAPHORE)
        self._handshakes.listen(self._sock, self._add)

    def _add(self, address: Any, handed: Handoff) -> None:
        self._done.put((_Socket.established(handed, self._adapter.context), address))
        os.eventfd_write(self._ready, 1)

    def fileno(self) -> int:
        """Return what cheroot has to wait for."""
        return self._sock.fileno() if self._ready < 0 else self._ready

    def accept(self) -> tuple[SSLSocket, Any]:
        """Return a connection; BlockingIOError, which cheroot ignores, says that there is none."""
        os.eventfd_read(self._ready)
        return self._done.get_nowait()

    def close(self) -> None:
        """End handshakes, and connections that cheroot has not taken."""
        if self._handshakes is not None:
            self._handshakes.close()
        self._sock.close()
        while not self._done.empty():
            self._done.get_nowait()[0].close()
        if self._ready >= 0:
            os.close(self._ready)
            self._ready = -1


class Adapter(BaseAdapter):
    """For ``server.ssl_adapter``, or by name in CherryPy (docs/integrations.md).

    Clients are asked for certificates by ``context.verify_mode``, as with cheroot's own adapter;
    ``certificate_chain`` names their issuers.
    """

    context: SSLContext

    def __init__(
        self,
        certificate: str,
        private_key: str,
        certificate_chain: str | None = None,
        ciphers: str | None = None,
        *,
        private_key_password: Any = None,
    ) -> None:
        """Load the files.

        Raises:
            ConfigError: one of them is unusable.
        """
        super().__init__(
            certificate,
            private_key,
            certificate_chain,
            ciphers,
            private_key_password=private_key_password,
        )
        context = SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, private_key, private_key_password)
        if certificate_chain is not None:
            context.load_verify_locations(certificate_chain)
        if ciphers is not None:
            context.set_ciphers(ciphers)
        context.set_alpn_protocols(["http/1.1"])
        self.context = context

    def bind(self, sock: socket) -> socket:
        """Have the listening socket give connections that are past their handshakes."""
        return cast("socket", _Listener(sock, self))

    def wrap(self, sock: socket) -> tuple[SSLSocket, Mapping[str, str]]:
        """Return a connection with its variables.

        Of a socket that systemd has bound, and `bind` has not seen, the handshake is done by the
        thread that serves the connection.
        """
        if not isinstance(sock, SSLSocket):
            sock = _Socket(sock, self.context, server_side=True)
        return sock, _Variables(sock)

    def get_environ(self) -> dict[str, str]:
        """Return nothing: there is nothing to tell before a connection."""
        return {}

    def makefile(self, sock: socket, mode: str = "r", bufsize: int = -1) -> Any:
        """Make the file that cheroot reads or writes."""
        return (_Reader if "r" in mode else StreamWriter)(sock, mode, bufsize)
