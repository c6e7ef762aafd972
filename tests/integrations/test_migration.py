"""stunnel and hitch, and tlsify in their place: clients and backends see the same."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.cli.forked import Forked, refused
from tests.cli.harness import LOOPBACK, PATIENCE
from tests.doubles import ends
from tests.interop.programs import TIMEOUT, Program
from tests.ports import free_port
from tests.provision import find
from tlsify.passing import proxy_protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import trustme

pytestmark = [pytest.mark.interop, pytest.mark.timeout(TIMEOUT)]

_TLS12, _TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


class Client(NamedTuple):
    """What a client offers."""

    version: ssl.TLSVersion = _TLS13
    ciphers: str = "ECDHE+AESGCM:ECDHE+CHACHA20"
    name: str = "localhost"
    has_certificate: bool = True
    alpn: str = ""


CLIENTS = (
    Client(),
    Client(version=_TLS12),
    Client(has_certificate=False),
    Client(has_certificate=False, version=_TLS12),
    Client(version=_TLS12, ciphers="ECDHE+AES128+AESGCM"),
    Client(version=_TLS12, ciphers="ECDHE+CHACHA20"),
    Client(name="other.example"),
    Client(alpn="h2"),
)


@pytest.fixture
def folder(authority: trustme.CA, tmp_path: Path) -> Path:
    """Certificates for two names and for a client, and their authority."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    for name in ("localhost", "other.example", "client.example"):
        leaf = authority.issue_cert(name)
        chain = b"".join(pem.bytes() for pem in leaf.cert_chain_pems)
        (tmp_path / f"{name}.pem").write_bytes(leaf.private_key_pem.bytes() + chain)
        (tmp_path / f"{name}.pem").chmod(0o600)
    return tmp_path


