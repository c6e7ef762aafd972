"""Tests of static_files: connections of a browser, from the first answer to the drain."""

from __future__ import annotations

import http.client
import json
import logging
import os
import socket
import ssl
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import pytest

from tests.doubles import (
    OFFLOADS,
    check_descriptors,
    descriptors,
    recv_exactly,
    reset,
    until,
)
from tests.integrations.browsing import TEXT, Answer, Browser, Host
from tlsify.connection import stillness
from tlsify.connection.ending import patience
from tlsify.connection.stillness import Stillness, Watch
from tlsify.integrations import static_files
from tlsify.logs.access import AccessLog
from tlsify.logs.file import LogFile
from tlsify.logs.messages import JSON
from tlsify.metrics.counters import Gauge, counters, gauge

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tlsify.config import KtlsPolicy


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
def test_requests_in_one_piece(site: Host, policy: KtlsPolicy) -> None:
    """Each has its answer, in order, and none has content that is not its own."""
    asked = 4 * [
        ("GET", "/", 200, b"<p>front</p>"),
        ("HEAD", "/text.txt", 200, b""),
        ("GET", "/sub", 301, b"301: Moved Permanently"),
        ("HEAD", "/sub", 301, b""),
        ("GET", "/nothing.bin", 200, b""),
        ("HEAD", "/missing", 404, b""),
        ("GET", "/missing", 404, b"404: Not Found"),
        ("GET", "/text.txt", 200, TEXT),
    ]

    def work(browser: Browser) -> None:
        requests = (f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n" for method, path, *_ in asked)
        browser.sock.sendall("".join(requests).encode())
        with browser.sock.makefile("rb") as answers:
            for method, path, status, content in asked:
                assert answers.readline().split()[1] == b"%d" % status, path
                size = int(http.client.parse_headers(answers)["Content-Length"])
                assert answers.read(0 if method == "HEAD" else size) == content, path

    site.visit(work, policy)


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
        other = site.context.wrap_socket(
            socket.create_connection(browser.sock.getpeername(), timeout=60),
            server_hostname="example.org",
        )
        with closing(other):
            site.stop()
            assert browser.sock.recv(1) == b""
            assert other.recv(1) == b""

    site.visit(work)
    assert counters()["drain_cut"] == before


def test_idle_connections(site: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are closed in good order."""
    monkeypatch.setattr(static_files, "_KEEP_ALIVE", 0.1)
    monkeypatch.setattr(static_files, "_LOOK", 0.01)

    def work(browser: Browser) -> None:
        assert browser.ask("/").status == 200
        assert browser.sock.recv(1) == b""

    site.visit(work)


@pytest.mark.parametrize("policy", OFFLOADS)
def test_request_that_does_not_end(
    site: Host, monkeypatch: pytest.MonkeyPatch, policy: KtlsPolicy
) -> None:
    """However many bytes come of it, it has its time; the client is told."""
    monkeypatch.setattr(static_files, "_REQUEST", 0.2)
    monkeypatch.setattr(static_files, "_LOOK", 0.01)

    def work(browser: Browser) -> None:
        browser.ask("/")
        browser.sock.sendall(b"GET / HTTP/1.1\r\nA: ")
        browser.sock.settimeout(0.02)
        answer = b""
        while not answer:
            with suppress(TimeoutError):
                browser.sock.sendall(b"a")
                answer = browser.sock.recv(1000)
        assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        browser.sock.settimeout(60)
        with suppress(ConnectionError):  # a byte has met the end
            assert browser.sock.recv(1000) == b""

    site.visit(work, policy)


@pytest.mark.parametrize("policy", OFFLOADS)
@pytest.mark.parametrize("leave", [socket.socket.close, reset], ids=["end", "reset"])
def test_client_that_vanishes_amid(
    site: Host, policy: KtlsPolicy, leave: Callable[[socket.socket], None]
) -> None:
    """Whatever it has asked for, no file stays open."""
    (site.root / "big").write_bytes(bytes(32_000_000))
    before = gauge(Gauge.CONNECTIONS)

    def work(browser: Browser) -> None:
        browser.ask("/")
        until(lambda: gauge(Gauge.CONNECTIONS) == before + 1)
        files = descriptors()
        for _ in range(4):
            other = Browser(browser.sock.getpeername(), site.context)
            request = b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n"
            other.sock.sendall((request % b"/" + request % b"/big") * 50)
            assert other.sock.recv(100)
            leave(other.sock)
        until(lambda: gauge(Gauge.CONNECTIONS) == before + 1)
        check_descriptors(files)

    site.visit(work, policy)


def test_records_of_small_answers(site: Host) -> None:
    """Each goes in one, with its header section; so on the kernel path, which is not seen here."""
    (site.root / "small").write_bytes(bytes(16_000))

    def work(browser: Browser) -> None:
        sock = socket.create_connection(browser.sock.getpeername(), timeout=60)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = site.context.wrap_bio(incoming, outgoing, server_hostname="example.org")
        records: list[bytes] = []

        def ask(path: bytes) -> None:
            client.write(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path)
            sock.sendall(outgoing.read())

        def turn() -> None:
            sock.sendall(outgoing.read())
            header = recv_exactly(sock, 5)
            records.append(recv_exactly(sock, int.from_bytes(header[3:], "big")))
            incoming.write(header + records[-1])

        with closing(sock):
            while True:
                with suppress(ssl.SSLWantReadError):
                    client.do_handshake()
                    break
                turn()
            for path, size in ((b"/", 12), (b"/missing", 14), (b"/small", 16_000)):
                ask(path)
                answer = b""
                while not answer:
                    records.clear()  # tickets may come first
                    turn()
                    with suppress(ssl.SSLWantReadError):
                        answer = client.read(2**16)
                assert answer.startswith(b"HTTP/1.1 ")
                assert len(answer.partition(b"\r\n\r\n")[2]) == size, "all of it in one record"

    site.visit(work)


# -- clients that take nothing

_HUGE = 2**40


def _ask_for_much(site: Host, browser: Browser) -> None:
    """Ask for more than fits between two programs, and read the beginning."""
    with (site.root / "huge").open("wb") as file:
        file.truncate(_HUGE)
    browser.sock.sendall(b"GET /huge HTTP/1.1\r\nHost: example.org\r\n\r\n")
    assert browser.sock.recv(100).startswith(b"HTTP/1.1 200")


def _read_on(browser: Browser) -> None:
    while browser.sock.recv(2**20):
        pass


@pytest.mark.parametrize("policy", OFFLOADS)
def test_answer_that_nobody_reads(
    site: Host, monkeypatch: pytest.MonkeyPatch, policy: KtlsPolicy
) -> None:
    """It is cut off, and its place is free: the client can tell that there is more."""
    monkeypatch.setattr(patience, "PATIENCE", 0.1)
    before = counters()["send_timed_out"]

    def work(browser: Browser) -> None:
        _ask_for_much(site, browser)
        until(lambda: counters()["send_timed_out"] > before)
        until(lambda: not gauge(Gauge.CONNECTIONS))
        with pytest.raises((ssl.SSLEOFError, ConnectionError)):
            _read_on(browser)

    site.visit(work, policy, send_timeout=0.2)
    assert counters()["send_timed_out"] == before + 1


@pytest.mark.parametrize("policy", OFFLOADS)
def test_access_log(site: Host, tmp_path: Path, policy: KtlsPolicy) -> None:
    """A line for each request with what was asked and sent, also where it could not all be."""
    path = tmp_path / "log"

    def work(browser: Browser) -> None:
        whole = browser.ask("/text.txt?x", User_Agent="a b", Referer="/")
        browser.ask("/text.txt", Range="bytes=0-0")
        browser.ask("/none", "HEAD")
        until(lambda: path.read_text().count("\n") == 3)
        assert whole.status == 200
        _ask_for_much(site, browser)
        reset(browser.sock)
        until(lambda: path.read_text().count("\n") == 4)

    site.visit(work, policy, access_log=AccessLog(LogFile(str(path)), JSON))
    first, part, none, cut = map(json.loads, path.read_text().splitlines())
    assert first["request"] == "GET /text.txt?x HTTP/1.1"
    assert (first["user_agent"], first["referer"]) == ("a b", "/")
    assert (first["version"], first["end"]) == ("TLSv1.3", "clean")
    assert (part["status"], part["range"], part["end"]) == (206, "bytes=0-0", "clean")
    assert (none["request"], none["status"]) == ("HEAD /none HTTP/1.1", 404)
    assert first["received"] > part["received"] > 0
    assert 0 < cut["sent"] < _HUGE
    assert (cut["status"], cut["end"].startswith("ECONN")) == (200, True)


@pytest.mark.parametrize("policy", OFFLOADS)
@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\n\r\n", b"\x17\x03\x03\xff\xff"])
def test_access_log_of_bytes_that_are_no_record(
    site: Host,
    tmp_path: Path,
    policy: KtlsPolicy,
    sent: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """They are the client's fault, though it is a send that learns of them, not the file's."""
    path = tmp_path / "log"

    def work(browser: Browser) -> None:
        _ask_for_much(site, browser)
        with socket.socket(fileno=os.dup(browser.sock.fileno())) as bare:
            bare.sendall(sent)
        until(path.read_text)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            _read_on(browser)

    site.visit(work, policy, access_log=AccessLog(LogFile(str(path)), JSON))
    (line,) = map(json.loads, path.read_text().splitlines())
    assert (line["status"], line["end"]) == (200, "peer_misbehaved")
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


def test_client_that_reads_nothing_of_many_answers(
    site: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small ones are no better if there are enough of them."""
    monkeypatch.setattr(patience, "PATIENCE", 0.1)
    before = counters()["send_timed_out"]

    def work(browser: Browser) -> None:
        browser.sock.settimeout(0.1)
        with suppress(OSError):
            while counters()["send_timed_out"] == before:
                with suppress(TimeoutError):
                    browser.sock.send(b"GET /text.txt HTTP/1.1\r\nHost: example.org\r\n\r\n")
        until(lambda: counters()["send_timed_out"] > before)

    site.visit(work, send_timeout=0.2)


@pytest.mark.parametrize("policy", OFFLOADS)
def test_client_that_reads_after_a_while(site: Host, policy: KtlsPolicy) -> None:
    """It goes on where it was, as long as the time is not over."""
    looks = []
    original = Watch.look

    def look(watch: Watch) -> Stillness | None:
        looks.append(watch)
        return original(watch)

    def work(browser: Browser) -> None:
        _ask_for_much(site, browser)
        until(lambda: len(looks) > 3)
        for _ in range(100):
            assert browser.sock.recv(2**16)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Watch, "look", look)
        patch.setattr(stillness, "_LOOKS", 10_000)
        site.visit(work, policy, send_timeout=60)
