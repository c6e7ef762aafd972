"""Tests of the command itself: ``tlsify serve`` with curl, ``tlsify connect`` with openssl."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.interop.carriers import CARRIERS, MODES
from tests.interop.matrix import openssl_options
from tests.interop.peers import LISTENING
from tests.interop.programs import TIMEOUT, Program, require
from tlsify.codepoints import CipherSuite
from tlsify.connection.handoff import Offload
from tlsify.errors import ExitCode
from tlsify.ktls.diag import tls_stat

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.interop.peers import Site

pytestmark = [pytest.mark.interop, pytest.mark.timeout(TIMEOUT)]

_SMALL = b"small file\n"
_LARGE = bytes(range(256)) * 2**12  # 1 MiB
_TLS13 = CipherSuite.TLS_AES_128_GCM_SHA256

by_carrier = pytest.mark.parametrize("offload", CARRIERS)


def _tlsify(offload: Offload, *words: str) -> list[str]:
    return [sys.executable, "-m", "tlsify", f"--ktls={MODES[offload].value}", *words]


@dataclass(frozen=True)
class Served:
    """A running ``tlsify serve``."""

    program: Program
    offload: Offload
    root: Path
    url: str
    fetch: list[str]

    def curl(self, *words: str) -> bytes:
        """Run curl to its successful end, and give what it printed."""
        with Program([*self.fetch, *words], end_input=True) as client:
            return client.output()


@pytest.fixture(scope="module", params=CARRIERS)
def served(
    request: pytest.FixtureRequest, site: Site, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """One server for all of its tests: in a guest its start takes longer than they do."""
    require("curl")
    root = tmp_path_factory.mktemp("root")
    (root / "small.txt").write_bytes(_SMALL)
    (root / "large.bin").write_bytes(_LARGE)
    words = ["--cert", str(site.ec.chain), "--key", str(site.ec.key)]
    words += ["--listen", "127.0.0.1:0", str(root)]
    with Program(_tlsify(request.param, "serve", *words)) as program:
        said = program.wait_for(rb"on (https://127\.0\.0\.1:\d+)/ \((.*)\)\n")
        is_kernel = request.param is Offload.KERNEL
        assert said[2] == (b"kernel TLS" if is_kernel else b"relay: policy-off")
        fetch = ["curl", "--silent", "--show-error", "--fail", "--cacert", str(site.authority)]
        yield Served(program, request.param, root, said[1].decode(), fetch)


def test_a_large_file_arrives_whole(served: Served) -> None:
    """Curl gets a file of 1 MiB, over one connection that is the kernel's if it is to be."""
    before = tls_stat()
    assert served.curl(f"{served.url}/large.bin") == _LARGE
    after = tls_stat()
    if served.offload is Offload.KERNEL:
        assert after["TlsTxSw"] - before["TlsTxSw"] == 1
        assert after["TlsDecryptError"] == before["TlsDecryptError"]


def test_a_range_is_served(served: Served) -> None:
    """Curl gets the bytes it asks for, and 206."""
    written = "%{http_code}"
    got = served.curl("--range", "100000-100009", "-w", written, f"{served.url}/large.bin")
    assert got == _LARGE[100000:100010] + b"206"


def test_head_has_no_body(served: Served) -> None:
    """Curl gets the length of a file without its content."""
    head = served.curl("--head", f"{served.url}/large.bin").lower()
    assert head.startswith(b"http/1.1 200 ")
    assert b"content-length: %d\r\n" % len(_LARGE) in head
    assert head.endswith(b"\r\n\r\n")


def test_an_unchanged_file_is_not_sent_again(served: Served, tmp_path: Path) -> None:
    """Curl gets 304 and nothing else for a file whose entity tag it knows.

    Not by date: aiohttp compares a date of whole seconds with the file's exact time.
    """
    tag, url = str(tmp_path / "tag"), f"{served.url}/small.txt"
    assert served.curl("--etag-save", tag, url) == _SMALL
    assert served.curl("--etag-compare", tag, "-w", "%{http_code}", url) == b"304"


