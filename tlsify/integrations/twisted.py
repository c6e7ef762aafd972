"""Twisted: an endpoint whose handshakes its reactor does not wait for, and its string."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet import defer, interfaces, tcp
from twisted.internet.ssl import Certificate
from twisted.plugin import IPlugin
from zope.interface import implementer

from tlsify.aio.loop_socket import LoopSocket
from tlsify.errors import ConfigError
from tlsify.integrations.background import Handshakes
from tlsify.sslcontext.context import SSLContext
from tlsify.sslcontext.facts import TLSInfo

if TYPE_CHECKING:
    from tlsify.connection.handoff import Handoff

_BACKLOG = 50


@implementer(interfaces.ISSLTransport, interfaces.INegotiated)
class Transport(tcp.Server):
    """Twisted's transport of a connection that is keyed already.

    Attributes:
        facts: what the handshake agreed on.
    """

    facts: TLSInfo

    @property
    def negotiatedProtocol(self) -> bytes | None:
        """The protocol agreed on (ALPN), or None."""
        name = self.facts.selected_alpn_protocol()
        return None if name is None else name.encode("ascii")

    def getPeerCertificate(self) -> Any:
        """Return the peer's certificate as an OpenSSL.crypto.X509, or None."""
        der = self.facts.getpeercert(binary_form=True)
        return None if der is None else Certificate.load(der).original


class Port(tcp.Port):
    """Twisted's listening port; connections come to the factory once they are keyed."""

    def __init__(self, context: SSLContext, *arguments: Any, **options: Any) -> None:
        """Store the context, and pass on the arguments of `tcp.Port`."""
        super().__init__(*arguments, **options)
        self._handshakes = Handshakes(context)

    def startReading(self) -> None:
        """Begin to accept in the background: newcomers wait as long as handshakes have no place.

        Raises:
            OSError: there is no descriptor for that.
            RuntimeError: there is no thread for that.
        """
        self._handshakes.listen(self.socket, self._handed)

    def stopReading(self) -> None:
        """Do nothing: `connectionLost` follows, and ends the background."""

    def _handed(self, address: Any, handed: Handoff) -> None:
        self.reactor.callFromThread(self._connect, address, handed)

    def _connect(self, address: Any, handed: Handoff) -> None:
        """Connect a protocol, in the reactor's thread."""
        factory: Any = self.factory
        protocol = factory.buildProtocol(self._buildAddr(address))  # type: ignore[no-untyped-call]
        if protocol is None or self.disconnecting:
            handed.abort()
            return
        number, self.sessionno = self.sessionno, self.sessionno + 1
        facts = TLSInfo(handed)
        transport = Transport(LoopSocket(handed), protocol, address, self, number, self.reactor)
        transport.facts = facts
        protocol.makeConnection(transport)

    def connectionLost(self, reason: Any) -> None:
        """Abort handshakes under way, too."""
        self._handshakes.close()
        super().connectionLost(reason)  # type: ignore[no-untyped-call]


@implementer(interfaces.IStreamServerEndpoint)
class Endpoint:
    """Listens on a TCP port; ``Endpoint(reactor, 8443, context).listen(Site(resource))``."""

    def __init__(
        self,
        reactor: Any,
        port: int,
        context: SSLContext,
        interface: str = "",
        backlog: int = _BACKLOG,
    ) -> None:
        """Prepare to listen.

        Args:
            reactor: Twisted's.
            port: TCP port; 0 takes a free one.
            context: a server's.
            interface: address to listen on; all if empty.
            backlog: connections that may wait to be accepted.
        """
        self._arguments = (reactor, port, context, interface, backlog)

    def listen(self, protocolFactory: Any) -> defer.Deferred[Port]:
        """Listen, with connections for the protocols of a factory."""
        reactor, number, context, interface, backlog = self._arguments

        def start() -> Port:
            port = Port(
                context, number, protocolFactory, backlog, interface=interface, reactor=reactor
            )
            port.startListening()
            return port

        return defer.execute(start)


@implementer(IPlugin, interfaces.IStreamServerEndpointStringParser)
class EndpointParser:
    """Plugin: makes `Endpoint` of ``tlsify:PORT:certKey=FILE:privateKey=FILE:interface=ADDRESS``.

    The words are those of Twisted's own ``ssl:``, and besides ``cafile`` and ``alpn``.
    """

    prefix = "tlsify"

    def parseStreamServer(
        self, reactor: Any, port: str, certKey: str, privateKey: str | None = None, **words: str
    ) -> Endpoint:
        """Make the endpoint.

        Raises:
            ConfigError: a file is unusable, or a word is unknown.
        """
        if unknown := words.keys() - {"cafile", "alpn", "interface", "backlog"}:
            raise ConfigError(
                f"tlsify: in an endpoint has no {', '.join(sorted(unknown))}",
                hint="use certKey, privateKey, cafile, alpn, interface, backlog",
            )
        offered = words["alpn"].split(",") if words.get("alpn") else ()
        context = SSLContext.for_server(
            certKey, privateKey, cafile=words.get("cafile"), alpn=offered
        )
        backlog = int(words.get("backlog", _BACKLOG))
        return Endpoint(reactor, int(port), context, words.get("interface", ""), backlog)
