"""Tests of web."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from tests.doubles import Endpoint
from tests.ports import free_port
from tests.renewal.answering import CUT, Answering, reply
from tlsify.renewal import web
from tlsify.renewal.web import Deadline, Place, Request, WebError, fetch

if TYPE_CHECKING:
    import trustme

    from tlsify.credentials.anchors import TrustAnchors

_HEAD = b"HTTP/1.1 200 OK\r\n"
_CHUNKED = _HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def test_request_and_answer(authority: trustme.CA, trust: TrustAnchors) -> None:
    """Method, fields and content arrive; status, fields and content come back, by TLS or not."""
    leaf = authority.issue_cert("localhost")
    answer = reply(b"no", "Retry-After: 7", status="404 Not Found")
    for security in (None, leaf):
        with Answering(lambda _: answer, security) as server:
            wanted = Request(f"{server.url}/a?b", "POST", b"content", {"Content-Type": "text/x"})
            status, fields, content = fetch(wanted, Deadline(60), trust)
            assert (status, fields["retry-after"], content) == (404, "7", b"no")
            (request,) = server.requests
            assert request.startswith(b"POST /a?b HTTP/1.1\r\n")
            host = server.url.partition("//")[2].encode()
            for line in (b"Host: " + host, b"Content-Type: text/x", b"Content-Length: 7"):
                assert line in request.split(b"\r\n")
            assert request.endswith(b"\r\n\r\ncontent")


@pytest.mark.parametrize(
    "answer",
    [
        reply(b"whole"),
        _CHUNKED + b"2\r\nwh\r\n3\r\nole\r\n0\r\n\r\n",
        _HEAD + b"\r\nwhole",
        b"HTTP/1.1 100 Continue\r\n\r\n" + reply(b"whole"),
    ],
)
def test_ways_to_spell_an_answer(answer: bytes) -> None:
    """Its length is a number, or in its chunks, or that of all there is."""
    with Answering(lambda _: answer) as server:
        assert fetch(Request(server.url), Deadline(60)).content == b"whole"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "no HTTP"),
        (b"garbage\r\n\r\n", "no HTTP"),
        (b"HTTP/1.1 2\r\n\r\n", "no HTTP"),
        (reply(b"whole")[:-1], "cut short"),
        (_CHUNKED + b"5\r\nwhole", "cut short"),
        (_CHUNKED + b"f" * 20 + b"\r\nwhole", "cut short"),
        (_HEAD + b"Content-Length: " + b"9" * 20 + b"\r\n\r\nwhole", "cut short"),
        (_CHUNKED + b"zz\r\nwhole\r\n0\r\n\r\n", "cut short"),
        (_HEAD + b"X: " + b"x" * 2**17, "longer than 131072 bytes"),
        (_HEAD + b"X: y\r\n" * 2000 + b"\r\n", "no HTTP"),
        (reply(b"x" * 2**17), "longer than 131072 bytes"),
    ],
)
def test_answer_of_no_use(answer: bytes, why: str) -> None:
    """An error names the server; no more is received than what may be needed."""
    with Answering(lambda _: answer) as server, pytest.raises(WebError, match=why) as caught:
        fetch(Request(server.url), Deadline(60))
    assert str(caught.value).startswith(server.url)


def test_answer_that_is_cut(authority: trustme.CA, trust: TrustAnchors) -> None:
    """An end without close_notify is one only where nothing else shows the length."""
    leaf = authority.issue_cert("localhost")
    with Answering(lambda _: reply(CUT), leaf) as server:
        assert fetch(Request(server.url), Deadline(60), trust).content == CUT
    with Answering(lambda _: _HEAD + b"\r\n" + CUT, leaf) as server, pytest.raises(WebError):
        fetch(Request(server.url), Deadline(60), trust)


def test_time() -> None:
    """The deadline ends a request that is not answered, and begins none when it is over."""
    with Answering(lambda _: None) as server:
        with pytest.raises(WebError, match="does not answer in time"):
            fetch(Request(server.url), Deadline(0.2))
        with pytest.raises(WebError, match="does not answer in time"):
            fetch(Request(server.url), Deadline(0))
        assert len(server.requests) == 1


def test_slow_drip(monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then does not keep a request alive: the time is for all of it."""
    monkeypatch.setattr(web, "PATIENCE", 0.3)
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    ours, theirs = socket.socketpair()
    theirs.settimeout(0.05)  # never comes: a pace without a sleep

    def drip() -> None:
        with listener, listener.accept()[0] as sock:
            for byte in _HEAD * 100:
                try:
                    sock.sendall(bytes([byte]))
                except OSError:
                    return
                with pytest.raises(TimeoutError):
                    theirs.recv(1)

    dripping = Endpoint(drip)
    with pytest.raises(WebError, match="does not answer in time"):
        fetch(Request(url), Deadline(0.3))
    dripping.result()
    ours.close()
    theirs.close()


def test_server_that_is_not_there_or_another(authority: trustme.CA) -> None:
    """Errors of the network and of TLS keep their reason."""
    port = free_port()
    with pytest.raises(WebError, match=f"http://127.0.0.1:{port}: ECONNREFUSED"):
        fetch(Request(f"http://127.0.0.1:{port}/"), Deadline(60))
    leaf = authority.issue_cert("localhost")
    with Answering(lambda _: reply(b""), leaf) as server, pytest.raises(WebError, match="issuer"):
        fetch(Request(server.url), Deadline(60))


@pytest.mark.parametrize(
    "url",
    [
        *("", "nowhere", "ftp://host/", "file:///etc/passwd", "http://", "http:///path"),
        *("http://host:port/", "http://host:99999/", "http://user@host/", "http://[::1/"),
        *("http://host/a b", "http://host/\r\nX: y", "http://h\u00f6st/"),
    ],
)
def test_no_url(url: str) -> None:
    """No other scheme is followed, and nothing gets into the request that is no target."""
    with pytest.raises(WebError, match="not a URL of the web"):
        fetch(Request(url), Deadline(60))


@pytest.mark.parametrize(
    ("url", "place", "authority"),
    [
        ("https://host", Place("https", "host", 443, "/"), "host"),
        ("http://host:8080/a/b?c", Place("http", "host", 8080, "/a/b?c"), "host:8080"),
        ("http://[::1]:1/#here", Place("http", "::1", 1, "/"), "[::1]:1"),
    ],
)
def test_place(url: str, place: Place, authority: str) -> None:
    """What a URL names, and how a request spells it."""
    assert Place.parse(url) == place
    assert place.authority == authority
