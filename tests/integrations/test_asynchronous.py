"""Servers on asyncio's loop and on uvloop, unmodified: what they show, and what they bear."""

from __future__ import annotations

import http.client
import os
import subprocess
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.integrations.harness import Row, Served, arrange
from tests.integrations.trials import PATHS, Server, trials
from tests.interop.programs import TIMEOUT, require

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    import trustme

pytestmark = [pytest.mark.interop, pytest.mark.timeout(TIMEOUT)]

SERVERS = (
    Server("aiohttp", "aiohttp_site", "aiohttp", sendfile=True),
    Server(
        "aiohttp (uvloop)",
        "aiohttp_site",
        "aiohttp",
        sendfile=True,
        is_variant=True,
        options={"loop": "uvloop"},
    ),
    Server(
        "uvicorn (h11)", "uvicorn_server", "uvicorn", options={"loop": "asyncio", "http": "h11"}
    ),
    Server(
        "uvicorn (httptools)",
        "uvicorn_server",
        "uvicorn",
        is_variant=True,
        options={"loop": "asyncio", "http": "httptools"},
    ),
    Server(
        "uvicorn (httptools, uvloop)",
        "uvicorn_server",
        "uvicorn",
        options={"loop": "uvloop", "http": "httptools"},
    ),
    Server("hypercorn", "hypercorn_server", "hypercorn"),
    Server("gunicorn (asgi)", "gunicorn_asgi_server", "gunicorn", options={"loop": "asyncio"}),
    Server(
        "gunicorn (asgi, uvloop)",
        "gunicorn_asgi_server",
        "gunicorn",
        is_variant=True,
        options={"loop": "uvloop"},
    ),
)
H2 = (
    Server("hypercorn (h2)", "hypercorn_server", "hypercorn"),
    Server(
        "gunicorn (asgi, h2)",
        "gunicorn_asgi_server",
        "gunicorn",
        options={"loop": "asyncio", "protocols": "h2,h1"},
    ),
)
both = pytest.mark.parametrize("ktls", PATHS)


def _know_more(served: Served) -> None:
    """Whence a request comes, and by which version of TLS; nothing of it is worth a warning."""
    assert served.ask_anew(served.context(), "/address") == b"127.0.0.1"
    assert served.ask_anew(served.context(), "/version") in {b"0x0304", b"TLSv1.3"}
    errors = served.program.errors()
    assert not any(word in errors for word in ("Traceback", "WARNING", "ERROR")), errors


test_what_it_shows, test_what_it_endures = trials(*SERVERS, also=_know_more)


class Curl:
    """A client of HTTP/2, with a certificate."""

    def __init__(self, served: Served, authority: trustme.CA, folder: Path) -> None:
        """Write its files."""
        self._task = served.task
        self._pair = folder / "client.pem"
        issued = authority.issue_cert("client.example", common_name="client.example")
        issued.private_key_and_cert_chain_pem.write_to_path(self._pair)
        self._got = folder / "got"

    def ask(self, path: str, *words: str) -> bytes:
        """Ask for a page."""
        port = self._task.port
        command: list[Any] = ["curl", "--silent", "--show-error", "--fail", "--http2"]
        command += ["--cacert", self._task.ca, "--cert", self._pair, "--output", self._got]
        command += ["--connect-to", f"example.org:443:127.0.0.1:{port}", "--max-time", "30"]
        command += ["--write-out", "%{http_version}", *words, f"https://example.org{path}"]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        assert done.stdout == b"2"
        return self._got.read_bytes()


@pytest.mark.parametrize("server", H2, ids=lambda server: server.name)
@both
def test_http2(tmp_path: Path, authority: trustme.CA, server: Server, ktls: str) -> None:
    """A server that finds the protocol by ALPN does so here."""
    require("curl")
    task = arrange(tmp_path, authority, ktls, **server.options)
    big = Path(task.file).read_bytes()
    with Served(server.program, task, authority) as served:
        curl = Curl(served, authority, tmp_path)
        assert curl.ask("/file") == big
        assert curl.ask("/echo", "--data-binary", f"@{task.cert}") == Path(task.cert).read_bytes()
        path = "kernel" if ktls == "require" else "relay"
        assert curl.ask("/offload").decode().startswith(path)
        row = Row(
            server.name,
            server.package,
            path,
            scheme=curl.ask("/scheme").decode(),
            sendfile=int(curl.ask("/sendfiles")),
            alpn="h2",
            client_cert=curl.ask("/peer").decode(),
        )
        assert (row.scheme, row.client_cert) == ("https", "client.example")
        row.keep()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@both
def test_file_changed_under_way(
    tmp_path: Path, authority: trustme.CA, ktls: str, loop: str
) -> None:
    """One that was replaced is sent whole; one cut short ends its connection, and no other."""
    task = arrange(tmp_path, authority, ktls, loop=loop)
    with Served("aiohttp_site", task, authority) as served:
        with _half_of_a_file(served) as (sock, response, rest):
            (tmp_path / "other").write_bytes(bytes(2000))
            (tmp_path / "other").replace(task.file)
            assert len(response.read()) == rest
            assert served.ask(sock, "/scheme") == b"https"
        _expect_small_file(served, cut=0)
        with _half_of_a_file(served) as (sock, response, _):
            os.truncate(task.file, 2000)
            with pytest.raises(http.client.IncompleteRead):
                response.read()
            assert sock.recv(1) == b""
        _expect_small_file(served, cut=1)


@contextmanager
def _half_of_a_file(
    served: Served,
) -> Iterator[tuple[ssl.SSLSocket, http.client.HTTPResponse, int]]:
    """Ask for a large file, and read its beginning; return what comes, and how much is left."""
    with Path(served.task.file).open("ab") as file:
        size = file.seek(0, os.SEEK_END) + file.write(bytes(30_000_000))
    with closing(served.connect(served.context())) as sock:
        connection = http.client.HTTPConnection("example.org")
        connection.sock = sock
        connection.request("GET", "/file")
        response = connection.getresponse()
        yield sock, response, size - len(response.read(1000))


def _expect_small_file(served: Served, cut: int) -> None:
    """Expect that it serves on, and has told of so many connections that ended too early."""
    assert served.ask_anew(served.context(), "/scheme") == b"https"
    assert len(served.ask_anew(served.context(), "/file")) == 2000
    errors = served.program.errors()
    assert "Traceback" not in errors
    assert errors.count("connection ended: a file had") == cut
