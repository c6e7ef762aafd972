"""Tests of forward, as a TLS client: of backends with TLS, and for clients without."""

from __future__ import annotations

import signal
import socket
import ssl
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.cli.forked import refused
from tests.cli.front import Front, Tunnel
from tests.cli.harness import CARRIERS, LOOPBACK, PATIENCE, finish, read_line
from tests.conversations import CONVERSATIONS
from tests.doubles import Endpoint, recv_exactly, until
from tlsify.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.cli.conftest import Credentials, Pki

each_carrier = pytest.mark.parametrize("carrier", CARRIERS)
PAGE = bytes(range(256)) * 12_000


class Served(NamedTuple):
    """What a backend has agreed on."""

    version: str | None
    alpn: str | None
    resumed: bool


class Backend:
    """A TLS server, for one connection after the other.

    Attributes:
        where: its address.
    """

    def __init__(self, credentials: Credentials, client_ca: Path | None = None) -> None:
        """Listen."""
        self.context = credentials.server_context()
        if client_ca is not None:
            self.context.load_verify_locations(client_ca)
            self.context.verify_mode = ssl.CERT_REQUIRED
        self.listener = socket.create_server((LOOPBACK, 0))
        self.listener.settimeout(PATIENCE)
        self.where = f"tls:localhost:{self.listener.getsockname()[1]}"

    def accept(self) -> ssl.SSLSocket:
        """Accept a connection, and do its handshake."""
        sock, _ = self.listener.accept()
        sock.settimeout(PATIENCE)
        return self.context.wrap_socket(sock, server_side=True, suppress_ragged_eofs=False)

    def serve(self) -> Served:
        """Answer one request with a page, and end in order."""
        sock = self.accept()
        found = Served(sock.version(), sock.selected_alpn_protocol(), bool(sock.session_reused))
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            request += sock.recv(99)
        sock.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + PAGE)
        sock.unwrap().close()
        return found


@contextmanager
def backend(
    pki: Pki, credentials: Credentials | None = None, client_ca: Path | None = None
) -> Iterator[Backend]:
    """Have one."""
    made = Backend(credentials or pki.good, client_ca)
    with made.listener:
        yield made


def fetch(sock: socket.socket) -> bytes:
    """Fetch a page without TLS."""
    with sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return recv_exactly(sock, 2 * len(PAGE)).partition(b"\r\n\r\n")[2]


# -- what works


@each_carrier
def test_for_clients_without_tls(pki: Pki, tmp_path: Path, carrier: str) -> None:
    """Plain in, TLS out: the page comes whole; the log says how it was protected."""
    log = tmp_path / "log"
    with backend(pki) as there:
        words = (f"--access-log={log}", f"{LOOPBACK}:0", there.where.removeprefix("tls:"))
        with Tunnel(pki, *words, carrier=carrier) as tunnel:
            assert f" to {there.where} (" in tunnel.line
            idle = tunnel.descriptors()
            serving = Endpoint(there.serve)
            assert fetch(tunnel.dial()) == PAGE
            assert serving.result().version == "TLSv1.3"
            until(lambda: tunnel.descriptors() <= idle)
            assert tunnel.stop().succeeded() == b""
    told = dict(word.split("=", 1) for word in log.read_text().split()[2:])
    assert (told["backend"], told["carrier"], told["end"]) == (there.where, "plain", "clean")
    assert told["backend_carrier"] == ("relay" if carrier == "--ktls=off" else "kernel")
    assert told["backend_reason"] == ("policy-off" if carrier == "--ktls=off" else "-")


@each_carrier
def test_tls_on_both_sides(pki: Pki, carrier: str) -> None:
    """The protocol is passed on; the backend knows forward by a certificate of its own."""
    with backend(pki, client_ca=pki.authority) as there:
        there.context.set_alpn_protocols(["http/1.1", "http/1.0"])
        words: list[str | Path] = ["--alpn", "http/1.0", "--backend-ca", pki.authority]
        words += ["--backend-cert", pki.good.certificate, "--backend-key", pki.good.key]
        with Front(pki, *words, f"{LOOPBACK}:0", there.where, carrier=carrier) as front:
            idle = front.descriptors()
            serving = Endpoint(there.serve)
            assert front.ask(alpn="http/1.0") == PAGE
            assert serving.result().alpn == "http/1.0"
            until(lambda: front.descriptors() <= idle)
            assert front.stop().succeeded() == b""


