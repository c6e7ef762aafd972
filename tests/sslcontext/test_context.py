"""Tests of context."""

from __future__ import annotations

import gc
import http.client
import http.server
import re
import socket
import ssl
import sys
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.conftest import HOST, make_crl
from tests.doubles import KERNEL, OFFLOADS, RELAY, Endpoint, Lab, check_descriptors, descriptors
from tests.interop.programs import Program
from tests.ports import free_port
from tests.sslcontext.test_object import Side, shake
from tlsify.connection.stream import TLSSocket
from tlsify.errors import ConfigError
from tlsify.names import ReferenceIdentifier
from tlsify.sslcontext.context import SSLContext
from tlsify.sslcontext.socket import SSLSocket

if TYPE_CHECKING:
    from collections.abc import Iterator

    import trustme

    from tlsify.config import KtlsPolicy
    from tlsify.credentials.key_pair import KeyPair

DOCUMENT = Path(__file__).parents[2] / "docs/sslcontext.md"
both = pytest.mark.parametrize("policy", OFFLOADS)


@pytest.fixture
def files(tmp_path: Path, key_pair: KeyPair, authority: trustme.CA) -> Path:
    """A folder with cert.pem, key.pem and ca.pem."""
    key = key_pair.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "cert.pem").write_bytes(key_pair.certificate_pem())
    (tmp_path / "key.pem").write_bytes(key)
    (tmp_path / "ca.pem").write_bytes(authority.cert_pem.bytes())
    return tmp_path


@pytest.fixture
def server(files: Path) -> SSLContext:
    """A server's context."""
    return SSLContext.for_server(files / "cert.pem", files / "key.pem", policy=RELAY)


@pytest.fixture
def client(files: Path) -> SSLContext:
    """A client's context."""
    return SSLContext.for_client(cafile=files / "ca.pem", policy=RELAY)


class _Pages(http.server.BaseHTTPRequestHandler):
    """Answers with what it was asked for."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer."""
        body = self.path.encode() * 1000
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Send nothing."""


@contextmanager
def _serving(context: ssl.SSLContext) -> Iterator[int]:
    """Run Python's web server on a listening socket that a context has wrapped."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Pages) as running:
        running.daemon_threads = False
        port: int = running.server_address[1]
        running.socket = context.wrap_socket(running.socket, server_side=True)
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield port
        running.shutdown()
        thread.join()


@pytest.mark.each_kernel
@both
@pytest.mark.parametrize("peer", ["python", "tlsify"])
def test_https(files: Path, policy: KtlsPolicy, peer: str) -> None:
    """Python's server and its clients, each with either kind of context."""
    ours = SSLContext.for_server(files / "cert.pem", files / "key.pem", policy=policy)
    pure = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pure.load_cert_chain(files / "cert.pem", files / "key.pem")
    context = SSLContext.for_client(cafile=files / "ca.pem", policy=policy)
    trusting = ssl.create_default_context(cafile=str(files / "ca.pem"))
    for _ in range(2):  # OpenSSL keeps what it opens the first time
        before = descriptors()
        with _serving(ours if peer == "tlsify" else pure) as port:
            connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=60)
            for path in ("/one", "/two"):
                connection.request("GET", path)
                assert connection.getresponse().read() == path.encode() * 1000
            assert isinstance(connection.sock, TLSSocket)
            connection.close()
            for kind in (context, trusting):
                with urllib.request.urlopen(f"https://localhost:{port}/page", context=kind) as page:
                    assert page.read() == b"/page" * 1000
    check_descriptors(before)


def test_wrong_name(server: SSLContext, client: SSLContext) -> None:
    """A client is told as Python's context would tell it; so it is of an unknown authority."""
    with _serving(server) as port:
        sock = socket.create_connection(("127.0.0.1", port), timeout=60)
        with pytest.raises(ssl.SSLCertVerificationError):
            client.wrap_socket(sock, server_hostname="other.example")
        assert sock.fileno() == -1
        with pytest.raises(urllib.error.URLError) as caught:
            urllib.request.urlopen(f"https://localhost:{port}/", context=SSLContext.for_client())
        assert isinstance(caught.value.reason, ssl.SSLCertVerificationError)