def test_one_connection_serves_several_requests(served: Served) -> None:
    """Curl fetches two files over one connection."""
    before = tls_stat()
    urls = [f"{served.url}/small.txt", f"{served.url}/large.bin"]
    got = served.curl("--no-progress-meter", "-w", "<%{num_connects}>", *urls)
    assert got == _SMALL + b"<1>" + _LARGE + b"<0>"
    if served.offload is Offload.KERNEL:
        assert tls_stat()["TlsTxSw"] - before["TlsTxSw"] == 1


def test_sigterm_ends_the_server_in_good_order(served: Served) -> None:
    """SIGTERM ends the server with exit status 0; last, since the others need it."""
    served.program.terminate()
    assert served.program.status() == ExitCode.OK


@contextmanager
def _openssl_server(site: Site, *options: str) -> Iterator[tuple[Program, str]]:
    """Run ``openssl s_server``; return its port too."""
    require("openssl")
    words = ["openssl", "s_server", "-accept", "127.0.0.1:0"]
    words += ["-cert", str(site.ec.chain), "-key", str(site.ec.key), *options]
    with Program(words) as server:
        yield server, server.wait_for(LISTENING)[1].decode().rpartition(":")[2]


def _connect(
    offload: Offload, port: str, site: Site, *, name: str = "localhost", feed: bytes = b""
) -> Program:
    words = ["-v", "connect", "--ca", str(site.authority), "--servername", name]
    return Program(_tlsify(offload, *words, "127.0.0.1", port), feed, end_input=bool(feed))


def _carrier(offload: Offload) -> str:
    return "(kernel)" if offload is Offload.KERNEL else "(relay, policy-off:"


@by_carrier
def test_connect_fetches_a_page(offload: Offload, site: Site) -> None:
    """What ``openssl s_server -www`` answers reaches standard output, and the status is 0."""
    with (
        _openssl_server(site, "-www", *openssl_options(_TLS13)) as (_, port),
        _connect(offload, port, site, feed=b"GET / HTTP/1.0\r\n\r\n") as client,
    ):
        page = client.output()
        assert _carrier(offload) in client.errors()
    assert page.startswith(b"HTTP/1.0 200 ok\r\n")
    assert _TLS13.openssl_name.encode() in page
    assert page.rstrip().endswith(b"</BODY></HTML>")


@by_carrier
def test_connect_talks_both_ways(offload: Offload, site: Site) -> None:
    """What goes to ``openssl s_server -rev`` comes back reversed, and the status is 0."""
    with (
        _openssl_server(site, "-rev") as (_, port),
        _connect(offload, port, site, feed=b"tlsify\n") as client,
    ):
        assert client.output() == b"yfislt\n"
        assert _carrier(offload) in client.errors()


@by_carrier
def test_connect_tells_a_wrong_peer(offload: Offload, site: Site) -> None:
    """A certificate for another name ends the command with a status of its own."""
    with (
        _openssl_server(site, "-www") as (_, port),
        _connect(offload, port, site, name="example.com", feed=b"secret\n") as client,
    ):
        assert client.status() == ExitCode.IDENTITY


@by_carrier
def test_connect_tells_a_failed_handshake(offload: Offload, site: Site) -> None:
    """A server without any cipher in common ends the command with the handshake's status."""
    with (
        _openssl_server(site, "-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA") as (_, port),
        _connect(offload, port, site, feed=b"secret\n") as client,
    ):
        assert client.status() == ExitCode.HANDSHAKE
        assert "handshake_failure" in client.errors()


@by_carrier
def test_connect_tells_truncation(offload: Offload, site: Site) -> None:
    """A server that dies without close_notify ends the command with truncation's status."""
    with (
        _openssl_server(site) as (server, port),
        _connect(offload, port, site) as client,
    ):
        client.wait_for_error(_carrier(offload))
        server.wait_for(b"CIPHER is ")  # unread records would make its end a reset
        server.kill()
        assert client.status() == ExitCode.CLOSED