def test_many_listeners(pki: Pki, tmp_path: Path) -> None:
    """A file has one for each backend; a mail server is asked for TLS, a client is greeted.

    The second backend has another authority, and wants a certificate.
    """
    other = backend(pki, pki.bad["self-signed"], pki.authority)
    with backend(pki) as web, other as mail, socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((LOOPBACK, 0))
        port = bound.getsockname()[1]
        path = tmp_path / "mail"
        config = tmp_path / "tunnels.toml"
        config.write_text(
            'verb = "forward"\nconnect = true\n'
            f'backend-ca = "{pki.authority}"\n'
            f'route = ["listen:{LOOPBACK}:{port}={web.where}",\n'
            f'  "listen:unix:{path}={mail.where.replace("tls:", "tls+smtp:")}"]\n'
            f'[backend-for."{mail.where.removeprefix("tls:")}"]\n'
            f'ca = "{pki.bad["self-signed"].certificate}"\n'
            f'cert = "{pki.good.certificate}"\nkey = "{pki.good.key}"\n'
        )
        with Configured(config) as tunnel:
            lines = [tunnel.line, read_line(tunnel.process.stdout)]
            assert [line.split()[2] for line in lines] == [f"{LOOPBACK}:{port}", f"unix:{path}"]
            serving = Endpoint(web.serve)
            assert fetch(tunnel.dial(port)) == PAGE
            serving.result()

            def serve() -> bytes:
                plain, _ = mail.listener.accept()
                for question, answer in CONVERSATIONS["smtp"]:
                    assert len(recv_exactly(plain, len(question))) == len(question)
                    plain.sendall(answer)
                with mail.context.wrap_socket(plain, server_side=True) as sock:
                    said = sock.recv(99)
                    sock.unwrap()
                return said

            serving_mail = Endpoint(serve)
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(PATIENCE)
                client.connect(str(path))
                assert recv_exactly(client, 18) == b"220 tlsify ESMTP\r\n"
                client.sendall(b"EHLO client\r\n")
                assert client.recv(1) == b""
            assert serving_mail.result() == b"EHLO client\r\n"
            assert tunnel.stop().succeeded() == b""
            assert not path.exists()


class Configured(Tunnel):
    """A running ``tlsify --config FILE``."""

    def __init__(self, path: Path) -> None:
        """Start it."""
        from tests.cli.harness import start  # noqa: PLC0415

        self.process = start("--ktls=off", f"--config={path}")
        self.line = read_line(self.process.stdout)
        assert self.line, finish(self.process).err
        self.port = 0


# -- what does not


@pytest.mark.parametrize(
    "kind", ["wrong-name", "expired", "wrong-authority", "garbage", "silent", "down"]
)
@each_carrier
def test_backend_that_is_not_the_one(pki: Pki, carrier: str, kind: str) -> None:
    """Its client is cut off, and has sent nothing there; the log says why, once."""
    with backend(pki, pki.bad.get(kind)) as there, ExitStack() as stack:
        words = ("--connect-timeout", "0.5" if kind == "silent" else "60")
        where = there.where.removeprefix("tls:")
        tunnel = stack.enter_context(Tunnel(pki, *words, f"{LOOPBACK}:0", where, carrier=carrier))
        if kind == "down":
            there.listener.close()

        def visit() -> None:
            with tunnel.dial() as client:
                client.sendall(b"secret")
                if kind == "garbage":
                    with there.listener.accept()[0] as sock:
                        sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                        assert b"secret" not in recv_exactly(sock, 2**14)
                elif kind in pki.bad:
                    with pytest.raises(ssl.SSLError):
                        there.accept()
                client.recv(1)

        for _ in range(2):
            with pytest.raises(ConnectionError):  # which is told once, perhaps before it has sent
                visit()
        outcome = tunnel.stop()
    assert outcome.status == 0
    assert outcome.err.count("takes no connections: ") == 1, outcome.err
    words_of = {
        "wrong-name": "elsewhere.example",
        "expired": "expired",
        "wrong-authority": "issuer",
        "garbage": "peer sent plain text",
        "silent": "the handshake did not finish",
        "down": "ECONNREFUSED",
    }
    assert words_of[kind] in outcome.err


@each_carrier
@pytest.mark.parametrize("is_relaxed", [False, True])
def test_server_that_cuts(pki: Pki, carrier: str, *, is_relaxed: bool) -> None:
    """All that it has sent arrives, however slowly it is read; then a reset, for it was no end."""
    words = ("--close", "relaxed") if is_relaxed else ()
    with backend(pki) as there:
        where = there.where.removeprefix("tls:")
        with Tunnel(pki, *words, f"{LOOPBACK}:0", where, carrier=carrier) as tunnel:
            with tunnel.dial() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)
                client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                with there.accept() as sock:
                    assert sock.recv(99)
                    sock.sendall(PAGE[:300_000])
                    sock.shutdown(socket.SHUT_WR)  # without close_notify
                    assert recv_exactly(client, 300_000) == PAGE[:300_000]
                    if is_relaxed:
                        assert client.recv(1) == b""
                    else:
                        with pytest.raises(ConnectionResetError):
                            client.recv(1)
            assert tunnel.stop().status == 0


@each_carrier
@pytest.mark.parametrize("end", ["close", "reset", "never reads"])
def test_client_that_leaves(pki: Pki, carrier: str, end: str) -> None:
    """Its end is close_notify for the server, and its reset a cut; one that never reads is cut."""
    words = ("--send-timeout", "0.5", f"{LOOPBACK}:0")
    with backend(pki) as there:
        where = there.where.removeprefix("tls:")
        with Tunnel(pki, *words, where, carrier=carrier) as tunnel:
            idle = tunnel.descriptors()
            client = tunnel.dial()
            client.sendall(b"hello")
            with there.accept() as sock:
                assert recv_exactly(sock, 5) == b"hello"
                if end == "close":
                    client.close()
                    assert sock.recv(1) == b""
                elif end == "reset":
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1] + [0] * 7))
                    client.close()
                    with pytest.raises((ssl.SSLEOFError, ConnectionError)):
                        sock.recv(1)
                else:
                    with pytest.raises((ssl.SSLError, ConnectionError)):
                        _send_for_ever(sock)
            client.close()
            until(lambda: tunnel.descriptors() <= idle)
            assert tunnel.stop().status == 0


