"""Tests of static_files: a browser's requests over TLS to a real acceptor."""

from __future__ import annotations

import asyncio
import http.client
import os
import socket
import ssl
from contextlib import closing
from email.utils import formatdate
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import pytest

from tests.doubles import OFFLOADS, RELAY, Endpoint
from tlsify.aio.acceptor import Acceptor
from tlsify.aio.loop import EventLoop
from tlsify.counters import counters
from tlsify.integrations import static_files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import trustme

    from tlsify.config import KtlsPolicy, ServerConfig

T = TypeVar("T")
TEXT = b"0123456789" * 20000
# Long ago, and in whole seconds, as HTTP's dates are.
MODIFIED = 1_500_000_000


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes


class Browser:
    """One keep-alive connection."""

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext) -> None:
        """Connect."""
        self.sock = context.wrap_socket(
            socket.create_connection(address, timeout=60), server_hostname="example.org"
        )
        self._http = http.client.HTTPConnection("example.org")
        self._http.sock = self.sock

    def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """Send a request and read its answer; underscores in header names become hyphens."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        self._http.request(method, path, headers=fields)
        with self._http.getresponse() as response:
            body = response.read()
        lowered = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, lowered, body)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder to serve, and a secret beside it."""
    folder = (tmp_path / "root").resolve()
    (folder / "sub").mkdir(parents=True)
    (folder / "text.txt").write_bytes(TEXT)
    os.utime(folder / "text.txt", (MODIFIED, MODIFIED))
    (folder / "index.html").write_text("<p>front</p>")
    (folder / "sub" / "index.html").write_text("<p>sub</p>")
    (folder / "empty").mkdir()
    (folder / "nothing.bin").touch()
    (folder / "a name.txt").write_text("spaced")
    (folder / "inside").symlink_to("text.txt")
    (folder / "loop").symlink_to("loop")
    (tmp_path / "secret").write_text("SECRET")
    (tmp_path / "root-sibling").mkdir()
    (tmp_path / "root-sibling" / "secret").write_text("SECRET")
    (folder / "outside").symlink_to(tmp_path / "secret")
    (folder / "up").symlink_to(tmp_path)
    (folder / "feigned").mkdir()
    (folder / "feigned" / "index.html").symlink_to(tmp_path / "secret")
    os.mkfifo(folder / "pipe")
    return folder


@pytest.fixture
def client_context(authority: trustme.CA) -> ssl.SSLContext:
    """Python's own TLS, as a client."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


class Host:
    """Serves the folder while a piece of work runs as its browser."""

    def __init__(self, root: Path, config: ServerConfig, context: ssl.SSLContext) -> None:
        """Keep what serving takes."""
        self._root = root
        self._config = config
        self._context = context
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event

    def stop(self) -> None:
        """Have the server drain."""
        self._loop.call_soon_threadsafe(self._stop.set)

    def visit(self, work: Callable[[Browser], T], policy: KtlsPolicy = RELAY) -> T:
        """Serve here until the work is done in a thread."""
        with asyncio.Runner(loop_factory=EventLoop) as runner:
            return runner.run(self._visit(work, policy))

    async def _visit(self, work: Callable[[Browser], T], policy: KtlsPolicy) -> T:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        listener = socket.create_server(("127.0.0.1", 0))
        address = listener.getsockname()

        def browse() -> T:
            try:
                browser = Browser(address, self._context)
                with closing(browser.sock):
                    return work(browser)
            finally:
                self.stop()

        site = static_files.Site(self._root)
        await site.start()
        async with Acceptor([listener], site.serve, self._config, policy) as acceptor:
            visit = Endpoint(browse)
            await self._stop.wait()
            parting = asyncio.create_task(site.drain())
            await acceptor.drain(20)
            parting.cancel()
            await asyncio.gather(parting, return_exceptions=True)
        await site.stop()
        return visit.result()


@pytest.fixture
def site(root: Path, server_config: ServerConfig, client_context: ssl.SSLContext) -> Host:
    """The folder's site."""
    return Host(root, server_config, client_context)


@pytest.mark.parametrize("policy", OFFLOADS)
def test_files_over_one_connection(site: Host, policy: KtlsPolicy) -> None:
    """Whole files, parts of them and headers alone, one after the other on one connection."""

    def work(browser: Browser) -> None:
        for _ in range(2):
            whole = browser.ask("/text.txt")
            assert (whole.status, whole.body) == (200, TEXT)
        part = browser.ask("/text.txt", Range="bytes=5-14")
        assert (part.status, part.body) == (206, b"5678901234")
        assert part.headers["content-range"] == f"bytes 5-14/{len(TEXT)}"
        head = browser.ask("/text.txt", "HEAD")
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-length"] == str(len(TEXT))
        assert browser.ask("/").body == b"<p>front</p>"

    site.visit(work, policy)


