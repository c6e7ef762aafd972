"""Tests of resumption with other implementations: the command's two verbs, and the library."""

from __future__ import annotations

import re
import socket
import ssl
import sys
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.doubles import Endpoint
from tests.interop.carriers import CARRIERS, MODES
from tests.interop.matrix import Peer, curl_options, gnutls_options, openssl_options
from tests.interop.peers import LISTENING, START, accepted, listening
from tests.interop.programs import PATIENCE, TIMEOUT, Program, require
from tlsify.codepoints import CipherSuite, ProtocolVersion
from tlsify.config import ClientConfig, KtlsPolicy
from tlsify.connection.establish import accept, connect
from tlsify.connection.handoff import Offload
from tlsify.connection.stream import TLSSocket
from tlsify.errors import ExitCode
from tlsify.keys import Direction
from tlsify.ktls import ulp
from tlsify.ktls.diag import tls_stat
from tlsify.names import ReferenceIdentifier

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.interop.peers import Site

pytestmark = [pytest.mark.interop, pytest.mark.timeout(TIMEOUT)]

_SUITES = [
    CipherSuite.TLS_AES_128_GCM_SHA256,
    CipherSuite.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
]
by_carrier = pytest.mark.parametrize("offload", CARRIERS)
by_version = pytest.mark.parametrize("suite", _SUITES, ids=lambda suite: suite.version.label)


@pytest.fixture(autouse=True)
def _undamaged() -> Iterator[None]:
    """Whatever the sequence numbers were, no record of these tests was refused by the kernel."""
    before = tls_stat().get("TlsDecryptError", 0)
    yield
    assert tls_stat().get("TlsDecryptError", 0) == before


def _tlsify(offload: Offload, *words: str) -> list[str]:
    return [sys.executable, "-m", "tlsify", "-v", f"--ktls={MODES[offload].value}", *words]


# -- clients that resume


def _runs(offload: Offload) -> int:
    """What has nothing to do with the kernel is left out where commands are slow."""
    return 2 if offload is Offload.KERNEL else 3


@by_carrier
@by_version
def test_connect_resumes(offload: Offload, suite: CipherSuite, site: Site, tmp_path: Path) -> None:
    """The second of two commands resumes what the first has kept; one without store does not.

    The server that agrees sends as much as the one that does not: data both ways is right.
    """
    require("openssl")
    store = tmp_path / "store"
    kept = ["--session-store", str(store)]
    words = ["openssl", "s_server", "-accept", "127.0.0.1:0", "-rev", *openssl_options(suite)]
    words += ["-cert", str(site.ec.chain), "-key", str(site.ec.key)]
    with Program(words) as server:
        port = server.wait_for(LISTENING)[1].decode().rpartition(":")[2]
        for options, resumed in ((kept, False), (kept, True), ([], False))[: _runs(offload)]:
            folder = sorted(store.iterdir()) if store.exists() else []
            target = ["--ca", str(site.authority), "--servername", "localhost", "127.0.0.1", port]
            command = _tlsify(offload, "connect", *options, *target)
            with Program(command, b"tlsify\n", end_input=True) as client:
                assert client.output() == b"yfislt\n"
                assert (", resumed (" in client.errors()) == resumed
                assert f"({offload.value}" in client.errors()
            if not options:
                assert sorted(store.iterdir()) == folder, "nothing is taken, nothing is written"
    assert store.stat().st_mode & 0o777 == 0o700
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in store.iterdir())


def test_store_that_is_not_private(site: Site, tmp_path: Path) -> None:
    """It ends the command before anything is sent."""
    tmp_path.chmod(0o755)
    with listening() as listener:
        port = str(listener.getsockname()[1])
        words = ["connect", "--ca", str(site.authority), "--session-store", str(tmp_path)]
        with Program(_tlsify(Offload.RELAY, *words, "127.0.0.1", port)) as client:
            assert client.status() == ExitCode.CONFIG
            assert "not private" in client.errors()
        with accepted(listener) as sock:
            assert sock.recv(1) == b""


def _client(site: Site, suite: CipherSuite, store: Path) -> ClientConfig:
    return ClientConfig(
        server_name="localhost",
        identities=(ReferenceIdentifier.for_host("localhost"),),
        trust=site.trust,
        versions=frozenset({suite.version}),
        aeads=(suite.aead,),
        timeout=PATIENCE,
        session_store=store,
    )


