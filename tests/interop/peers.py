"""Each peer, ready to talk with tlsify: how it is started, what it sends, what reaches it."""

from __future__ import annotations

import contextlib
import socket
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.doubles import Endpoint
from tests.interop.matrix import (
    Peer,
    curl_options,
    gnutls_options,
    needs_rsa,
    openssl_options,
)
from tests.interop.programs import PATIENCE, Program
from tests.ports import free_port
from tlsify.codepoints import ProtocolVersion
from tlsify.config import ClientConfig, ServerConfig
from tlsify.names import ReferenceIdentifier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tlsify.codepoints import CipherSuite
    from tlsify.connection.stream import TLSSocket
    from tlsify.credentials.anchors import TrustAnchors
    from tlsify.credentials.key_pair import KeyPair

CHUNK = 2**16
# What openssl s_server prints, unless it is told to be quiet.
LISTENING = rb"(?m)^ACCEPT (127\.0\.0\.1:\d+)$"


@dataclass(frozen=True)
class Identity:
    """A certificate for localhost and 127.0.0.1, as files and parsed."""

    chain: Path
    key: Path
    pair: KeyPair


@dataclass(frozen=True)
class Site:
    """What all conversations share.

    Attributes:
        authority: PEM file of the one trust anchor.
        trust: the same, parsed.
        ec: an identity with an EC key.
        rsa: makes one with an RSA key.
        up: the file that tlsify sends; text, since gnutls-serv echoes nothing else.
        down: the file that the peer sends.
        folder: for files of the peers' own.
    """

    authority: Path
    trust: TrustAnchors
    ec: Identity
    rsa: Callable[[], Identity]
    up: bytes
    down: bytes
    folder: Path

    def identity(self, suite: CipherSuite) -> Identity:
        """Return the certificate that a suite's server has to show."""
        return self.rsa() if needs_rsa(suite) else self.ec

    def client(self, suite: CipherSuite) -> ClientConfig:
        """Configure a client that offers one suite and accepts localhost."""
        return ClientConfig(
            server_name="localhost",
            identities=(ReferenceIdentifier.for_host("localhost"),),
            trust=self.trust,
            versions=frozenset({suite.version}),
            aeads=(suite.aead,),
            timeout=PATIENCE,
        )

    def server(self, suite: CipherSuite) -> ServerConfig:
        """Configure a server that accepts one suite."""
        return ServerConfig(
            key_pair=self.identity(suite).pair,
            versions=frozenset({suite.version}),
            aeads=(suite.aead,),
            timeout=PATIENCE,
        )


def swap_files(stream: TLSSocket, up: bytes, expected: int) -> bytes:
    """Send one file while receiving another of a known length; return what was received."""
    sender = Endpoint(lambda: stream.sendall(up))
    received = receive_exactly(stream, expected)
    sender.result(PATIENCE)
    return received


def receive_exactly(stream: socket.socket, count: int) -> bytes:
    """Receive a known number of bytes, or fewer if the stream ends before."""
    received = bytearray()
    while len(received) < count and (data := stream.recv(min(CHUNK, count - len(received)))):
        received += data
    return bytes(received)


def answer_after_the_end(stream: TLSSocket, up: bytes, expected: int) -> bytes:
    """Send a file to a peer that has sent its own and closed its direction."""
    received = receive_exactly(stream, expected)
    assert stream.recv(1) == b""
    stream.sendall(up)
    return received


def answer_post(stream: TLSSocket, up: bytes, expected: int) -> bytes:
    """Receive the body of an HTTP POST, answer with a file, and return the body."""
    head = bytearray()
    while not head.endswith(b"\r\n\r\n"):
        byte = stream.recv(1)
        assert byte, "the request is cut short"
        head += byte
    assert head.startswith(b"POST / HTTP/1.1\r\n")
    received = receive_exactly(stream, expected)
    stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(up))
    stream.sendall(up)
    assert stream.recv(1) == b"", "curl has what it wants, and closes"
    return received


@dataclass(frozen=True)
class Talk:
    """A peer that waits for tlsify's part of the conversation.

    Attributes:
        sock: connected to it.
        expected: what it will send.
        delivered: what has reached it; to be asked once tlsify has closed.
        converse: tlsify's part; takes the stream, what to send, how much to expect.
    """

    sock: socket.socket
    expected: bytes
    delivered: Callable[[], bytes]
    converse: Callable[[TLSSocket, bytes, int], bytes] = field(default=swap_files)


@contextlib.contextmanager
def _openssl_server(suite: CipherSuite, site: Site) -> Iterator[Talk]:
    """Without -quiet it would take commands from its input."""
    port, shown = free_port(), site.identity(suite)
    words = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-naccept", "1", "-quiet"]
    words += ["-cert", str(shown.chain), "-key", str(shown.key), *openssl_options(suite)]
    with Program(words, site.down) as program:
        yield Talk(program.dial(port), site.down, program.output)


@contextlib.contextmanager
def _openssl_client(suite: CipherSuite, site: Site) -> Iterator[Talk]:
    with listening() as listener:
        words = ["openssl", "s_client", "-connect", address(listener), "-quiet"]
        words += [*openssl_trust(site), *openssl_options(suite)]
        with Program(words, site.down) as program:
            yield Talk(accepted(listener), site.down, program.output)


