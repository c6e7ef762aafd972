"""Tests of serve."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import ssl
import subprocess
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from http.client import HTTPSConnection
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from tests.cli.forked import Forked, refused
from tests.cli.harness import (
    CARRIERS,
    ENVIRONMENT,
    LOOPBACK,
    PATIENCE,
    CutPeer,
    Served,
    finish,
    in_threads,
    only_cbc,
    only_tls11,
    read_all,
    read_line,
    run,
    start,
)
from tests.doubles import descriptors, reset, until
from tests.interop.programs import require
from tests.provision import find
from tlsify.codepoints import AlertDescription, ContentType
from tlsify.status import census
from tlsify.system import sandbox
from tlsify.tls.record import split_records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.cli.conftest import Pki

_BIG = random.Random(1).randbytes(12 * 2**20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to serve."""
    root = tmp_path_factory.mktemp("www")
    (root / "index.html").write_bytes(b"index")
    (root / "big").write_bytes(_BIG)
    return root


def _words(pki: Pki, folder: Path, *more: str) -> tuple[str | Path, ...]:
    listen = ("--listen", f"{LOOPBACK}:0")
    return ("serve", *listen, "--cert", pki.good.certificate, "--key", pki.good.key, *more, folder)


@pytest.fixture(scope="module")
def served(pki: Pki, folder: Path) -> Iterator[Served]:
    """A server that meets one bad client after the other, and ends well all the same."""
    with Served(*_words(pki, folder)) as server:
        yield server
        assert server.stop().succeeded() == b""


# -- what works


