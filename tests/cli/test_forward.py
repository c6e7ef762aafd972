"""Tests of forward."""

from __future__ import annotations

import resource
import signal
import socket
import ssl
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING

import pytest

from tests.cli.forked import refused
from tests.cli.front import Front
from tests.cli.harness import (
    CARRIERS,
    LOOPBACK,
    PATIENCE,
    finish,
    read_line,
    start,
)
from tests.doubles import Endpoint, recv_exactly, reset, until
from tlsify.connection.handoff import Offload
from tlsify.errors import ExitCode
from tlsify.receiver import Receiver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.conftest import Pki

each_carrier = pytest.mark.parametrize("carrier", CARRIERS)
_BIG = 3_000_000


@contextmanager
def backend(says: bytes, where: tuple[str, int] = (LOOPBACK, 0)) -> Iterator[str]:
    """A web server without TLS, which says the same of everything; return its address."""

    class Saying(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(says)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(where, Saying) as server:
        thread = Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield f"{LOOPBACK}:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@contextmanager
def nobody() -> Iterator[str]:
    """An address where nobody is, and nobody comes unasked."""
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # whoever wants to may listen
        bound.bind((LOOPBACK, 0))
        yield f"{LOOPBACK}:{bound.getsockname()[1]}"


# -- what works


@each_carrier
@pytest.mark.parametrize("isolated", [[], ["--isolate-key"]])
def test_pages(pki: Pki, carrier: str, isolated: list[str]) -> None:
    """One line says what goes where; pages come whole; it ends in silence."""
    page = bytes(range(256)) * (_BIG // 256)
    words = (*isolated, f"{LOOPBACK}:0")
    with backend(page) as where, Front(pki, *words, where, carrier=carrier) as front:
        how = "relay: policy-off" if carrier == "--ktls=off" else "kernel TLS"
        assert front.line == f"tlsify: forwarding {LOOPBACK}:{front.port} to {where} ({how})\n"
        idle = front.descriptors()
        for _ in range(3):
            assert front.ask() == page
        until(lambda: front.descriptors() <= idle)
        assert front.stop().succeeded() == b""


def test_several_addresses(pki: Pki) -> None:
    """One process listens on all of them; options may stand in between."""
    with (
        backend(b"page") as where,
        Front(pki, f"{LOOPBACK}:0", "--workers", "2", "[::1]:0", where) as front,
    ):
        assert front.ask() == b"page"
        line = read_line(front.process.stdout)
        front.port = int(line.rpartition(" to ")[0].rpartition(":")[2])
        assert line.startswith("tlsify: forwarding [::1]:")
        with socket.create_connection(("::1", front.port)):
            pass
        assert front.stop().status == 0


def test_routes(pki: Pki) -> None:
    """Protocols and names have backends of their own; the first rule that fits decides."""
    with ExitStack() as stack:
        places = [stack.enter_context(backend(name)) for name in (b"two", b"name", b"rest")]
        words = ["--alpn", "h2", "--alpn", "http/1.1", "--route", f"h2={places[0]}"]
        words += ["--route", f"sni:*.example.org={places[1]}"]
        front = stack.enter_context(Front(pki, *words, f"{LOOPBACK}:0", places[2]))
        assert front.ask() == b"rest"
        assert front.ask(alpn="http/1.1") == b"rest"
        assert front.ask(alpn="h2") == b"two"
        assert front.ask(name="www.example.org") == b"name"
        assert front.ask(name="www.example.org", alpn="h2") == b"two"


def test_backend_with_a_name(pki: Pki) -> None:
    """It is looked up by confined workers, too."""
    with backend(b"page") as where:
        named = where.replace(LOOPBACK, "localhost")
        with Front(pki, f"{LOOPBACK}:0", named) as front:
            assert front.ask() == b"page"
            assert front.stop().status == 0


def test_balance(pki: Pki, tmp_path: Path) -> None:
    """Backends take turns, apart from one that is down; which that is the metrics say."""
    words = ["--balance=round-robin", f"--metrics=unix:{tmp_path}/metrics", "--health-check=/x"]
    words += ["--health-interval=0.05"]

    def metrics() -> str:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(f"{tmp_path}/metrics")
            sock.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            return b"".join(iter(partial(sock.recv, 2**16), b"")).decode()

    with (
        backend(b"one") as one,
        nobody() as down,
        backend(b"two") as two,
        Front(pki, *words, f"{LOOPBACK}:0", f"{one},{down},{two}") as front,
    ):
        until(lambda: f'tlsify_backend_up{{backend="{down}"}} 0\n' in metrics())
        assert sorted([front.ask() for _ in range(4)]) == [b"one", b"one", b"two", b"two"]
        assert f'tlsify_backend_up{{backend="{two}"}} 1\n' in metrics()
        assert "tlsify_backend_errors_total 0\n" in metrics()
        assert front.stop().status == 0


def test_failover(pki: Pki) -> None:
    """Where the first backend is down the second answers, and that is said once."""
    with (
        nobody() as down,
        backend(b"page") as up,
        Front(pki, f"{LOOPBACK}:0", f"{down},{up}") as front,
    ):
        assert [front.ask() for _ in range(3)] == [b"page"] * 3
        err = front.stop().err
    assert err == (
        f"tlsify: warning: backend {down} takes no connections: ECONNREFUSED: Connection refused\n"
    )


def test_backend_that_is_restarted(pki: Pki) -> None:
    """Who connects meanwhile waits for it, if that is asked for."""
    with nobody() as down, Front(pki, f"{LOOPBACK}:0", "--retry", "60", down) as front:
        port = int(down.rpartition(":")[2])
        asking = Endpoint(front.ask)
        assert front.process.stderr is not None
        lines = iter(lambda: read_line(front.process.stderr), "")
        assert any("ECONNREFUSED" in line for line in lines)
        with backend(b"page", (LOOPBACK, port)):
            assert asking.result() == b"page"


@pytest.mark.parametrize("alpn", [None, "http/1.1"])
@each_carrier
def test_client_of_http_that_hangs_up(pki: Pki, carrier: str, alpn: str | None) -> None:
    """After its exchange the backend sees an end; it need not be told what protocol this is."""
    words = () if alpn is None else ("--alpn", alpn)
    with socket.create_server((LOOPBACK, 0)) as listener:
        where = f"{LOOPBACK}:{listener.getsockname()[1]}"
        with Front(pki, f"{LOOPBACK}:0", *words, where, carrier=carrier) as front:
            client = front.connect(alpn=alpn)
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            plain, _ = listener.accept()
            with plain:
                assert plain.recv(4)
                plain.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
                assert client.recv(12) == b"HTTP/1.1 204"
                client.close()  # as Python's ssl does: without close_notify
                while plain.recv(99):
                    pass


@pytest.mark.parametrize(
    ("words", "sent", "is_cut"),
    [
        ([], b"QUIT\r\n", True),
        ([], b"GET /", True),
        (["--close", "strict"], b"GET / HTTP/1.1\r\n\r\n", True),
        (["--close", "relaxed"], b"QUIT\r\n", False),
    ],
)
def test_client_that_hangs_up(pki: Pki, words: list[str], sent: bytes, *, is_cut: bool) -> None:
    """In another protocol, or by the user's word, that is a cut; or it is none."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        where = f"{LOOPBACK}:{listener.getsockname()[1]}"
        with Front(pki, f"{LOOPBACK}:0", *words, where) as front:
            client = front.connect()
            client.sendall(sent)
            plain, _ = listener.accept()
            with plain:
                assert recv_exactly(plain, len(sent)) == sent
                plain.sendall(b"ok")
                assert client.recv(2) == b"ok"
                client.close()
                if is_cut:
                    with pytest.raises(ConnectionResetError):
                        plain.recv(1)
                else:
                    assert plain.recv(1) == b""


@each_carrier
def test_descriptors_for_any_worker(pki: Pki, tmp_path: Path, carrier: str) -> None:
    """A worker gets a descriptor of its own for each connection."""
    path = tmp_path / "socket"
    words = (f"{LOOPBACK}:0", "--pass-fd", f"unix:{path}", "--alpn", "http/1.1")
    with Receiver(path) as receiver, Front(pki, *words, carrier=carrier) as front:
        idle = front.descriptors()
        with front.connect(alpn="http/1.1") as client:
            stream, told = receiver.accept()
            assert told.offload is (Offload.RELAY if carrier == "--ktls=off" else Offload.KERNEL)
            assert stream.offload is Offload.RELAY
            assert (told.server_name, told.alpn) == ("localhost", b"http/1.1")
            assert stream.getpeername() == client.getsockname()
            with stream:
                stream.sendall(b"page")
            assert recv_exactly(client, 99) == b"page"
            client.unwrap().close()
        until(lambda: front.descriptors() <= idle)
        assert front.stop().succeeded() == b""


@each_carrier
def test_descriptors_for_aware_workers(pki: Pki, tmp_path: Path, carrier: str) -> None:
    """An aware one gets the connection itself, if the kernel protects it."""
    path = tmp_path / "socket"
    words = (f"{LOOPBACK}:0", "--pass-fd", f"unix:{path}", "--aware")
    with Receiver(path) as receiver, Front(pki, *words, carrier=carrier) as front:
        idle = front.descriptors()
        with front.connect() as client:
            stream, told = receiver.accept()
            assert stream.offload is told.offload
            assert stream.offload is (Offload.RELAY if carrier == "--ktls=off" else Offload.KERNEL)
            if carrier != "--ktls=off":
                until(lambda: front.descriptors() <= idle)
            client.sendall(b"request")
            assert stream.recv(99) == b"request"
            with stream:
                stream.sendall(b"page")
            assert recv_exactly(client, 99) == b"page"
            client.unwrap().close()
        until(lambda: front.descriptors() <= idle)


# -- what does not


@each_carrier
def test_idle_connection(pki: Pki, carrier: str) -> None:
    """With --idle it ends in good order, for both sides, and is told and counted."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        where = f"{LOOPBACK}:{listener.getsockname()[1]}"
        words = ("--idle", "2", f"{LOOPBACK}:0", where)
        with Front(pki, *words, carrier=carrier) as front, front.connect() as client:
            plain, _ = listener.accept()
            with plain:
                client.sendall(b"request")
                assert recv_exactly(plain, 7) == b"request"
                plain.sendall(b"answer")
                assert recv_exactly(client, 99) == b"answer"
                assert plain.recv(1) == b""
            client.unwrap().close()
            assert front.stop().succeeded() == b""


@each_carrier
def test_client_that_takes_nothing(pki: Pki, carrier: str) -> None:
    """After --send-timeout nothing of it is left, and its backend is cut off."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        where = f"{LOOPBACK}:{listener.getsockname()[1]}"
        words = ("--send-timeout", "0.3", f"{LOOPBACK}:0", where)
        with Front(pki, *words, carrier=carrier) as front, front.connect():
            plain, _ = listener.accept()
            with plain, pytest.raises((ConnectionResetError, BrokenPipeError)):
                _send_for_ever(plain)


def _send_for_ever(sock: socket.socket) -> None:
    while True:
        sock.sendall(bytes(2**16))


@each_carrier
def test_backend_down(pki: Pki, carrier: str) -> None:
    """The client sees at once that it was not served, whatever it has sent; it is said once."""
    words = ("--connect-timeout", "3600", f"{LOOPBACK}:0")
    with nobody() as down, Front(pki, *words, down, carrier=carrier) as front:
        idle = front.descriptors()
        for request in (b"GET / HTTP/1.0\r\n\r\n", b""):
            with front.connect() as client, pytest.raises((ssl.SSLEOFError, ConnectionError)):
                _exchange(client, request)
        process = start("connect", "--ca", pki.authority, LOOPBACK, front.port)
        assert process.wait(PATIENCE) == ExitCode.CLOSED
        finish(process).failed(ExitCode.CLOSED, "close_notify")
        until(lambda: front.descriptors() <= idle)
        outcome = front.stop()
    assert outcome.status == 0
    assert outcome.err.count("takes no connections: ECONNREFUSED") == 1


def _exchange(client: ssl.SSLSocket, request: bytes) -> None:
    client.sendall(request)
    client.recv(1)


@each_carrier
def test_clients_that_go_away(pki: Pki, carrier: str) -> None:
    """In the midst of an answer, of a request, or of nothing: nothing stays open."""
    with (
        backend(bytes(2**26)) as where,
        Front(pki, f"{LOOPBACK}:0", where, carrier=carrier) as front,
    ):
        idle = front.descriptors()
        for request in (b"GET / HTTP/1.0\r\n\r\n", b"GET /", b""):
            client = front.connect()
            client.sendall(request)
            if request.endswith(b"\n"):
                client.recv(1)
            reset(client)
        until(lambda: front.descriptors() <= idle)
        assert front.stop().status == 0


def test_few_descriptors(pki: Pki) -> None:
    """More clients than there are descriptors for wait, and all are served."""
    limit = partial(resource.setrlimit, resource.RLIMIT_NOFILE, (90, 90))
    with (
        backend(b"page") as where,
        Front(pki, f"{LOOPBACK}:0", where, preexec_fn=limit) as front,
    ):
        with ExitStack() as stack:
            for _ in range(8):
                stack.enter_context(socket.create_connection((LOOPBACK, front.port)))
            waiting = [Endpoint(front.ask) for _ in range(4)]
        assert [each.result(PATIENCE) for each in waiting] == [b"page"] * 4
        assert front.stop().status == 0


def test_drain(pki: Pki) -> None:
    """Who is being served when it is told to end is served to the end."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        where = f"{LOOPBACK}:{listener.getsockname()[1]}"
        with Front(pki, f"{LOOPBACK}:0", where) as front, front.connect() as client:
            plain, _ = listener.accept()
            with plain:
                plain.sendall(b"begun, ")
                assert recv_exactly(client, 7) == b"begun, "
                front.process.send_signal(signal.SIGTERM)
                plain.sendall(b"and finished")
            assert recv_exactly(client, 99) == b"and finished"
            client.unwrap().close()
            assert finish(front.process).succeeded() == b""


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ([], ExitCode.USAGE, "BACKEND is required"),
        (["b:1"], ExitCode.USAGE, "no address to listen on"),
        (["127.0.0.1:0", "b:1", "--aware"], ExitCode.USAGE, "--aware"),
        (
            ["127.0.0.1:0", "--pass-fd", "unix:/x", "--proxy-protocol"],
            ExitCode.USAGE,
            "--proxy-protocol",
        ),
        (["127.0.0.1:0", "nobody"], ExitCode.USAGE, "write nobody:PORT"),
        (["127.0.0.1:0", "http://b:1"], ExitCode.USAGE, '"http://b:1" is a URL'),
        (["127.0.0.1:0", "b:1", "--retry", "-1"], ExitCode.USAGE, "--retry"),
        (["127.0.0.1:0", "b:1", "--idle", "0"], ExitCode.USAGE, "--idle"),
        (["127.0.0.1:0", "b:1", "--send-timeout", "x"], ExitCode.USAGE, "--send-timeout"),
        (["127.0.0.1:0", "--pass-fd", "b:1"], ExitCode.USAGE, "cannot be sent to b:1"),
        (
            ["127.0.0.1:0", "--pass-fd", "unix:/x", "--route", "sni:a=b:1"],
            ExitCode.USAGE,
            "cannot be sent to b:1",
        ),
        (["127.0.0.1:0", "b:1", "--route", "h2=c:1"], ExitCode.USAGE, "add --alpn h2"),
        (["127.0.0.1:0", "b:1", "--route", "h2"], ExitCode.USAGE, '"h2" is not a route'),
        (["nowhere", "b:1"], ExitCode.USAGE, "write nowhere:PORT"),
        (["127.0.0.1:47", "127.0.0.1:47"], ExitCode.USAGE, "itself listens"),
    ],
)
def test_misuse(pki: Pki, words: list[str], status: int, message: str) -> None:
    """What cannot be meant is refused before anything listens."""
    given = ("forward", "--cert", pki.good.certificate, "--key", pki.good.key)
    refused(*given, *words).failed(status, message)