def test_name_as_it_was_given(client: SSLContext) -> None:
    """Any spelling is one name, for its configuration and for what the socket tells of it."""
    config = client.client_config("Straße.example.")
    assert config.server_name == "xn--strae-oqa.example"
    assert list(map(str, config.identities)) == ["dns:xn--strae-oqa.example"]
    assert client.client_config("fe80::1%lo").server_name is None
    for name in ("Straße.example.", b"xn--strae-oqa.EXAMPLE"):
        with socket.socket() as sock, client.wrap_socket(sock, server_hostname=name) as wrapped:
            assert wrapped.server_hostname == "xn--strae-oqa.example"
    with socket.socket() as sock:
        with pytest.raises(ConfigError, match="no internationalized name"):
            client.wrap_socket(sock, server_hostname="i❤.ws")
        assert sock.fileno() >= 0


def test_bad_clients_of_a_server(server: SSLContext, client: SSLContext) -> None:
    """An accept loop outlives them, and waits for none."""
    with _serving(server) as port:
        address = ("127.0.0.1", port)
        with socket.create_connection(address) as stalled:
            with socket.create_connection(address, timeout=60) as rude:
                rude.sendall(b"GET / HTTP/1.0\r\n\r\n")
                assert rude.recv(100)[0] == 21  # an alert
            connection = http.client.HTTPSConnection("localhost", port, context=client, timeout=60)
            connection.request("GET", "/")
            assert connection.getresponse().status == 200
            connection.close()
            stalled.close()


# -- configurations


def test_configuration_is_kept(server: SSLContext, client: SSLContext) -> None:
    """The same object until something is set, be it here or in Python's own part."""
    config = server.server_config()
    assert server.server_config() is config
    server.verify_mode = ssl.CERT_NONE
    assert server.server_config() is config
    changes: dict[str, Any] = {
        "minimum_version": ssl.TLSVersion.TLSv1_3,
        "handshake_timeout": 5.0,
        "resumption": True,
        "": None,
    }
    for name, value in changes.items():
        if name:
            setattr(server, name, value)
        else:
            server.set_alpn_protocols(["h2"])
        assert server.server_config() is not config
        config = server.server_config()
    assert (config.timeout, config.resumption, config.alpn) == (5, True, (b"h2",))
    server.num_tickets = 0
    assert server.server_config().resumption is False
    one = client.client_config(HOST)
    assert client.client_config("other") is not one
    assert client.client_config(HOST) is one
    for number in range(100):
        client.client_config(f"host{number}")
    assert client.client_config(HOST) is not one


def test_roles(files: Path, server: SSLContext, client: SSLContext) -> None:
    """A context of one role is none of the other; what a role needs has to be there."""
    with pytest.raises(ConfigError, match="no client's"):
        server.client_config(HOST)
    with pytest.raises(ConfigError, match="no server's"):
        client.server_config()
    with pytest.raises(ConfigError, match="needs a certificate"):
        SSLContext(ssl.PROTOCOL_TLS_SERVER).server_config()
    with pytest.raises(ValueError, match="check_hostname"):
        client.client_config(None)
    client.check_hostname = False
    with pytest.raises(ConfigError, match="check_hostname is off"):
        client.client_config(None)
    client.identities = (ReferenceIdentifier.for_host(HOST),)
    assert client.client_config(None).identities == client.identities
    client.identities = ()
    client.verify_mode = ssl.CERT_NONE
    assert client.client_config(None).verify is False
    assert client.client_config("192.0.2.1").server_name is None
    assert client.client_config(HOST).server_name == HOST
    with pytest.raises(ConfigError, match="requires trust anchors"):
        SSLContext(ssl.PROTOCOL_TLS_CLIENT).client_config(HOST)
    assert SSLContext.for_client().client_config(HOST).trust.lookup is not None
    shown = SSLContext.for_client(files / "cert.pem", files / "key.pem").client_config(HOST)
    assert shown.key_pair is not None


