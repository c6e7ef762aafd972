"""Servers that get their certificates from pebble, by their own handshakes and answers."""

from __future__ import annotations

import os
import pwd
import re
import signal
import socket
import ssl
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from tests.acme.pebble import Pebble
from tests.cli.forked import Forked, refused
from tests.cli.harness import LOOPBACK, REFUSED, Served
from tests.doubles import until
from tests.ports import free_port
from tlsify.credentials.parse import encoded
from tlsify.credentials.presented import read

if TYPE_CHECKING:
    from collections.abc import Iterator

    import trustme

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def pebble(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    """An authority that takes everyone."""
    with Pebble(tmp_path_factory.mktemp("pebble"), authority) as running:
        yield running


def shown(port: int, name: str) -> x509.Certificate | None:
    """Return the certificate for a name; None if the server refuses the handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        suppress(ssl.SSLError, ConnectionError),
        socket.create_connection((LOOPBACK, port)) as sock,
        context.wrap_socket(sock, server_hostname=name) as stream,
    ):
        return x509.load_der_x509_certificate(stream.getpeercert(binary_form=True) or b"")
    return None


def has(port: int, name: str) -> bool:
    """Return whether the server has an authority's certificate for a name."""
    found = shown(port, name)
    if found is None or "Pebble" not in found.issuer.rfc4514_string():
        return False
    return name in [it.text for it in read(encoded(found))]


def words(pebble: Pebble, folder: Path, *names: str) -> list[str | Path | int]:
    """Spell the options."""
    found: list[str | Path | int] = [
        *("--acme-directory", pebble.directory, "--acme-ca", pebble.ca, "--acme-agree-tos"),
        *("--acme-dir", folder, "--drain", 1),
    ]
    for name in names:
        found += ["--acme", name]
    return found


def challenges(port: int) -> int:
    """Return how many of an authority's handshakes a server has counted."""
    found = re.search(r'outcome="acme_challenge"} (\d+)', metrics(port))
    return 0 if found is None else int(found[1])


def metrics(port: int) -> str:
    """Fetch them."""
    with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/metrics") as answer:
        text: bytes = answer.read()
    return text.decode()


def test_server_without_a_certificate(pebble: Pebble, tmp_path: Path) -> None:
    """It begins to serve once it has one, by itself; after a restart it has it at once."""
    (tmp_path / "index.html").touch()
    metric = free_port()
    line = [
        *("serve", "--ktls=off", "--listen", f"{LOOPBACK}:{pebble.tls_port}", "--workers", 2),
        *(
            "--metrics",
            f"{LOOPBACK}:{metric}",
            *words(pebble, tmp_path / "acme", "a.example,b.example"),
        ),
        tmp_path,
    ]
    with Forked(*line) as server:
        assert "serving" in server.line()
        until(lambda: has(pebble.tls_port, "b.example"))
        until(lambda: "tlsify_acme_certificates_total 1\n" in metrics(metric))
        assert "tlsify_acme_last_success_timestamp_seconds 0\n" not in metrics(metric)
        expiry = 'tlsify_certificate_expiry_timestamp_seconds{name="a.example,b.example"}'
        until(lambda: expiry in metrics(metric))  # each worker tells of what it has read
        until(lambda: challenges(metric) == 6)  # for two names, from three places
        server.ask_to_end()
        assert server.end() == 0
        assert "a new certificate for a.example, b.example" in server.said()
    orders = pebble.orders
    with Forked(*line) as server:
        assert "serving" in server.line()
        assert has(pebble.tls_port, "a.example")
        until(lambda: "tlsify_reloads_total" in metrics(metric))
        server.ask_to_end()
        assert server.end() == 0
    assert pebble.orders == orders


def test_keys_in_processes_of_their_own(pebble: Pebble, tmp_path: Path) -> None:
    """Key holders show challenges as well, and read the new key; the backend sees no authority."""
    with socket.create_server((LOOPBACK, 0)) as backend:
        port = backend.getsockname()[1]
        line = [
            *("forward", "--ktls=off", "--isolate-key", f"{LOOPBACK}:{pebble.tls_port}"),
            *words(pebble, tmp_path / "acme", "c.example"),
            f"{LOOPBACK}:{port}",
        ]
        with Forked(*line) as server:
            assert "forwarding" in server.line()
            until((tmp_path / "acme/c.example.pem").exists)
            backend.settimeout(0)
            with pytest.raises(BlockingIOError):
                backend.accept()
            until(lambda: has(pebble.tls_port, "c.example"))
            server.ask_to_end()
            assert server.end() == 0


def test_challenge_by_http(pebble: Pebble, tmp_path: Path) -> None:
    """The server answers on its port for plain HTTP, where others are redirected as ever."""
    line = [
        *("forward", "--ktls=off", "--listen", f"{LOOPBACK}:{pebble.tls_port}"),
        *(f"--redirect-http={LOOPBACK}:{pebble.http_port}", "--acme-challenge", "http-01"),
        *words(pebble, tmp_path / "acme", "d.example"),
        f"{LOOPBACK}:1",
    ]
    with Forked(*line) as server:
        server.line()
        until(lambda: has(pebble.tls_port, "d.example"))
        server.ask_to_end()
        assert server.end() == 0


def test_server_that_goes_on(pebble: Pebble, tmp_path: Path) -> None:
    """Without its authority it serves what it has; SIGHUP tries again; a new program takes over."""
    folder, other = tmp_path / "acme", free_port()
    line = [
        *("serve", "--ktls=off", "--listen", f"{LOOPBACK}:{pebble.tls_port}"),
        *words(pebble, folder, "e.example"),
    ]
    nowhere = ["--acme-directory", f"https://localhost:{other}/dir"]
    with Forked(*line, tmp_path) as server:
        server.line()
        until(lambda: has(pebble.tls_port, "e.example"))
        server.ask_to_end()
        server.end()
    with Forked(*line, *nowhere, tmp_path) as server:
        server.line()
        assert has(pebble.tls_port, "e.example")
        until(lambda: "no certificate for e.example" in server.said())
        assert "ECONNREFUSED" in server.said()
        assert has(pebble.tls_port, "e.example")
        server.ask_to_end()
        assert server.end() == 0
    (folder / ".e.example.attempts.json").unlink()
    with Served(*line, tmp_path) as running:
        pid = running.process.pid
        os.kill(pid, signal.SIGUSR2)
        running.read_lines(2)
        assert running.process.pid == pid
        assert has(pebble.tls_port, "e.example")
        running.stop().succeeded()


def test_two_servers_at_one_address(pebble: Pebble, tmp_path: Path) -> None:
    """The authority meets either of them, and both answer; one has ordered."""
    orders = pebble.orders
    line = [
        *("serve", "--ktls=off", "--reuse-port", "--listen", f"{LOOPBACK}:{pebble.tls_port}"),
        *words(pebble, tmp_path / "acme", "g.example,h.example"),
        tmp_path,
    ]
    with Forked(*line) as one, Forked(*line) as other:
        for server in (one, other):
            assert "serving" in server.line()
        until(lambda: all(has(pebble.tls_port, "g.example") for _ in range(16)))
        for server in (one, other):
            server.ask_to_end()
            assert server.end() == 0
    assert pebble.orders - orders == 1


def test_check_of_a_configuration(pebble: Pebble, tmp_path: Path) -> None:
    """It says what there is of each certificate, and makes nothing."""
    path = tmp_path / "it.toml"
    path.write_text(
        f'verb = "serve"\nktls = "off"\noperands = ["{tmp_path}"]\nacme = ["f.example"]\n'
        f'acme-agree-tos = true\nacme-dir = "{tmp_path}/acme"\nacme-ca = "{pebble.ca}"\n'
        f'acme-directory = "{pebble.directory}"\n'
    )
    out = refused("check", "--config", path).succeeded().decode()
    assert "f.example: none yet" in out
    assert not (tmp_path / "acme").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up rights")
def test_rights_given_up(pebble: Pebble, tmp_path: Path) -> None:
    """The folder stays root's, workers have another user, and a renewal goes as the first order.

    Until then a certificate whose file is gone, or is none any more, is shown as it was.
    """
    folder, name = tmp_path / "acme", "i.example"
    line = [
        *("serve", "--ktls=off", "--listen", f"{LOOPBACK}:{pebble.tls_port}", "--user", "nobody"),
        *("--isolate-key", *words(pebble, folder, name)),
    ]
    with TemporaryDirectory() as site, ExitStack() as stack:
        Path(site).chmod(0o755)
        running = stack.enter_context(Served(*line, site))
        path = folder / f"{name}.pem"
        until(path.exists)
        until(lambda: has(pebble.tls_port, name))
        before = shown(pebble.tls_port, name)

        def renewed() -> bool:
            now = shown(pebble.tls_port, name)
            assert now is not None
            return now != before

        for change in (path.unlink, lambda: path.write_bytes(b"none")):
            change()
            running.process.send_signal(signal.SIGHUP)
            until(renewed)
            before = shown(pebble.tls_port, name)
        users = [Path(f"/proc/{it}").stat().st_uid for it in running.workers()]
        assert pwd.getpwnam("nobody").pw_uid in users
        for each in (folder, *folder.iterdir()):
            assert (each.stat().st_uid, each.stat().st_mode & 0o77) == (0, 0), each
        outcome = running.stop()
    assert outcome.status == 0
    said = REFUSED.sub("", outcome.err)
    assert said.count("ACME: a new certificate") == 3
    assert "kept as it was until ACME replaces it" in said