def openssl_trust(site: Site) -> list[str]:
    """Return options by which ``openssl s_client`` accepts localhost's certificate only."""
    words = ["-servername", "localhost", "-verify_hostname", "localhost"]
    return [*words, "-verify_return_error", "-CAfile", str(site.authority)]


@contextlib.contextmanager
def _gnutls_server(suite: CipherSuite, site: Site) -> Iterator[Talk]:
    port, shown = free_port(), site.identity(suite)
    words = ["gnutls-serv", "--echo", "--quiet", "--disable-client-cert", f"--port={port}"]
    words += [f"--x509certfile={shown.chain}", f"--x509keyfile={shown.key}"]
    with Program([*words, *gnutls_options(suite)]) as program:
        # What comes back is what has reached it.
        yield Talk(program.dial(port), site.up, lambda: site.up)


@contextlib.contextmanager
def _gnutls_client(suite: CipherSuite, site: Site) -> Iterator[Talk]:
    """It says close_notify at the end of its input only, and goes on receiving after that."""
    with listening() as listener:
        words = ["gnutls-cli", "127.0.0.1", f"--port={listener.getsockname()[1]}"]
        words += ["--sni-hostname=localhost", "--verify-hostname=localhost"]
        words += [f"--x509cafile={site.authority}", f"--logfile={site.folder / 'gnutls-cli.log'}"]
        with Program([*words, *gnutls_options(suite)], site.down, end_input=True) as program:
            yield Talk(accepted(listener), site.down, program.output, answer_after_the_end)


@contextlib.contextmanager
def _curl(suite: CipherSuite, site: Site) -> Iterator[Talk]:
    upload = site.folder / "upload"
    upload.write_bytes(site.down)
    with listening() as listener:
        words = ["curl", "--silent", "--show-error", "--fail", "--http1.1", "--header", "Expect:"]
        words += ["--cacert", str(site.authority), *curl_options(suite)]
        words += ["--data-binary", f"@{upload}", f"https://{address(listener)}/"]
        with Program(words, end_input=True) as program:
            yield Talk(accepted(listener), site.down, program.output, answer_post)


@contextlib.contextmanager
def _python_server(suite: CipherSuite, site: Site) -> Iterator[Talk]:
    shown = site.identity(suite)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shown.chain, shown.key)
    _restrict(context, suite)
    with listening() as listener:

        def serve() -> bytes:
            with context.wrap_socket(accepted(listener), server_side=True) as tls:
                return _python_part(tls, site)

        peer = Endpoint(serve)
        sock = socket.create_connection(listener.getsockname(), timeout=PATIENCE)
        yield Talk(sock, site.down, lambda: peer.result(PATIENCE))


@contextlib.contextmanager
def _python_client(suite: CipherSuite, site: Site) -> Iterator[Talk]:
    context = ssl.create_default_context(cafile=str(site.authority))
    _restrict(context, suite)
    with listening() as listener:
        sock = socket.create_connection(listener.getsockname(), timeout=PATIENCE)

        def call() -> bytes:
            with context.wrap_socket(sock, server_hostname="localhost") as tls:
                return _python_part(tls, site)

        peer = Endpoint(call)
        yield Talk(accepted(listener), site.down, lambda: peer.result(PATIENCE))


def _restrict(context: ssl.SSLContext, suite: CipherSuite) -> None:
    """Leave Python's ssl one version, and of TLS 1.2 one suite; the rest is tlsify's choice."""
    is_tls13 = suite.version is ProtocolVersion.TLSv1_3
    version = ssl.TLSVersion.TLSv1_3 if is_tls13 else ssl.TLSVersion.TLSv1_2
    context.minimum_version = context.maximum_version = version
    if not is_tls13:
        context.set_ciphers(suite.openssl_name)


def _python_part(tls: ssl.SSLSocket, site: Site) -> bytes:
    """One after the other: two threads must not use one SSL object."""
    received = receive_exactly(tls, len(site.up))
    tls.sendall(site.down)
    tls.unwrap().close()
    return received


@contextlib.contextmanager
def listening() -> Iterator[socket.socket]:
    """Listen on some port of 127.0.0.1."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        yield listener


def address(listener: socket.socket) -> str:
    """Spell a listener's address as programs read it."""
    return "{}:{}".format(*listener.getsockname())


def accepted(listener: socket.socket) -> socket.socket:
    """Accept the next connection."""
    sock, _ = listener.accept()
    sock.settimeout(PATIENCE)
    return sock


START: dict[Peer, Callable[[CipherSuite, Site], AbstractContextManager[Talk]]] = {
    Peer.OPENSSL_SERVER: _openssl_server,
    Peer.OPENSSL_CLIENT: _openssl_client,
    Peer.GNUTLS_SERVER: _gnutls_server,
    Peer.GNUTLS_CLIENT: _gnutls_client,
    Peer.CURL: _curl,
    Peer.PYTHON_SERVER: _python_server,
    Peer.PYTHON_CLIENT: _python_client,
}