@pytest.mark.parametrize("policy", OFFLOADS)
def test_file_truncated_under_way(
    site: Host, root: Path, policy: KtlsPolicy, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection ends, since the next answer would be taken for the rest of the file."""
    (root / "text.txt").write_bytes(bytes(32_000_000))  # more than all buffers on the way

    def work(browser: Browser) -> None:
        browser._http.request("GET", "/text.txt")
        with browser._http.getresponse() as response:
            os.truncate(root / "text.txt", 2000)
            with pytest.raises(http.client.IncompleteRead):
                response.read()
        assert browser.sock.recv(1) == b""

    site.visit(work, policy)
    assert caplog.text.count("connection ended: a file had") == 1


@pytest.mark.parametrize("policy", OFFLOADS)
def test_file_replaced_under_way(site: Host, root: Path, policy: KtlsPolicy) -> None:
    """An answer that has begun is finished, with the old file; the next one has the new file."""
    (root / "text.txt").write_bytes(bytes(32_000_000))
    (root / "other").write_bytes(TEXT)

    def work(browser: Browser) -> None:
        browser._http.request("GET", "/text.txt")
        with browser._http.getresponse() as response:
            (root / "other").replace(root / "text.txt")
            assert len(response.read()) == 32_000_000
        assert browser.ask("/text.txt").body == TEXT

    site.visit(work, policy)


def test_ranges(site: Host) -> None:
    """From, to the end, the last bytes; what lies outside cannot be satisfied."""

    def work(browser: Browser) -> None:
        assert browser.ask("/text.txt", Range="bytes=199995-").body == b"56789"
        assert browser.ask("/text.txt", Range="bytes=-3").body == b"789"
        assert browser.ask("/text.txt", Range="bytes=200000-").status == 416
        assert browser.ask("/text.txt").headers["accept-ranges"] == "bytes"

    site.visit(work)


def test_conditional_requests(site: Host) -> None:
    """An unchanged file is not sent again."""
    date = formatdate(MODIFIED, usegmt=True)

    def work(browser: Browser) -> None:
        first = browser.ask("/text.txt")
        assert first.headers["last-modified"] == date
        assert browser.ask("/text.txt", If_Modified_Since=date).status == 304
        older = formatdate(MODIFIED - 1, usegmt=True)
        assert browser.ask("/text.txt", If_Modified_Since=older).body == TEXT
        unchanged = browser.ask("/text.txt", If_None_Match=first.headers["etag"])
        assert (unchanged.status, unchanged.body) == (304, b"")
        assert browser.ask("/text.txt", If_None_Match='"other"').body == TEXT
        part = browser.ask("/text.txt", Range="bytes=0-0", If_Range=older)
        assert (part.status, part.body) == (200, TEXT)

    site.visit(work)


def test_folders(site: Host) -> None:
    """A folder is its index.html, under a name with a slash; without one it is not found."""

    def work(browser: Browser) -> None:
        assert browser.ask("/sub/").body == b"<p>sub</p>"
        moved = browser.ask("/sub")
        assert (moved.status, moved.headers["location"]) == (301, "/sub/")
        assert browser.ask("//sub").headers["location"] == "/sub/"
        assert browser.ask("/empty/").status == 404

    site.visit(work)


def test_types(site: Host) -> None:
    """Names tell what a file is."""

    def work(browser: Browser) -> None:
        for path, kind in (
            ("/", "text/html"),
            ("/text.txt", "text/plain"),
            ("/nothing.bin", "application/octet-stream"),
            ("/inside", "text/plain"),
        ):
            answer = browser.ask(path)
            assert answer.status == 200
            if path != "/inside":
                assert answer.headers["content-type"].startswith(kind)
        assert browser.ask("/nothing.bin").body == b""
        assert browser.ask("/a%20name.txt").body == b"spaced"

    site.visit(work)


ESCAPES = (
    "/../secret",
    "/..%2fsecret",
    "/%2e%2e/secret",
    "/%2e%2e%2fsecret",
    "/sub/../../secret",
    "/sub/..%2f..%2fsecret",
    "/..%5csecret",
    "/../root-sibling/secret",
    "/outside",
    "/up/secret",
    "/up/root-sibling/secret",
    "/feigned/",
    "/pipe",
    "//etc/passwd",
    "/%2fetc%2fpasswd",
    "/text.txt%00",
    "/text.txt/",
    "/text.txt/more",
    "/loop",
    "/" + "x" * 300,
    "/missing",
)


def test_what_lies_outside(site: Host) -> None:
    """It is not found, however its path is spelled; nor is anything odd."""

    def work(browser: Browser) -> None:
        for path in ESCAPES:
            answer = browser.ask(path)
            assert b"SECRET" not in answer.body, path
            assert b"root:" not in answer.body, path
            assert answer.status == 404, path

    site.visit(work)


def test_other_methods(site: Host) -> None:
    """Only GET and HEAD are there."""

    def work(browser: Browser) -> None:
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            assert browser.ask("/text.txt", method).status == 405

    site.visit(work)


def test_answer_under_way_at_the_end(site: Host) -> None:
    """An answer that has begun is finished; the one after it is announced to be the last."""

    def work(browser: Browser) -> tuple[Answer, Answer]:
        browser._http.request("GET", "/text.txt")
        response = browser._http.getresponse()
        site.stop()
        with response:
            first = Answer(response.status, {}, response.read())
        last = browser.ask("/text.txt")
        while last.headers.get("connection") != "close":  # it had begun when the end came
            last = browser.ask("/text.txt")
        return first, last

    first, last = site.visit(work)
    assert first.body == last.body == TEXT


@pytest.mark.parametrize("path", ["/missing", "/sub"])
def test_other_answers_at_the_end(site: Host, path: str) -> None:
    """They announce it, too."""

    def work(browser: Browser) -> None:
        browser.ask("/")
        site.stop()
        while browser.ask(path).headers.get("connection") != "close":
            pass

    site.visit(work)


def test_idle_connections_at_the_end(site: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are closed after a while, and so are those on which nothing was ever asked for."""
    monkeypatch.setattr(static_files, "_KEEP_ALIVE_DRAINING", 0.05)
    monkeypatch.setattr(static_files, "_LOOK", 0.01)

    before = counters()["drain_cut"]

    def work(browser: Browser) -> None:
        browser.ask("/")
        other = site._context.wrap_socket(
            socket.create_connection(browser.sock.getpeername(), timeout=60),
            server_hostname="example.org",
        )
        with closing(other):
            site.stop()
            assert browser.sock.recv(1) == b""
            assert other.recv(1) == b""

    site.visit(work)
    assert counters()["drain_cut"] == before