def _send_for_ever(sock: socket.socket) -> None:
    while True:
        sock.sendall(bytes(2**16))


def test_reload(pki: Pki, tmp_path: Path) -> None:
    """Authorities are read anew; unusable ones change nothing."""
    trusted = tmp_path / "ca.pem"
    trusted.write_bytes(pki.authority.read_bytes())
    with backend(pki) as there:
        words = ("--backend-ca", trusted, f"{LOOPBACK}:0", there.where.removeprefix("tls:"))
        with Tunnel(pki, *words) as tunnel:
            lines = iter(lambda: read_line(tunnel.process.stderr), "")
            trusted.write_bytes(b"nothing")
            tunnel.process.send_signal(signal.SIGHUP)
            assert any("keeping the previous workers" in line for line in lines)
            serving = Endpoint(there.serve)
            assert fetch(tunnel.dial()) == PAGE
            serving.result()
            trusted.write_bytes(pki.bad["self-signed"].certificate.read_bytes())
            tunnel.process.send_signal(signal.SIGHUP)

            def is_refused() -> bool:
                with tunnel.dial() as client, suppress(ConnectionError):
                    client.sendall(b"secret")
                    with suppress(ssl.SSLError), there.accept() as sock:
                        sock.recv(9)
                        return False
                    return client.recv(1) == b"never"
                return True

            until(is_refused, PATIENCE)


def test_session_store(pki: Pki, tmp_path: Path) -> None:
    """The second handshake resumes the first one's session, in a worker that is confined."""
    with backend(pki) as there:
        words = ("--backend-session-store", tmp_path / "store", f"{LOOPBACK}:0")
        with Tunnel(pki, *words, there.where.removeprefix("tls:")) as tunnel:
            for resumed in (False, True):
                serving = Endpoint(there.serve)
                assert fetch(tunnel.dial()) == PAGE
                assert serving.result().resumed is resumed
                until(lambda: any((tmp_path / "store").iterdir()))


def test_check(pki: Pki, tmp_path: Path) -> None:
    """A backend that is another one is found before anything is started."""
    config = tmp_path / "config.toml"
    for credentials, words in ((pki.good, "takes connections"), (pki.bad["expired"], "expired")):
        with backend(pki, credentials) as there:
            config.write_text(
                'verb = "forward"\nconnect = true\nlisten = ["127.0.0.1:0", "0.0.0.0:0"]\n'
                f'backend-ca = "{pki.authority}"\noperands = ["{there.where}"]\n'
            )
            serving = Endpoint(_attempt(there.accept))
            outcome = refused("check", "--config", config)
            serving.result()
        assert outcome.status == 0
        assert words in " ".join(outcome.out.decode().split())
        assert "0.0.0.0:0 takes plaintext from other hosts" in outcome.err


def _attempt(accept: Callable[[], ssl.SSLSocket]) -> Callable[[], None]:
    def attempt() -> None:
        with suppress(OSError):
            accept().close()

    return attempt


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cert", "c.pem", ":1", "b:1"], "--cert is about TLS with clients"),
        (["--timeout", "3", ":1", "b:1"], "--timeout is about TLS with clients"),
        (["--pass-fd", "unix:/x", ":1"], "--pass-fd is about TLS with clients"),
        (["--route", "sni:a=b:1", ":1", "b:1"], "write listen:ADDRESS"),
        (["--backend-key", "k.pem", ":1", "b:1"], "without --backend-cert"),
        (["--backend-starttls", "mysql", ":1", "b:1"], "STARTTLS of mysql cannot be forwarded"),
        (["--route", "listen::1=b:1", "--listen", ":2"], "no backend for what is accepted at :2"),
        (["127.0.0.1:1", "unix:/x"], "no server name or identity to verify"),
    ],
)
def test_misuse(words: list[str], message: str) -> None:
    """What cannot be meant is refused before anything listens."""
    refused("forward", "--connect", *words).failed(ExitCode.USAGE, message)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--backend-ca", "c.pem", "b:1"], "--backend-ca is about TLS to backends"),
        (["--isolate-key", "--backend-cert", "c", "tls:b:1"], "--isolate-key keeps no"),
        (["--pass-fd", "tls:unix:/x"], "cannot be sent to tls:unix:/x"),
    ],
)
def test_misuse_as_a_server(pki: Pki, words: list[str], message: str) -> None:
    """Likewise."""
    given = ("forward", "--cert", pki.good.certificate, "--key", pki.good.key, "127.0.0.1:0")
    refused(*given, *words).failed(ExitCode.USAGE, message)