@pytest.mark.parametrize(
    ("wish", "mode", "required"),
    [(None, 1, False), ("none", 0, False), ("request", 1, False), ("require", 2, True)],
)
def test_client_certificates(files: Path, wish: Any, mode: int, *, required: bool) -> None:
    """Asked for, or not, or demanded; and without anchors there is none to ask for."""
    cert, key = files / "cert.pem", files / "key.pem"
    context = SSLContext.for_server(cert, key, cafile=files / "ca.pem", client_cert=wish)
    assert context.verify_mode == mode
    config = context.server_config()
    assert (config.client_trust is not None, config.client_required) == (bool(mode), required)
    if mode and wish:
        with pytest.raises(ConfigError, match="requires trust anchors"):
            SSLContext.for_server(cert, key, client_cert=wish)


@both
def test_client_certificate_is_seen(files: Path, lab: Lab, policy: KtlsPolicy) -> None:
    """Both sides see the other's, as Python's sockets do; unverified it is empty."""
    cert, key, ca = files / "cert.pem", files / "key.pem", files / "ca.pem"
    server = SSLContext.for_server(cert, key, cafile=ca, alpn=["http/1.1"], policy=policy)
    client = SSLContext.for_client(cert, key, cafile=ca, alpn=["h2", "http/1.1"], policy=policy)
    for verifies in (True, False):
        if not verifies:
            client.check_hostname = False
            client.verify_mode = ssl.CERT_NONE
        ours, theirs = lab.tcp()
        running = Endpoint(lambda theirs=theirs: server.wrap_socket(theirs, server_side=True))  # type: ignore[misc]
        with (
            client.wrap_socket(ours, server_hostname=HOST) as one,
            running.result() as other,
        ):
            seen = other.getpeercert()
            assert seen is not None
            assert seen["subjectAltName"][0] == ("DNS", HOST)
            assert one.getpeercert() == (seen if verifies else {})
            assert one.getpeercert(binary_form=True) == other.getpeercert(binary_form=True)
            assert one.selected_alpn_protocol() == other.selected_alpn_protocol() == "http/1.1"
            assert one.server_hostname == other.server_hostname == HOST
            assert isinstance(one, SSLSocket)


# -- sockets


def test_sockets_that_are_refused(server: SSLContext, client: SSLContext) -> None:
    """They are left as they were."""
    with (
        socket.socket(type=socket.SOCK_DGRAM) as datagrams,
        pytest.raises(NotImplementedError, match="stream"),
    ):
        client.wrap_socket(datagrams, server_hostname=HOST)
    with socket.socket() as sock:
        with pytest.raises(ValueError, match="client mode"):
            server.wrap_socket(sock, server_side=True, server_hostname=HOST)
        with pytest.raises(ValueError, match="check_hostname"):
            client.wrap_socket(sock)
        with pytest.raises(NotImplementedError, match="resumption"):
            client.wrap_socket(sock, server_hostname=HOST, session=object())  # type: ignore[arg-type]
        assert sock.fileno() >= 0
        with client.wrap_socket(sock, server_hostname=HOST.encode()) as wrapped:
            assert wrapped.server_hostname == HOST
            with pytest.raises(NotImplementedError, match="another"):
                client.wrap_socket(wrapped, server_hostname=HOST)


def test_non_blocking(server: SSLContext, lab: Lab) -> None:
    """It cannot do its handshake at once."""
    ours, _theirs = lab.tcp()
    ours.settimeout(0)
    with pytest.raises(ValueError, match="non-blocking"):
        server.wrap_socket(ours, server_side=True)
    with server.wrap_socket(ours, server_side=True, do_handshake_on_connect=False) as wrapped:
        assert wrapped.gettimeout() == 0


def test_timeout(server: SSLContext, client: SSLContext, lab: Lab) -> None:
    """The socket's, or the context's if that is shorter."""
    for context, seconds in ((30.0, 0.05), (0.05, 30.0)):
        client.handshake_timeout = context
        ours, _theirs = lab.tcp()
        ours.settimeout(seconds)
        with pytest.raises(TimeoutError, match="handshake"):
            client.wrap_socket(ours, server_hostname=HOST)
    assert server.handshake_timeout == 30.0


