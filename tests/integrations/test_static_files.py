"""Tests of static_files: connections of a browser, from the first answer to the drain."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.doubles import OFFLOADS
from tests.integrations.browsing import TEXT, Answer, Browser, Host
from tlsify.counters import counters
from tlsify.integrations import static_files

if TYPE_CHECKING:
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