@by_carrier
@by_version
def test_library_resumes_with_gnutls(
    offload: Offload, suite: CipherSuite, site: Site, tmp_path: Path
) -> None:
    """``gnutls-serv`` takes the session that it gave on the connection before."""
    require("gnutls-serv")
    config = _client(site, suite, tmp_path / "store")
    with START[Peer.GNUTLS_SERVER](suite, site) as first:
        address = first.sock.getpeername()
        for resumed in (False, True):
            sock = socket.create_connection(address, timeout=PATIENCE) if resumed else first.sock
            with TLSSocket(connect(sock, config, KtlsPolicy(MODES[offload]))) as stream:
                assert stream.handoff.negotiated.resumed == resumed
                _echoed(stream)


@by_carrier
@by_version
def test_library_resumes_with_python(
    offload: Offload, suite: CipherSuite, site: Site, tmp_path: Path
) -> None:
    """So does Python's ssl, be it TLS 1.2 or 1.3."""
    config = _client(site, suite, tmp_path / "store")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(site.ec.chain, site.ec.key)
    if suite.version is ProtocolVersion.TLSv1_2:
        context.set_ciphers(suite.openssl_name)

    def serve(listener: socket.socket) -> bool | None:
        with context.wrap_socket(accepted(listener), server_side=True) as tls:
            reused = tls.session_reused
            while data := tls.recv(2**14):
                tls.sendall(data)
            tls.unwrap()
            return reused

    with listening() as listener:
        for resumed in (False, True):
            peer = Endpoint(lambda: serve(listener))
            sock = socket.create_connection(listener.getsockname(), timeout=PATIENCE)
            with TLSSocket(connect(sock, config, KtlsPolicy(MODES[offload]))) as stream:
                assert stream.handoff.negotiated.resumed == resumed
                _echoed(stream)
                stream.unwrap()
            assert peer.result(PATIENCE) == resumed


def _echoed(stream: TLSSocket) -> None:
    """Exchange lines, with the tickets in front of them."""
    stream.settimeout(PATIENCE)
    for number in range(3):
        line = b"line %d\n" % number
        stream.sendall(line)
        received = b""
        while len(received) < len(line):
            piece = stream.recv(100)
            assert piece
            received += piece
        assert received == line


@by_version
@pytest.mark.ktls
def test_server_counts_its_tickets(suite: CipherSuite, site: Site) -> None:
    """A server's first record with the kernel's key comes behind the tickets; a client agrees."""
    context = ssl.create_default_context(cafile=str(site.authority))
    context.minimum_version = context.maximum_version = (
        ssl.TLSVersion.TLSv1_3
        if suite.version is ProtocolVersion.TLSv1_3
        else ssl.TLSVersion.TLSv1_2
    )
    config = site.server(suite)
    config = type(config)(key_pair=config.key_pair, timeout=PATIENCE, resumption=True)
    session = None
    sequence = []
    with listening() as listener:
        for _ in range(2):

            def serve() -> int:
                handoff = accept(accepted(listener), config, KtlsPolicy(MODES[Offload.KERNEL]))
                aead = handoff.negotiated.suite.aead
                seq = ulp.next_seq(handoff.sock, Direction.TX, aead)
                with TLSSocket(handoff) as stream:
                    stream.sendall(stream.recv(100).upper())
                    stream.unwrap()
                return seq

            peer = Endpoint(serve)
            sock = socket.create_connection(listener.getsockname(), timeout=PATIENCE)
            with context.wrap_socket(sock, server_hostname="localhost", session=session) as tls:
                tls.sendall(b"data")
                assert tls.recv(100) == b"DATA"
                assert tls.session_reused == (session is not None)
                session = tls.session
                tls.unwrap().close()
            sequence.append(peer.result(PATIENCE))
    if suite.version is ProtocolVersion.TLSv1_2:
        assert sequence == [1, 1]
    else:
        assert all(0 < tickets <= 4 for tickets in sequence)


# -- servers that resume


class Served(NamedTuple):
    """A running ``tlsify serve``.

    Attributes:
        port: where it listens.
        resumes: whether it was told to.
        site: whose certificate it shows.
    """

    port: str
    resumes: bool
    site: Site


@pytest.fixture(scope="module", params=CARRIERS)
def offload(request: pytest.FixtureRequest) -> Offload:
    """Who protects the records of `served`."""
    carrier: Offload = request.param
    return carrier


