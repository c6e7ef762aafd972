"""serve under load: reload, a worker's death, a successor and the end, without a failed request."""

from __future__ import annotations

import os
import resource
import signal
import socket
import ssl
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.cli.harness import ENVIRONMENT, LOOPBACK, PATIENCE, Served, in_threads, insist, pause
from tests.cli.ordeal import scrape, undergo
from tests.cli.swarm import Load
from tests.doubles import until
from tests.ports import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Pki


_CONNECTIONS = 120


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder to serve."""
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "index.html").write_bytes(b"index")
    return tmp_path / "www"


def _words(pki: Pki, folder: Path, *more: str) -> tuple[str | Path, ...]:
    named = ("--cert", pki.good.certificate, "--key", pki.good.key)
    return ("serve", "--listen", f"{LOOPBACK}:0", *named, *more, folder)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("words", [(), ("--reuse-port",)], ids=["shared", "reuse-port"])
def test_ordeal(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Only connections of the worker that was killed are lost; nothing else is, nor left open."""
    outcome = undergo(
        tmp_path,
        *("--workers", "2", *words),
        metrics_port=free_port(),
        load=Load(connections=_CONNECTIONS, requests=3, processes=2, at_once=24, pause=0.15),
    )
    assert outcome.failed == []
    tally = outcome.tally
    # Of the connections that were asked for, those that the end came before are left out.
    assert tally.requests + outcome.lost + 3 * tally.refused >= 0.8 * 3 * _CONNECTIONS
    assert len(tally.certificates) == 2, "the swapped one was shown, and the one before"
    assert tally.told > 0, "who had to go was told so"
    assert outcome.status == 0
    assert outcome.err.count("\n") == 1, "all that is said is of the worker that was killed"
    assert "is replaced" in outcome.err
    metrics = outcome.metrics
    assert metrics['tlsify_reloads_total{outcome="ok"}'] == 1
    assert metrics["tlsify_worker_restarts_total"] == 1
    assert metrics["tlsify_drain_cuts_total"] == 0
    done = metrics['tlsify_handshakes_total{outcome="ok"}']
    assert done <= metrics["tlsify_connections_accepted_total"]
    assert metrics["tlsify_handshake_seconds_count"] == done


def test_slow_clients_fill_no_house(pki: Pki, folder: Path) -> None:
    """Though all places are taken by clients that say nothing, others get in, and are counted."""
    port = free_port()
    more = ("--max-handshakes", "8", "--metrics", f"{LOOPBACK}:{port}", "--timeout", "60")
    with Served(*_words(pki, folder, *more)) as server, ExitStack() as stalled:
        for number in range(20):
            sock = stalled.enter_context(server.connect())
            sock.sendall(b"\x16\x03\x01\x02\x00\x01"[: number % 7])
        assert server.fetch(pki.client_context()) == (200, b"index")
        metrics = scrape(port)
        assert metrics['tlsify_handshakes_total{outcome="evicted"}'] > 0
        assert metrics['tlsify_limit_reached_total{limit="handshakes"}'] > 0
        assert metrics["tlsify_handshakes_in_flight"] <= 8
        stalled.close()
        server.stop().succeeded()