def test_required_kernel(server: SSLContext, files: Path, lab: Lab) -> None:
    """Where the kernel must have the keys and cannot, there is no connection."""
    server.policy = KERNEL
    context = ssl.create_default_context(cafile=str(files / "ca.pem"))
    ours, theirs = lab.tcp()
    running = Endpoint(lambda: context.wrap_socket(ours, server_hostname=HOST))
    try:
        with server.wrap_socket(theirs, server_side=True) as served:
            assert served.ktls == "kernel"
            running.result().close()
    except ssl.SSLError as exc:
        assert "TCP_ULP" in str(exc) or "kernel" in str(exc)
        ours.close()
        with pytest.raises(OSError, match=r"."):
            running.result()


# What is loaded, whether as the system's store, the flags, and whether that is enough for a peer
# whose certificate has an intermediate between it and the root.
_PARTIAL = ssl.VERIFY_X509_PARTIAL_CHAIN
_LEAF, _CHAIN = ssl.VERIFY_CRL_CHECK_LEAF, ssl.VERIFY_CRL_CHECK_CHAIN
_FLAGS = [
    ("root", False, 0, True),
    ("middle", False, 0, False),
    ("middle", False, _PARTIAL, True),
    ("middle", True, 0, False),
    ("middle", True, _PARTIAL, True),
    ("root, list of middle", False, _LEAF, True),
    ("root, list of root", False, _LEAF, False),
    ("root, list of middle", False, _CHAIN, False),
    ("root, list of middle, list of root", False, _CHAIN, True),
]


@pytest.mark.parametrize("by_server", [False, True])
@pytest.mark.parametrize(("loaded", "system", "flags", "is_enough"), _FLAGS)
def test_verify_flags(
    tmp_path: Path,
    authority: trustme.CA,
    monkeypatch: pytest.MonkeyPatch,
    loaded: str,
    flags: int,
    *,
    system: bool,
    is_enough: bool,
    by_server: bool,
) -> None:
    """A peer is judged as Python's own context judges it, with the same error."""
    middle = authority.create_child_ca()
    contents = {
        "root": authority.cert_pem.bytes(),
        "middle": middle.cert_pem.bytes(),
        "list of root": make_crl(authority),
        "list of middle": make_crl(middle),
    }
    path, pair = tmp_path / "loaded.pem", tmp_path / "pair.pem"
    path.write_bytes(b"".join(contents[name] for name in loaded.split(", ")))
    middle.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(pair)
    verdicts = []
    for kind in (ssl.SSLContext, SSLContext):
        if system:
            monkeypatch.setenv("SSL_CERT_FILE", str(path))
        client, server = kind(ssl.PROTOCOL_TLS_CLIENT), kind(ssl.PROTOCOL_TLS_SERVER)
        judge, other = (server, client) if by_server else (client, server)
        server.load_cert_chain(pair)
        client.load_cert_chain(pair)
        if by_server:
            client.check_hostname = False
            client.verify_mode = ssl.CERT_NONE
            server.verify_mode = ssl.CERT_REQUIRED
        if system:
            judge.load_default_certs()
        else:
            judge.load_verify_locations(path)
        judge.verify_flags |= flags
        sides = Side(client, server_hostname=HOST), Side(server, server_side=True)
        shake(*sides)
        verdicts.append(sides[by_server].said[-1])
        assert other.verify_flags == ssl.VERIFY_X509_TRUSTED_FIRST
    assert verdicts[0] == verdicts[1]
    assert (verdicts[1] is None) == is_enough


def test_nothing_left(files: Path) -> None:
    """Contexts end with their last user."""

    def use() -> None:
        context = SSLContext.for_server(files / "cert.pem", files / "key.pem")
        with socket.create_server(("127.0.0.1", 0)) as listener:
            context.wrap_socket(listener, server_side=True).close()

    use()  # what the process keeps, such as its event thread's descriptor, is there from now on
    before = descriptors()
    use()
    gc.collect()
    check_descriptors(before)


def test_document(files: Path) -> None:
    """The example in docs/sslcontext.md serves whom its client asks."""
    blocks = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    port = free_port()
    server, client = (block.replace("8443", str(port)) for block in blocks[:2])
    for name, text in (("server.py", server), ("client.py", client)):
        (files / name).write_text(f"import os\nos.chdir({str(files)!r})\n{text}")
    with Program([sys.executable, str(files / "server.py")]) as running:
        running.await_port(port)
        with Program([sys.executable, str(files / "client.py")]) as asking:
            assert re.fullmatch(rb"[a-z-]+ 200\n", asking.output())