@pytest.fixture(scope="module", params=[True, False], ids=["resumption", "none"])
def served(
    request: pytest.FixtureRequest,
    offload: Offload,
    site: Site,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    """One server for all of its tests, of four processes."""
    root = tmp_path_factory.mktemp("root")
    (root / "file").write_bytes(b"content")
    words = ["--workers", "4", "--listen", "127.0.0.1:0", str(root)]
    words += ["--cert", str(site.ec.chain), "--key", str(site.ec.key)]
    words += ["--resumption"] * request.param
    with Program(_tlsify(offload, "serve", *words)) as program:
        said = program.wait_for(rb"on https://127\.0\.0\.1:(\d+)/ \((.*)\)\n")
        assert said[2].startswith(b"kernel" if offload is Offload.KERNEL else b"relay")
        yield Served(said[1].decode(), request.param, site)
        program.terminate()
        assert program.status() == 0


_REQUEST = b"GET /file HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@by_version
def test_openssl_resumes(
    served: Served, offload: Offload, suite: CipherSuite, tmp_path: Path
) -> None:
    """``openssl s_client`` resumes with what it was given.

    Without resumption the kernel gives nothing; the relay's OpenSSL, tickets that nobody takes.
    """
    require("openssl")
    is_kernel = offload is Offload.KERNEL
    session = tmp_path / "session"
    words = ["openssl", "s_client", "-connect", f"127.0.0.1:{served.port}", "-ign_eof"]
    words += ["-CAfile", str(served.site.authority), *openssl_options(suite)]
    for options in (["-sess_out", str(session)], ["-sess_in", str(session)]):
        if options[0] == "-sess_in" and not session.exists():
            assert not served.resumes
            break
        with Program([*words, *options], _REQUEST) as client:
            said = client.output()
        assert b"content" in said
        reused = re.search(rb"(?m)^Reused, ", said) is not None
        assert reused == (served.resumes and options[0] == "-sess_in")
        if suite.version is ProtocolVersion.TLSv1_3 and (served.resumes or is_kernel):
            tickets = said.count(b"Post-Handshake New Session Ticket arrived")
            assert (tickets > 0) == served.resumes


@by_version
def test_curl_resumes(served: Served, suite: CipherSuite) -> None:
    """Curl resumes for the second of two URLs whose connections it may not keep.

    Of TLS 1.2 it wants no tickets, only a session id, which would take a cache on our side.
    """
    require("curl")
    words = ["curl", "--silent", "--verbose", "--cacert", str(served.site.authority)]
    words += [*curl_options(suite), "--header", "Connection: close"]
    with Program([*words, *[f"https://127.0.0.1:{served.port}/file"] * 2]) as client:
        assert client.output() == b"content" * 2
        said = client.errors()
    resumes = served.resumes and suite.version is ProtocolVersion.TLSv1_3
    assert said.count("(IN), TLS handshake, Certificate (11)") == 2 - resumes, said


@by_version
def test_gnutls_resumes(served: Served, suite: CipherSuite) -> None:
    """``gnutls-cli --resume`` connects twice, and says how the second went."""
    require("gnutls-cli")
    words = ["gnutls-cli", "127.0.0.1", f"--port={served.port}", "--resume"]
    words += ["--sni-hostname=localhost", "--verify-hostname=localhost"]
    words += [f"--x509cafile={served.site.authority}", *gnutls_options(suite)]
    with Program(words, _REQUEST, end_input=False) as client:
        client.wait_for(rb"content")
        said = bytes(client._collected)
    assert (b"This is a resumed session" in said) == served.resumes, said


@by_version
def test_python_resumes_at_any_worker(served: Served, suite: CipherSuite) -> None:
    """Whichever process takes the connection, it knows the key of every other's tickets."""
    context = ssl.create_default_context(cafile=str(served.site.authority))
    context.minimum_version = context.maximum_version = (
        ssl.TLSVersion.TLSv1_3
        if suite.version is ProtocolVersion.TLSv1_3
        else ssl.TLSVersion.TLSv1_2
    )
    session = None
    for number in range(8):
        sock = socket.create_connection(("127.0.0.1", int(served.port)), timeout=PATIENCE)
        with context.wrap_socket(sock, server_hostname="localhost", session=session) as tls:
            tls.sendall(_REQUEST)
            received = b"".join(iter(lambda: tls.recv(2**14), b""))
            assert received.endswith(b"content")
            assert tls.session_reused == (served.resumes and number > 0)
            session = tls.session if served.resumes else None