def test_few_descriptors(pki: Pki, folder: Path) -> None:
    """With hardly any, who connects waits for a place, and is served; none is left behind."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (104, 104))

    context = pki.client_context()
    with Served(*_words(pki, folder), preexec_fn=limit) as server, server.unharmed(context):
        with ExitStack() as idle:
            for _ in range(9):  # of 10 places
                stream = context.wrap_socket(server.connect(), server_hostname="localhost")
                idle.enter_context(stream)
            in_threads(8, lambda _: server.fetch(context))
        assert server.fetch(context) == (200, b"index")


def test_certificate_swapped(pki: Pki, folder: Path, tmp_path: Path) -> None:
    """It is noticed by itself; a bad one is refused, and the old one is shown on."""
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    key.touch(0o600)
    chain.write_bytes(pki.good.certificate.read_bytes())
    key.write_bytes(pki.good.key.read_bytes())
    port = free_port()
    words = ("serve", "--listen", f"{LOOPBACK}:0", "--cert", chain, "--key", key)
    with Served(*words, "--metrics", f"{LOOPBACK}:{port}", folder) as server:

        def shown() -> bytes | None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            with context.wrap_socket(server.connect()) as stream:
                return stream.getpeercert(binary_form=True)

        first = shown()
        key.write_bytes(b"nonsense")
        until(lambda: scrape(port)['tlsify_reloads_total{outcome="refused"}'] >= 1, PATIENCE)
        assert shown() == first
        other = pki.bad["expired"]
        key.write_bytes(other.key.read_bytes())
        chain.write_bytes(other.certificate.read_bytes())
        until(lambda: shown() != first, PATIENCE)
        server.process.send_signal(signal.SIGTERM)
        assert "reload failed; keeping the previous workers" in server.finish().err


def test_metrics_client_that_stalls(pki: Pki, folder: Path) -> None:
    """It keeps nobody else from asking, and the server from nothing."""
    port = free_port()
    with Served(*_words(pki, folder, "--metrics", f"{LOOPBACK}:{port}")) as server:
        with socket.create_connection((LOOPBACK, port)) as stalled:
            stalled.sendall(b"GET /metr")
            assert scrape(port)["tlsify_ready"] == 1
            assert server.fetch(pki.client_context()) == (200, b"index")
        server.stop().succeeded()


def test_second_signal(pki: Pki, folder: Path) -> None:
    """A second SIGTERM waits for nobody."""
    with Served(*_words(pki, folder)) as server:
        context = pki.client_context()
        with context.wrap_socket(server.connect(), server_hostname="localhost") as stream:
            stream.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert stream.recv(1)
            server.process.terminate()
            until(lambda: not _accepts(server.port), PATIENCE)
            insist(server.process)
            assert server.finish().status == 0


def test_signal_that_comes_twice(pki: Pki, folder: Path) -> None:
    """One request may; who is connected is served all the same."""
    with Served(*_words(pki, folder)) as server:
        context = pki.client_context()
        with context.wrap_socket(server.connect(), server_hostname="localhost") as stream:
            _ask(stream)
            pause(server.process)
            for number in (signal.SIGTERM, signal.SIGINT):
                server.process.send_signal(number)
            server.process.send_signal(signal.SIGCONT)
            until(lambda: not _accepts(server.port), PATIENCE)
            _ask(stream)
        assert server.finish().status == 0


# Hangs before anything of tlsify is imported, and only where a program has taken over.
_HANGS = """
import json, os, pathlib, time
left = json.loads(os.environ.get("TLSIFY_SUCCESSION", "{}"))
if left.get("pid") == os.getpid():
    pathlib.Path(os.environ["REACHED"]).touch()
    time.sleep(1000)
"""


def test_end_of_a_successor_that_hangs(pki: Pki, folder: Path, tmp_path: Path) -> None:
    """It can be ended; the workers of before it drain."""
    (tmp_path / "sitecustomize.py").write_text(_HANGS)
    reached = tmp_path / "reached"
    env = ENVIRONMENT | {"PYTHONPATH": str(tmp_path), "REACHED": str(reached)}
    with Served(*_words(pki, folder), env=env) as server:
        context = pki.client_context()
        with context.wrap_socket(server.connect(), server_hostname="localhost") as stream:
            _ask(stream)
            server.process.send_signal(signal.SIGUSR2)
            until(reached.exists, PATIENCE)
            server.process.terminate()
            assert server.process.wait(PATIENCE) == -signal.SIGTERM
            _ask(stream)
        server.finish()  # which waits for all that could write to where it writes


def _ask(stream: ssl.SSLSocket) -> None:
    stream.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    received = b""
    while not received.endswith(b"index"):
        received += stream.recv(2**16) or pytest.fail("it was closed")


def _accepts(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port)).close()
    except OSError:
        return False
    return True


def test_successor_needs_a_certificate_that_lasts(folder: Path) -> None:
    """One made on the spot would be another: SIGUSR2 is refused, and all goes on."""
    with Served("serve", "--listen", f"{LOOPBACK}:0", folder) as server:
        before = server.workers()
        os.kill(server.process.pid, signal.SIGUSR2)
        assert server.process.stderr is not None
        said = ""
        while "restart failed; this program goes on" not in said:
            line = server.process.stderr.readline().decode()
            assert line, said
            said += line
        assert "would be lost" in said
        assert server.workers() == before
        server.stop()
