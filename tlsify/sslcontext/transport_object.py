"""TransportSSLObject: the ``ssl_object`` of a transport, which reads and writes itself."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any, NoReturn

from tlsify.sslcontext.answers import Answers

if TYPE_CHECKING:
    from tlsify.sslcontext.facts import TLSInfo


class TransportSSLObject(Answers, ssl.SSLObject):
    """An `ssl.SSLObject` that describes a connection; its data goes through the transport.

    Attributes:
        context: the SSLContext that made the connection; None if a configuration did.
        server_side: the role.
        server_hostname: SNI, sent or received; None if there was none.
    """

    # In the place of properties of ssl's.
    context: Any = None
    server_side = False
    server_hostname: str | None = None

    def __init__(self, facts: TLSInfo, context: Any, *, server_side: bool) -> None:
        """Describe a connection whose handshake is finished."""
        self._facts, self.context, self.server_side = facts, context, server_side
        self.server_hostname = facts.server_hostname

    def _outcome(self) -> TLSInfo:
        return self._facts

    def do_handshake(self) -> None:
        """Do nothing: the handshake is finished."""

    def pending(self) -> int:
        """Return 0: the transport has read whatever has come."""
        return 0

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise NotImplementedError("read, write and close this connection by its transport")

    read = write = unwrap = _refuse