@contextmanager
def backend(says: bytes) -> Iterator[int]:
    """Answer "ping" by what it is, and by which PROXY header came first."""

    def serve(sock: socket.socket) -> None:
        with sock:
            received = b""
            while not received.endswith(b"ping") and (more := sock.recv(2**12)):
                received += more
            kind = b"none"
            if received.startswith(proxy_protocol.SIGNATURE):
                kind = b"2"
            elif received.startswith(b"PROXY TCP4 127.0.0.1 127.0.0.1 "):
                kind = b"1"
            if received:
                sock.sendall(says + b" " + kind)

    def accept() -> None:
        while True:
            try:
                sock = listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=serve, args=[sock]).start()

    with socket.create_server((LOOPBACK, 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def observe(port: int, folder: Path) -> list[object]:
    """Return what becomes of each client."""
    return [_visit(port, folder, client) for client in CLIENTS]


def _visit(port: int, folder: Path, client: Client) -> object:
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    context.minimum_version = context.maximum_version = client.version
    if client.version is _TLS12:
        context.set_ciphers(client.ciphers)
    if client.has_certificate:
        context.load_cert_chain(folder / "client.example.pem")
    if client.alpn:
        context.set_alpn_protocols([client.alpn])
    try:
        with (
            socket.create_connection((LOOPBACK, port), PATIENCE) as sock,
            context.wrap_socket(
                sock, server_hostname=client.name, suppress_ragged_eofs=False
            ) as tls,
        ):
            tls.sendall(b"ping")
            answer = b""
            while more := tls.recv(2**12):
                answer += more
            return answer.decode(), tls.selected_alpn_protocol()
    except ssl.SSLCertVerificationError:
        return "another certificate"
    except (ssl.SSLError, ConnectionError):
        return "refused"


@contextmanager
def translated(config: Path) -> Iterator[None]:
    """Run tlsify in the place of the other program."""
    done = refused("config", "import", config)
    assert done.status == 0, done.err
    toml = config.with_suffix(".toml")
    toml.write_bytes(done.out)
    with Forked("--ktls=off", "--config", toml) as server:
        assert server.line().startswith("tlsify: forwarding "), server.said()
        yield
        server.ask_to_end()
        assert server.end() == 0


def compare(words: list[str], config: Path, port: int, folder: Path) -> list[object]:
    """Expect the same of both; return it."""
    with Program(words) as original:
        original.await_port(port)
        expected = observe(port, folder)
        original.terminate()
        ends(original.process)
    with translated(config):
        assert observe(port, folder) == expected
    return expected


@pytest.mark.parametrize(
    ("lines", "refusals"),
    [
        ("", 0),
        ("verifyChain = yes\nCAfile = {folder}/ca.pem\nprotocol = proxy", 2),
        ("verifyChain = yes\nrequireCert = no\nCAfile = {folder}/ca.pem", 0),
        ("sslversionmin = tlsv1.2\nsslVersionMax = TLSv1.2\nciphers = ECDHE+AES256:!SHA", 6),
        ("sslVersion = TLSv1.3\nverify = 1\nCAfile = {folder}/ca.pem", 4),
    ],
    ids=["plain", "verification", "optional", "suites", "version"],
)
def test_stunnel(folder: Path, lines: str, refusals: int) -> None:
    """Versions, ciphers, certificates of clients, and the PROXY header."""
    port, config = free_port(), folder / "stunnel.conf"
    with backend(b"backend") as behind:
        config.write_text(
            f"foreground = yes\npid =\ndebug = 0\n[tls]\naccept = {LOOPBACK}:{port}\n"
            f"connect = {LOOPBACK}:{behind}\ncert = {folder}/localhost.pem\n"
            + lines.format(folder=folder)
        )
        found = compare([find("stunnel4"), str(config)], config, port, folder)
    assert found.count("refused") == refusals


def test_names_of_stunnel(folder: Path) -> None:
    """A name with a certificate and a backend of its own."""
    port, config = free_port(), folder / "stunnel.conf"
    with backend(b"one") as one, backend(b"two") as two:
        config.write_text(
            f"foreground = yes\npid =\ndebug = 0\n[tls]\naccept = {LOOPBACK}:{port}\n"
            f"connect = {LOOPBACK}:{one}\ncert = {folder}/localhost.pem\n"
            f"[other]\nsni = tls:other.example\nconnect = {LOOPBACK}:{two}\n"
            f"cert = {folder}/other.example.pem\n"
        )
        found = compare([find("stunnel4"), str(config)], config, port, folder)
    assert ("two none", None) in found


@contextmanager
def secure_backend(folder: Path, name: str) -> Iterator[int]:
    """Answer by the name that the client asks for, and whether it shows a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / f"{name}.pem")
    context.load_verify_locations(folder / "ca.pem")
    context.verify_mode = ssl.CERT_OPTIONAL
    asked: list[str | None] = []
    context.sni_callback = lambda _sock, name, _context: asked.append(name)

    def accept() -> None:
        while True:
            try:
                sock = listener.accept()[0]
            except OSError:
                return
            with suppress(OSError), sock, context.wrap_socket(sock, server_side=True) as tls:
                tls.recv(4)
                tls.sendall(f"{asked[-1]} {bool(tls.getpeercert())}".encode())
                tls.unwrap()

    with socket.create_server((LOOPBACK, 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.parametrize(
    ("lines", "answer"),
    [
        ("verifyChain = yes\nCAfile = {folder}/ca.pem", "localhost False"),
        ("verifyChain = yes\nCAfile = {folder}/client.example.pem", ""),
        ("verifyChain = yes\nCAfile = {folder}/ca.pem\ncheckHost = other.example", ""),
        ("verifyPeer = yes\nCAfile = {folder}/localhost.pem\nsni = x.example", "x.example False"),
        ("verifyPeer = yes\nCAfile = {folder}/other.example.pem", ""),
        ("verifyPeer = yes\nCAfile = {folder}/both.pem\ncheckHost = localhost", "localhost False"),
        ("verifyPeer = yes\nCAfile = {folder}/both.pem\ncheckHost = other.example", ""),
        (
            "verifyChain = yes\nCAfile = {folder}/ca.pem\ncert = {folder}/client.example.pem",
            "localhost True",
        ),
    ],
    ids=[
        *("chain", "wrong-chain", "wrong-name", "peer", "wrong-peer", "peer-and-name"),
        *("wrong-name-of-peer", "certificate"),
    ],
)
def test_stunnel_as_a_client(folder: Path, lines: str, answer: str) -> None:
    """Which servers it accepts, and what it tells them."""
    port, config = free_port(), folder / "stunnel.conf"
    both = (folder / f"{name}.pem" for name in ("localhost", "other.example"))
    (folder / "both.pem").write_bytes(b"".join(path.read_bytes() for path in both))

    def ask() -> str:
        with (
            socket.create_connection((LOOPBACK, port), PATIENCE) as sock,
            suppress(ConnectionError),
        ):
            sock.sendall(b"ping")
            return b"".join(iter(partial(sock.recv, 2**12), b"")).decode()
        return ""

    with secure_backend(folder, "localhost") as behind:
        config.write_text(
            f"foreground = yes\npid =\ndebug = 0\n[tls]\nclient = yes\n"
            f"accept = {LOOPBACK}:{port}\nconnect = localhost:{behind}\n"
            + lines.format(folder=folder)
        )
        with Program([find("stunnel4"), str(config)]) as original:
            original.await_port(port)
            assert ask() == answer
            original.terminate()
            ends(original.process)
        with translated(config):
            assert ask() == answer


@pytest.mark.parametrize(
    ("lines", "refusals"),
    [
        (["write-proxy-v2 = on", 'alpn-protos = "h2, http/1.1"', 'ciphers = "HIGH"'], 0),
        (
            [
                *("client-verify = required", 'client-verify-ca = "{folder}/ca.pem"'),
                *("write-proxy-v1 = on", "tls-protos = TLSv1.2 TLSv1.3"),
                'ciphers = "ECDHE+AES256+AESGCM"',
            ],
            4,
        ),
    ],
    ids=["proxy", "verification"],
)
def test_hitch(folder: Path, lines: list[str], refusals: int) -> None:
    """Two certificates, of which the last is the default; the PROXY header in both versions."""
    port, config = free_port(), folder / "hitch.conf"
    with ExitStack() as stack:
        behind = stack.enter_context(backend(b"backend"))
        config.write_text(
            f'frontend = {{ host = "{LOOPBACK}" port = "{port}" sni-nomatch-abort = f }};\n'
            f'backend = "[{LOOPBACK}]:{behind}"\nworkers = 1\nchroot = ""\n'
            f'pem-file = "{folder}/other.example.pem"\npem-file = "{folder}/localhost.pem"\n'
            + ('user = "nobody"\n' if os.geteuid() == 0 else "")
            + "\n".join(lines).format(folder=folder)
            + "\n"
        )
        found = compare([find("hitch"), f"--config={config}"], config, port, folder)
    assert found.count("refused") == refusals