@pytest.mark.full_run
@pytest.mark.parametrize("carrier", CARRIERS)
def test_what_is_served_when_asked_for(pki: Pki, tmp_path: Path, carrier: str) -> None:
    """Dotfiles and variants need their options; what does not change is served as ever."""
    for name in (".env", "page", "page.gz", ".well-known/token"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    paths = ("/.env", "/page", "/.well-known/token")

    def fetch(*options: str) -> list[bytes | int]:
        with Served(carrier, *_words(pki, tmp_path, *options)) as server:
            got = [
                server.fetch(pki.client_context(), path, Accept_Encoding="gzip") for path in paths
            ]
            server.stop().succeeded()
        return [body if status == 200 else status for status, body in got]

    assert fetch() == [404, b"page", b".well-known/token"]
    assert fetch("--dotfiles") == [b".env", b"page", b".well-known/token"]
    assert fetch("--precompressed") == [404, b"page.gz", b".well-known/token"]


def test_folder_by_two_names(pki: Pki, tmp_path: Path) -> None:
    """Links in it may begin with the path that was given, or with what it really is."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real/page").write_text("page")
    (tmp_path / "given").symlink_to("real")
    for name in ("given", "real"):
        (tmp_path / "real" / name).symlink_to(tmp_path / name / "page")
    with Served(*_words(pki, tmp_path / "given")) as server:
        for path in ("/given", "/real"):
            assert server.fetch(pki.client_context(), path) == (200, b"page")
        server.stop().succeeded()


def test_one_descriptor(pki: Pki, folder: Path) -> None:
    """A relayed connection is on the server's own loop: neither thread nor socketpair is for it."""
    context, counts = pki.client_context(), []
    with Served("--ktls=off", *_words(pki, folder)) as server, ExitStack() as stack:
        (worker,) = server.workers()
        for _ in range(3):
            sock = stack.enter_context(server.connect())
            tls = context.wrap_socket(sock, server_hostname="localhost")
            stack.enter_context(tls)
            tls.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert tls.recv(100).startswith(b"HTTP/1.1 200")
            counts.append((len(descriptors(worker)), len(os.listdir(f"/proc/{worker}/task"))))
    (first, threads), *_ = counts
    assert counts == [(first + more, threads) for more in range(3)]


def test_one_application_protocol(served: Served, pki: Pki, folder: Path) -> None:
    """HTTP/1.1 is agreed on, or 1.0 with a client that speaks no newer; there is no option."""
    for offered in (["h2", "http/1.1"], ["http/1.0", "http/1.1"], ["http/1.0"]):
        context = pki.client_context()
        context.set_alpn_protocols(offered)
        with (
            served.connect() as sock,
            context.wrap_socket(sock, server_hostname="localhost") as tls,
        ):
            assert tls.selected_alpn_protocol() == offered[-1]
    refused(*_words(pki, folder, "--alpn", "h2")).failed(100, "--alpn")


@pytest.mark.parametrize("carrier", CARRIERS)
def test_answer_that_nobody_reads(pki: Pki, folder: Path, carrier: str) -> None:
    """After --send-timeout it is cut off, which is told with -v."""
    with (folder / "huge").open("wb") as file:
        file.truncate(2**40)
    words = _words(pki, folder, "--send-timeout", "0.3")
    context = pki.client_context()
    with Served("-v", carrier, *words) as server:
        with context.wrap_socket(server.connect(), server_hostname="localhost") as client:
            client.sendall(b"GET /huge HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
            line = ""
            while "nothing of the sent data for 0.3 seconds" not in line:
                line = read_line(server.process.stderr)
        assert server.stop().status == 0
    (folder / "huge").unlink()


@pytest.mark.parametrize("carrier", CARRIERS)
def test_clients_that_leave_in_the_midst(pki: Pki, folder: Path, carrier: str) -> None:
    """They are nobody's fault: nothing is said, and nothing stays open."""
    with Served(carrier, *_words(pki, folder)) as server:
        with server.unharmed(pki.client_context()):
            for number in range(6):
                stream = pki.client_context().wrap_socket(
                    server.connect(), server_hostname="localhost"
                )
                stream.sendall(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert stream.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
                if number % 2:
                    reset(stream)
                else:
                    stream.close()
        assert server.stop().succeeded() == b""


def test_ready_line(pki: Pki, folder: Path) -> None:
    """One line says what is served where, with the port that was chosen, and by whom."""
    with Served("--ktls=off", *_words(pki, folder)) as served:
        url = f"https://127.0.0.1:{served.port}/"
        assert served.lines == [f"tlsify: serving {folder} on {url} (relay: policy-off)\n"]


@pytest.mark.ktls
def test_ready_line_of_the_kernel(pki: Pki, folder: Path) -> None:
    """With --ktls=require the ready line says kernel TLS; files and the end are as ever."""
    with Served("--ktls=require", *_words(pki, folder)) as server:
        assert server.ready_line.endswith("(kernel TLS)\n")
        assert server.fetch(pki.client_context()) == (200, b"index")
        assert server.fetch(pki.client_context(), "/nonexistent")[0] == 404
        assert server.stop().succeeded() == b""


@pytest.mark.parametrize("host", ["::1", "localhost"])
def test_other_addresses(folder: Path, host: str) -> None:
    """--listen takes names, and IPv6 addresses in brackets, which the ready line repeats."""
    shown = "[::1]" if host == "::1" else LOOPBACK
    listen = f"[{host}]:0" if host == "::1" else f"{host}:0"
    with Served("serve", "--listen", listen, folder) as server:
        assert f"https://{shown}:{server.port}/" in server.ready_line
        with socket.create_connection((host, server.port), timeout=PATIENCE):
            pass
        server.stop().succeeded()


def test_folder_of_any_name(tmp_path: Path) -> None:
    """A folder whose name is no text can be served."""
    folder = tmp_path / os.fsdecode(b"\xff\x1b[31m")
    folder.mkdir()
    with Served("serve", "--listen", f"{LOOPBACK}:0", folder) as server:
        assert r"\udcff" in server.ready_line
        server.stop().succeeded()


def test_self_signed_certificate(folder: Path, tmp_path: Path) -> None:
    """The certificate that --write-ca saves satisfies the strictest of clients."""
    anchor = tmp_path / "ca.pem"
    words = ("serve", "--listen", f"{LOOPBACK}:0", "--write-ca", anchor, folder)
    with Served(*words) as server:
        assert "self-signed certificate for localhost, 127.0.0.1, ::1" in server.lines[0]
        for flags in (0, ssl.VERIFY_X509_STRICT, ssl.VERIFY_X509_PARTIAL_CHAIN):
            context = ssl.create_default_context(cafile=anchor)
            context.verify_flags |= ssl.VerifyFlags(flags)
            assert server.fetch(context) == (200, b"index")
        server.stop().succeeded()


def test_isolated_key_made_on_the_spot(folder: Path, tmp_path: Path) -> None:
    """A reload keeps it: the custodian has made it, and lives on."""
    anchor = tmp_path / "ca.pem"
    words = ("--listen", f"{LOOPBACK}:0", "--isolate-key", "--write-ca", anchor)
    with Served("serve", *words, folder) as server:
        context = ssl.create_default_context(cafile=anchor)
        before = server.workers()
        assert server.fetch(context) == (200, b"index")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: len(server.workers() - before) == 1)
        assert server.fetch(context) == (200, b"index")
        server.stop().succeeded()


def test_isolated_key_from_a_descriptor(pki: Pki, folder: Path) -> None:
    """Only the custodian reads it, once: a reload is refused, and all goes on."""
    with pki.good.key.open("rb") as key:
        words = ("--listen", f"{LOOPBACK}:0", "--cert", pki.good.certificate, "--isolate-key")
        server = Served("serve", *words, "--key-fd", key.fileno(), folder, pass_fds=[key.fileno()])
    with server:
        for pid in (server.process.pid, *server.workers()):
            held = descriptors(pid)
            assert held
            assert not [each for each in held if each.endswith(f" {pki.good.key}")]
        server.process.send_signal(signal.SIGHUP)
        line = "tlsify: warning: workers run as root"
        while "root" in line:
            line = read_line(server.process.stderr)
        assert "reload failed" in line
        assert server.fetch(pki.client_context()) == (200, b"index")


@pytest.mark.interop
def test_curl_verifies_the_self_signed_certificate(folder: Path, tmp_path: Path) -> None:
    """Curl accepts the saved certificate by name and by address, and nothing without it."""
    require("curl")
    anchor = tmp_path / "ca.pem"
    words = ("serve", "--listen", f"{LOOPBACK}:0", "--write-ca", anchor, folder)
    with Served(*words) as server:
        for host in ("localhost", LOOPBACK):
            url = f"https://{host}:{server.port}/"
            got = subprocess.run(
                ["curl", "-sS", "--cacert", anchor, url], check=True, capture_output=True
            )
            assert got.stdout == b"index"
        refused = subprocess.run(["curl", "-s", url], check=False, capture_output=True)
        assert refused.returncode == 60
        server.stop().succeeded()


@pytest.mark.interop
def test_curl_in_all_its_ways(served: Served, folder: Path) -> None:
    """HTTP/1.0, a part, HEAD, a connection used twice, and content that nobody takes."""
    url = f"https://{LOOPBACK}:{served.port}/"

    def curl(*words: str | Path) -> bytes:
        program = (find("curl"), "-sSk", "--max-time", "60")
        return subprocess.run([*program, *words], check=True, capture_output=True).stdout

    assert curl("--http1.0", url) == b"index"
    assert curl("--range", "1-2", url) == b"nd"
    assert b"\r\nContent-Length: 5\r\n" in curl("--head", url)
    assert curl("--write-out", " %{num_connects} ", url, url) == b"index 1 index 0 "
    for content in (("--data", "x"), ("--upload-file", folder / "big")):
        assert curl("--write-out", "%{http_code}", *content, url).endswith(b"Allowed405")
    assert curl(f"{url}big") == _BIG


@pytest.mark.interop
def test_s_client_that_asks_ahead(served: Served) -> None:
    """Requests in one piece are answered in order, up to the one that is said to be the last."""
    words = [find("openssl"), "s_client", "-quiet", "-connect", f"{LOOPBACK}:{served.port}"]
    request = b"GET /%s HTTP/1.1\r\nHost: x\r\n%s\r\n"
    asked = request % (b"", b"") * 20 + request % (b"none", b"Connection: close\r\n")
    got = subprocess.run(words, input=asked * 2, check=True, capture_output=True, timeout=60).stdout
    assert got.count(b"index") == 20
    assert got.endswith(b"404: Not Found")


@pytest.mark.parametrize("wanted", ["auto", "off"])
@pytest.mark.parametrize("is_link", [False, True], ids=["folder", "link"])
def test_folder_that_is_replaced(pki: Pki, tmp_path: Path, wanted: str, *, is_link: bool) -> None:
    """What takes its place is served soon, confined workers or not, and no request fails.

    The path may also be a link that is switched to another folder.
    """
    shown, coming = tmp_path / "shown", tmp_path / "coming"
    for folder in (shown, coming):
        folder.mkdir()
        (folder / "index.html").write_text(folder.name)
    if is_link:
        for path, folder in ((tmp_path / "next", coming), (tmp_path / "current", shown)):
            path.symlink_to(folder.name)
        shown, coming = tmp_path / "current", tmp_path / "next"
    context = pki.client_context()
    with Served(*_words(pki, shown, "--sandbox", wanted)) as server:
        assert server.fetch(context) == (200, b"shown")
        if not is_link:
            shown.rename(tmp_path / "last")
        coming.rename(shown)
        seen: dict[int, bytes] = {}
        until(lambda: seen.update([server.fetch(context)]) or seen.get(200) == b"coming")
        assert seen.keys() == {200}
        server.stop().succeeded()


def test_idle_clients_make_room(pki: Pki, folder: Path) -> None:
    """Where all places are taken, one that asks for nothing more is not kept from others."""
    context = pki.client_context()
    with (
        Served(*_words(pki, folder, "--max-connections", "1")) as server,
        server.connect() as sock,
        context.wrap_socket(sock, server_hostname="localhost") as idle,
    ):
        idle.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle.recv(100).startswith(b"HTTP/1.1 200")
        assert server.fetch(context)[0] == 200
        while idle.recv(2**16):  # a clean end
            pass


def test_key_log_that_cannot_be_written(pki: Pki, folder: Path, tmp_path: Path) -> None:
    """The server does not start, rather than refuse each client."""
    path = tmp_path / "keys"
    path.touch(0o644)
    environment = ENVIRONMENT | {"SSLKEYLOGFILE": str(path)}
    outcome = run(*_words(pki, folder, "--keylog"), env=environment)
    assert "is not private" in outcome.err
    assert outcome.status != 0
    assert b"serving" not in outcome.out


@pytest.mark.skipif(os.geteuid() != 0, reason="it is said to root")
@pytest.mark.parametrize("words", [(), ("--user", "nobody")], ids=["root", "user"])
def test_workers_of_root(pki: Pki, folder: Path, words: tuple[str, ...]) -> None:
    """That workers are root is told once, and how to mend it."""
    process = start(*_words(pki, folder, *words), stdin=subprocess.DEVNULL)
    try:
        read_line(process.stdout)
    finally:
        process.terminate()
        _, err = process.communicate()
    assert err.count(b"--user") == (not words)


def test_user_that_it_cannot_become() -> None:
    """It is an error of the command, before a port is listened on or a worker made."""

    @contextmanager
    def as_another() -> Iterator[None]:
        # These may be root's alone.
        for name in ("cli.serve", "integrations.static_answers", "integrations.static_files"):
            import_module(f"tlsify.{name}")
        if os.geteuid() == 0:
            os.setresuid(12345, 12345, 12345)
        yield

    words = ("serve", "--listen", f"{LOOPBACK}:0", "--user", "daemon", "/")
    with Forked(*words, within=as_another()) as command:
        assert command.line() == ""
        assert command.end() == 96
        told = command.said()
    assert told.count("\n") == 2, told
    assert "cannot become user" in told
    assert "EPERM" in told


def test_authorities_of_a_folder(pki: Pki, folder: Path, tmp_path: Path) -> None:
    """Confined workers go on reading those of clients when they need them."""
    (tmp_path / "authorities").mkdir()
    (tmp_path / "authorities" / "one.pem").write_bytes(pki.authority.read_bytes())
    words = ("--client-cert", "require", "--client-ca", str(tmp_path / "authorities"))
    context = pki.client_context()
    context.load_cert_chain(pki.good.certificate, pki.good.key)
    with Served(*_words(pki, folder, *words)) as server:
        assert server.fetch(context) == (200, b"index")
        server.stop().succeeded()


def test_required_sandbox(pki: Pki, folder: Path) -> None:
    """It serves where there is Landlock, and does not start where there is none."""
    words = _words(pki, folder, "--sandbox=require")
    if sandbox.refusal() is None:
        with Served(*words) as server:
            assert server.fetch(pki.client_context()) == (200, b"index")
            server.stop().succeeded()
    else:
        run(*words).failed(96, "Landlock")


@pytest.mark.parametrize("words", [[], ["--resumption"]], ids=["none", "resumption"])
def test_resumption(pki: Pki, folder: Path, words: list[str]) -> None:
    """Sessions are resumed if the server is told so, whichever process is asked; else never."""
    context = pki.client_context()
    with Served(*_words(pki, folder, "--workers", "3", *words)) as server:
        session = None
        for number in range(6):
            sock = server.connect()
            with context.wrap_socket(sock, server_hostname="localhost", session=session) as stream:
                stream.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert read_all(stream).endswith(b"index")
                assert stream.session_reused == (bool(words) and number > 0)
                session = stream.session
        server.stop().succeeded()


@pytest.mark.parametrize("carrier", CARRIERS)
def test_file_truncated_under_way(pki: Pki, tmp_path: Path, carrier: str) -> None:
    """The connection ends without close_notify, rather than another answer in the file's place."""
    (tmp_path / "big").write_bytes(bytes(32_000_000))  # more than all buffers on the way
    (tmp_path / "index.html").write_bytes(b"index")
    context = pki.client_context()
    with Served(carrier, *_words(pki, tmp_path)) as server:
        with (
            server.connect() as sock,
            context.wrap_socket(
                sock, server_hostname="localhost", suppress_ragged_eofs=False
            ) as stream,
        ):
            stream.sendall(2 * b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
            received = bytearray(stream.recv(1000))
            os.truncate(tmp_path / "big", 2000)
            with pytest.raises(ssl.SSLEOFError):
                received.extend(chain.from_iterable(iter(lambda: stream.recv(2**16), None)))
            assert len(received) < 32_000_000
            assert received.count(b"HTTP/1.1 200") == 1
        assert server.fetch(context) == (200, b"index")
        outcome = server.stop()
        assert (outcome.status, outcome.err.count("a file had")) == (0, 1), outcome.err


# -- clients that do not speak TLS as they should


def _alerts(sock: socket.socket) -> list[bytes]:
    return [r[5:] for r in split_records(read_all(sock)) if r[0] == ContentType.alert]


_STRANGERS = {
    "plain-text": (b"EHLO example.org\r\n", AlertDescription.unexpected_message),
    "garbage": (bytes(64), AlertDescription.unexpected_message),
    "ssl-2": (b"\x80\x2e\x01\x03\x01" + bytes(43), AlertDescription.unexpected_message),
    "record-version": (b"\x16\x05\x03\x00\x10" + bytes(16), AlertDescription.protocol_version),
    "oversized-record": (b"\x16\x03\x03\xff\xff" + bytes(99), AlertDescription.record_overflow),
    "data-first": (b"\x17\x03\x03\x00\x10" + bytes(16), AlertDescription.unexpected_message),
    "finished-first": (
        b"\x16\x03\x03\x00\x24\x14\x00\x00\x20" + bytes(32),
        AlertDescription.unexpected_message,
    ),
    "alert-first": (b"\x15\x03\x03\x00\x02\x02\x28", None),
    "empty-hello": (b"\x16\x03\x03\x00\x04\x01\x00\x00\x00", AlertDescription.decode_error),
}


@pytest.mark.parametrize(("sent", "alert"), _STRANGERS.values(), ids=_STRANGERS)
def test_strange_client(
    served: Served, pki: Pki, sent: bytes, alert: AlertDescription | None
) -> None:
    """A client without ClientHello gets the right alert and no more; others are served on."""
    with served.unharmed(pki.client_context()), served.connect() as sock:
        sock.sendall(sent)
        assert _alerts(sock) == ([] if alert is None else [bytes([2, alert])])


def test_plain_http(served: Served, pki: Pki, folder: Path) -> None:
    """A client that has taken it for HTTP is told, or sent where it meant to go."""
    with served.connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert read_all(sock).startswith(b"HTTP/1.1 400 Bad Request\r\n")
    with Served(*_words(pki, folder, "--redirect-http")) as server:
        with server.connect() as sock:
            sock.sendall(b"GET /x HTTP/1.1\r\nHost: localhost:%d\r\n\r\n" % server.port)
            told = read_all(sock)
        assert b"\r\nLocation: https://localhost:%d/x\r\n" % server.port in told


def test_redirection_from_another_port(pki: Pki, folder: Path, tmp_path: Path) -> None:
    """An address for plain HTTP leads to that for HTTPS, whatever happens to the server."""
    log = tmp_path / "log"
    words = ("--redirect-http=127.0.0.1:0", f"--access-log={log}", "--hsts=60")
    with Served(*_words(pki, folder, *words)) as server:
        place = b"\r\nLocation: https://localhost:%d/x\r\n" % server.port
        server.read_lines(2)
        announced = server.lines[1]
        assert announced.endswith(f"to HTTPS on port {server.port}\n")
        port = int(announced.rpartition(":")[2].partition("/")[0])
        for is_successor in (False, True):
            if is_successor:
                server.process.send_signal(signal.SIGUSR2)
                server.read_lines(4)
                assert server.lines[-1] == announced
            with socket.create_connection((LOOPBACK, port), PATIENCE) as sock:
                sock.sendall(b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert place in read_all(sock)
        client = HTTPSConnection(LOOPBACK, server.port, context=pki.client_context())
        with closing(client):
            client.request("GET", "/")
            answer = client.getresponse()
            assert answer.getheader("Strict-Transport-Security") == "max-age=60"
            answer.read()
        server.stop().succeeded()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((LOOPBACK, port))
    assert log.read_text().count(" plain client=127.0.0.1 ") == 2


def _alpn(context: ssl.SSLContext) -> None:
    context.set_alpn_protocols(["h2", "gopher"])


@pytest.mark.parametrize(
    ("limit", "alert"),
    [
        pytest.param(only_tls11, "protocol version", id="tls-1.1"),
        pytest.param(only_cbc, "handshake failure", id="suite"),
        pytest.param(_alpn, "no application protocol", id="alpn"),
    ],
)
def test_nothing_in_common(
    served: Served, pki: Pki, limit: Callable[[ssl.SSLContext], None], alert: str
) -> None:
    """A client with nothing in common learns what it is; others are served on."""
    context = pki.client_context()
    limit(context)
    with (
        served.unharmed(pki.client_context()),
        served.connect() as sock,
        pytest.raises(ssl.SSLError) as caught,
    ):
        context.wrap_socket(sock, server_hostname="localhost")
    assert f"alert {alert}" in str(caught.value).replace("_", " ").lower()  # with or without name


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_alert_in_place_of_finished(served: Served, pki: Pki, version: ssl.TLSVersion) -> None:
    """A client that does not trust the certificate says so and goes; others are served on."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = context.maximum_version = version
    with (
        served.unharmed(pki.client_context()),
        served.connect() as sock,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        context.wrap_socket(sock, server_hostname="localhost")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_end_of_stream_at_every_byte_of_the_handshake(
    served: Served, pki: Pki, version: ssl.TLSVersion
) -> None:
    """Wherever a client's half of the handshake is cut off, nothing remains of it."""
    context = pki.client_context()
    context.check_hostname = False
    context.minimum_version = context.maximum_version = version
    cuts = 0
    with served.unharmed(pki.client_context()):
        while True:
            with served.connect() as sock:
                if not CutPeer(context, server=False).talk(sock, cuts):
                    break
            cuts += 1
    assert cuts > 200


def test_reset_anywhere(served: Served, pki: Pki) -> None:
    """Clients that reset the connection, before or after the handshake, leave nothing."""
    context = pki.client_context()
    with served.unharmed(pki.client_context()):
        for _ in range(5):
            reset(served.connect())
            sock = served.connect()
            sock.sendall(b"\x16\x03\x01")
            reset(sock)
            stream = context.wrap_socket(served.connect(), server_hostname="localhost")
            stream.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
            reset(stream)


def test_a_hundred_garbage_connections(served: Served, pki: Pki) -> None:
    """A hundred clients that send noise, ten at a time, do no harm."""

    def bother(number: int) -> None:
        noise = random.Random(number)
        for _ in range(10):
            with suppress(ConnectionResetError, BrokenPipeError), served.connect() as sock:
                sock.sendall(noise.randbytes(noise.randrange(1, 5000)))
                sock.shutdown(socket.SHUT_WR)
                read_all(sock)

    with served.unharmed(pki.client_context()):
        in_threads(10, bother)


def test_slow_clients_block_nobody(served: Served, pki: Pki) -> None:
    """While handshakes hang, others are served."""
    context = pki.client_context()
    with served.unharmed(context), ExitStack() as idle:
        for number in range(50):
            sock = idle.enter_context(served.connect())
            sock.sendall(b"\x16\x03\x01\x02\x00\x01"[: number % 7])
        assert served.fetch(context) == (200, b"index")


def test_handshake_deadline(pki: Pki, folder: Path) -> None:
    """A client that stalls in the handshake is let go after --timeout; others are served on."""
    with Served(*_words(pki, folder, "--timeout", "0.2")) as server:
        idle = server.descriptors()
        for sent in (b"\x16", b"\x16\x03\x01\x02\x00\x01"):
            with server.connect() as sock:
                sock.sendall(sent)
                assert read_all(sock) == b""
        until(partial(_is_served, server, pki.client_context()))
        until(lambda: server.descriptors() <= idle)
        server.stop().succeeded()


def _is_served(server: Served, context: ssl.SSLContext) -> bool:
    """Ask for the index; on a busy machine a good client, too, may be too slow for the server."""
    with suppress(OSError):
        return server.fetch(context) == (200, b"index")
    return False


def test_verbose_names_what_went_wrong(pki: Pki, folder: Path) -> None:
    """With --verbose a refused client is one line on stderr, without traceback."""
    with Served("--verbose", *_words(pki, folder)) as server:
        with server.connect() as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            read_all(sock)
        outcome = server.stop()
    assert 'plain text beginning "GET ' in outcome.err
    assert all(line.startswith("tlsify: ") for line in outcome.err.splitlines())


# -- the end


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal(pki: Pki, folder: Path, number: int, workers: str) -> None:
    """SIGTERM and SIGINT end the server with 0, in silence, whatever handshake hangs."""
    with Served(*_words(pki, folder, "--workers", workers)) as server, server.connect() as sock:
        sock.sendall(b"\x16\x03\x01")
        assert server.fetch(pki.client_context()) == (200, b"index")
        assert server.stop(number).succeeded() == b""


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("carrier", CARRIERS)
def test_sigterm_drains(pki: Pki, folder: Path, carrier: str, workers: str) -> None:
    """After SIGTERM nobody is accepted, but a download comes to its end, the last byte too."""
    with Served(carrier, *_words(pki, folder, "--workers", workers)) as server:
        stream = pki.client_context().wrap_socket(server.connect(), server_hostname="localhost")
        with stream:
            stream.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            received = bytearray(stream.recv(2**14))
            pids = server.workers() or {server.process.pid}
            server.process.terminate()
            until(lambda: _refuses(server.port), PATIENCE)
            while any(_runs_a_loop(pid) for pid in pids):
                received += stream.recv(2**14)
            received += read_all(stream)
        assert bytes(received).partition(b"\r\n\r\n")[2] == _BIG
        assert finish(server.process).succeeded() == b""


def test_log_that_is_renamed(pki: Pki, folder: Path, tmp_path: Path) -> None:
    """SIGUSR1 has the worker go on in a new file, which it could not open; connections stay."""
    path, old = tmp_path / "log", tmp_path / "log.1"
    with Served(*_words(pki, folder, f"--access-log={path}")) as server:
        before = server.workers()
        client = HTTPSConnection("localhost", server.port, context=pki.client_context())

        def ask(name: str) -> bytes:
            client.request("GET", name)
            return client.getresponse().read()

        ask("/one")
        until(lambda: path.stat().st_size > 0)
        path.rename(old)
        server.process.send_signal(signal.SIGUSR1)
        until(path.exists)
        until(lambda: ask("/two") != b"" and path.stat().st_size > 0)
        kept = old.read_text()
        ask("/three")
        client.close()
        assert server.workers() == before
        server.stop().succeeded()
    assert "GET /one " in kept
    assert old.read_text() == kept
    assert "GET /three " in path.read_text()


def _refuses(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), timeout=PATIENCE).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        pass
    return False


def _runs_a_loop(pid: int) -> bool:
    try:
        return any("eventpoll" in name for name in descriptors(pid))
    except OSError:
        return False


def test_worker_killed(pki: Pki, folder: Path) -> None:
    """When one of two workers is killed, the other serves on, and a new one takes its place."""
    context = pki.client_context()
    with Served(*_words(pki, folder, "--workers", "2")) as server:
        before = server.workers()
        assert len(before) == 2
        os.kill(victim := min(before), signal.SIGKILL)
        for _ in range(10):
            assert server.fetch(context) == (200, b"index")
        until(lambda: len(server.workers() - {victim}) == 2, PATIENCE)
        assert server.workers() > before - {victim}
        outcome = server.stop()
    assert outcome.status == 0
    assert outcome.err == f"tlsify: warning: worker {victim} ended with status -9 and is replaced\n"


# -- configuration


def _encrypted(pki: Pki, folder: Path) -> Path:
    key = load_pem_private_key(pki.good.key.read_bytes(), None)
    locked = BestAvailableEncryption(b"secret")
    file = folder / "encrypted.key"
    file.touch(0o600)
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))
    return file


def _private(source: Path, folder: Path) -> Path:
    """Copy a file to where nobody else can read it."""
    file = folder / "private"
    file.touch(0o600)
    file.write_bytes(source.read_bytes())
    return file


_PAIRS: dict[str, tuple[Callable[[Pki, Path], list[str | Path]], list[str]]] = {
    "cert-without-key": (
        lambda p, _: ["--cert", p.good.certificate],
        ["good.pem holds no private key", "--key FILE or KEYFILE"],
    ),
    "key-without-cert": (
        lambda p, _: ["--key", p.good.key],
        ["key without its certificate", "--cert"],
    ),
    "cert-missing": (
        lambda p, d: ["--cert", d / "no.pem", "--key", p.good.key],
        ["cannot read certificate", "no.pem"],
    ),
    "key-missing": (
        lambda p, d: ["--cert", p.good.certificate, "--key", d / "no.key"],
        ["cannot read private key", "no.key"],
    ),
    "key-is-a-folder": (
        lambda p, d: ["--cert", p.good.certificate, "--key", d],
        ["cannot read private key", "EISDIR", "name a file in it"],
    ),
    "cert-is-a-folder": (
        lambda p, d: ["--cert", d, "--key", p.good.key],
        ["cannot read certificate", "EISDIR", "--cert-dir"],
    ),
    "key-is-no-key": (
        lambda p, d: ["--cert", p.good.certificate, "--key", _private(p.authority, d)],
        ["/private holds no private key", "--key FILE"],
    ),
    "cert-is-no-cert": (
        lambda p, _: ["--cert", p.good.key, "--key", p.good.key],
        ["no usable PEM certificate", "BEGIN CERTIFICATE"],
    ),
    "key-of-another": (
        lambda p, _: ["--cert", p.good.certificate, "--key", p.bad["expired"].key],
        ["expired.key does not belong", "good.pem", "first certificate"],
    ),
    "key-encrypted": (
        lambda p, d: ["--cert", p.good.certificate, "--key", _encrypted(p, d)],
        ["encrypted.key holds an encrypted private key", "unencrypted"],
    ),
    "write-ca-with-cert": (
        lambda p, d: [*_PAIRS["good"][0](p, d), "--write-ca", d / "ca.pem"],
        ["--write-ca", "leave one"],
    ),
    "write-ca-nowhere": (
        lambda _, d: ["--write-ca", d / "no" / "ca.pem"],
        ["cannot write", "writable"],
    ),
    "good": (lambda p, _: ["--cert", p.good.certificate, "--key", p.good.key], []),
}


_WORDS = ("key-without-cert", "write-ca-with-cert")


@pytest.mark.parametrize("name", sorted(_PAIRS.keys() - {"good"}))
def test_unusable_certificate_or_key(pki: Pki, tmp_path: Path, name: str) -> None:
    """A certificate or key that cannot be used gives 96 and a remedy before anything is bound.

    Options that do not go together give 100.
    """
    make, expected = _PAIRS[name]
    outcome = refused("serve", "--listen", f"{LOOPBACK}:0", *make(pki, tmp_path), tmp_path)
    outcome.failed(100 if name in _WORDS else 96, *expected, out=None)
    assert b"serving" not in outcome.out


def test_key_too_weak_for_openssl(tmp_path: Path) -> None:
    """A key that OpenSSL refuses shows at the start (96), not at the first client."""
    certificate, key = tmp_path / "weak.pem", tmp_path / "weak.key"
    words = [
        find("openssl"),
        "req",
        "-x509",
        "-newkey",
        "rsa:1024",
        "-nodes",
        "-subj",
        "/CN=localhost",
    ]
    subprocess.run([*words, "-out", certificate, "-keyout", key], check=True, capture_output=True)
    words = ["serve", "--listen", f"{LOOPBACK}:0", "--cert", str(certificate), "--key", str(key)]
    refused(*words, tmp_path).failed(96, "OpenSSL refuses", "2048 bits")


@pytest.mark.parametrize(
    ("words", "status", "expected"),
    [
        pytest.param(["no/such/folder"], 96, ["No such file", "folder"], id="folder-missing"),
        pytest.param(["/dev/null"], 96, ["Not a directory", "folder"], id="folder-is-a-file"),
        pytest.param(
            ["--listen", "nonsense", "/"], 100, ['"nonsense"', "nonsense:PORT"], id="listen"
        ),
        pytest.param(
            ["--listen", "8443", "/"], 100, ['"8443"', ":8443"], id="listen-without-colon"
        ),
        pytest.param(
            ["--listen", "[::1]", "/"], 100, ['"[::1]"', "[::1]:PORT"], id="listen-portless"
        ),
        pytest.param(["--listen", "127.0.0.1:65536", "/"], 100, ["65536"], id="listen-port"),
        pytest.param(
            ["--listen", "192.0.2.1:0", "/"],
            102,
            ["cannot listen", "ip address"],
            id="not-ours",
        ),
        pytest.param(["--listen", "two..dots:0", "/"], 100, ['"two..dots:0"'], id="no-name"),
    ],
)
def test_unusable_folder_or_address(words: list[str], status: int, expected: list[str]) -> None:
    """A folder or address that cannot be used gives its status and a remedy."""
    refused("serve", *words).failed(status, *expected, out=None)


def test_port_in_use(folder: Path) -> None:
    """A port that is taken gives 102."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        listen = f"{LOOPBACK}:{listener.getsockname()[1]}"
        refused("serve", "--listen", listen, folder).failed(102, listen, "already in use", out=None)


@pytest.mark.usefixtures("lacks_ktls")
def test_ktls_required_without_kernel(folder: Path) -> None:
    """Without kTLS --ktls=require gives 103 and a remedy; nothing is bound."""
    outcome = run("serve", "--ktls=require", "--listen", f"{LOOPBACK}:0", folder)
    outcome.failed(103, "TCP_ULP: ENOENT: ", "modprobe", out=None)
    assert b"serving" not in outcome.out


def test_workers_gain_no_rights(pki: Pki, folder: Path, tmp_path: Path) -> None:
    """Whoever takes one over cannot have a program give it more; `status` tells as much."""
    place = tmp_path / "roster"
    place.mkdir(0o700)
    environment = ENVIRONMENT | {census.VARIABLE: str(place)}
    with (
        Served(*_words(pki, folder, "--workers", "2"), env=environment) as server,
        server.connect() as sock,
        pki.client_context().wrap_socket(sock, server_hostname="localhost"),
    ):
        pids = server.workers()
        assert pids
        for pid in pids:
            status = Path(f"/proc/{pid}/status").read_text()
            assert "NoNewPrivs:\t1\nSeccomp:\t2\n" in status
        found = json.loads(run("status", "--json", env=environment).succeeded())["sockets"]
        (told,) = (each["tlsify"]["sandbox"] for each in found if each["tlsify"] is not None)
        landlock = 0 if sandbox.refusal() else sandbox.abi()
        assert told == {"landlock": landlock, "seccomp": True}
