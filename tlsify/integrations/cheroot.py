"""cheroot, and so CherryPy: an SSL adapter whose handshakes wait in the worker threads."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from cheroot import errors
from cheroot.makefile import StreamReader, StreamWriter
from cheroot.ssl import Adapter as BaseAdapter

from tlsify.integrations.variables import variables
from tlsify.sslcontext.context import SSLContext
from tlsify.sslcontext.socket import SSLSocket

if TYPE_CHECKING:
    from socket import socket

    from _typeshed import ReadableBuffer, WriteableBuffer


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
        """Return the listening socket back: what it accepts comes to `wrap`."""
        return sock

    def wrap(self, sock: socket) -> tuple[SSLSocket, Mapping[str, str]]:
        """Take over a connection; its handshake is done by the thread that serves it."""
        self.context.sslsocket_class = _Socket  # type: ignore[assignment]
        wrapped = self.context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        return wrapped, _Variables(wrapped)

    def get_environ(self) -> dict[str, str]:
        """Return nothing: there is nothing to tell before a connection."""
        return {}

    def makefile(self, sock: socket, mode: str = "r", bufsize: int = -1) -> Any:
        """Make the file that cheroot reads or writes."""
        return (StreamReader if "r" in mode else StreamWriter)(sock, mode, bufsize)
