"""Tests of request: what is found, however it is split, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlsify.http.request import HTTP10, HTTP11, BadRequest, Reader, Request

GET = b"GET /a?b HTTP/1.1\r\nHost: x\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


def read(data: bytes, size: int = 4096) -> tuple[list[Request], int]:
    """Read it in pieces of a size; return the requests and the status of the refusal, if any."""
    reader = Reader()
    try:
        for start in range(0, len(data), size):
            reader.feed(data[start : start + size])
    except BadRequest as exc:
        return list(reader.found), exc.status
    return list(reader.found), 0


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_what_is_found(size: int) -> None:
    """Requests in a row, with and without content, of both versions."""
    stream = (
        *(b"\r\n", GET, b"Accept: a\r\nACCEPT:b\r\nEmpty:\r\n\r\n"),
        *(POST, b"Content-Length: 5\r\n\r\nhello"),
        *(GET, CHUNKED, b"3;ext=1\r\nabc\r\n0\r\nRange: bytes=0-1\r\nHost: y\r\n\r\n"),
        b"HEAD http://other/c HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    )
    found, status = read(b"".join(stream), size)
    assert status == 0
    first, second, third, last = found
    assert (first.method, first.path, first.query, first.version) == ("GET", "/a", "b", HTTP11)
    assert first.fields == {"host": "x", "accept": "a, b", "empty": ""}
    assert first.field("Accept") == "a, b"
    assert second.method == "POST"
    assert third.fields.keys() == {"host", "transfer-encoding"}, "trailers are no fields"
    assert (last.method, last.path, last.version, last.hosts) == ("HEAD", "/c", HTTP10, 0)
    assert all(each.persists and each.is_whole for each in found)
    assert [each.hosts for each in found[:3]] == [1, 1, 1]


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("*", "*", ""),
        ("/", "/", ""),
        ("/a?b?c", "/a", "b?c"),
        ("/a#b?c", "/a", ""),
        ("//a", "//a", ""),
        ("/http://a", "/http://a", ""),
        ("http://a", "/", ""),
        ("http://a?b", "/", "b"),
        ("http://a/b/c?d://e", "/b/c", "d://e"),
    ],
)
def test_targets(target: str, path: str, query: str) -> None:
    """The authority of one in absolute form does not matter."""
    request = Request("GET", target, HTTP11, {}, 1, persists=True)
    assert (request.path, request.query) == (path, query)


@pytest.mark.parametrize(
    ("data", "persists"),
    [
        (GET, True),
        (GET + b"Connection: close\r\n", False),
        (GET + b"Connection: x, close\r\n", False),
        (b"GET / HTTP/1.0\r\n", False),
        (GET + b"Upgrade: h2c\r\n", True),
        (GET + b"Connection: Upgrade\r\nUpgrade: h2c\r\n", False),
        (b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n", False),
    ],
)
def test_what_persists(data: bytes, persists: bool) -> None:
    """Whatever follows a request that ends the connection is not read for one."""
    (request,), _ = read(data + b"\r\n" + (b"" if persists else b"\x16\x03\x01"))
    assert request.is_whole
    assert request.persists is persists


@pytest.mark.parametrize("size", [1, 4096])
@pytest.mark.parametrize(
    "data",
    [
        POST + b"Content-Length: 5\r\n" + CHUNKED + b"0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        POST + b"Content-Length: 5, 5\r\n\r\nhello",
        POST + b"Content-Length: +5\r\n\r\nhello",
        POST + b"Content-Length: 0x5\r\n\r\nhello",
        POST + b"Content-Length: 99999999999999999999\r\n\r\nhello",
        POST + b"Content-Length:\r\n\r\nhello",
        POST + b"Transfer-Encoding: identity\r\n\r\nhello",
        POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
        POST + CHUNKED + b"zz\r\n",
        POST + CHUNKED + b"3\nabc\n0\n\n",
        POST + CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n",
        POST + CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n",
        POST + CHUNKED + b"fffffffffffffffff\r\n",
        GET + b"A: b\r\n c\r\n\r\n",
        GET + b" A: b\r\n\r\n",
        GET + b"A\r\n\r\n",
        GET + b": b\r\n\r\n",
        GET + b"A: \0\r\n\r\n",
        GET + b"A: b\rB: c\r\n\r\n",
        GET + b"A: b\nB: c\r\n\r\n",
        b"GET / HTTP/1.1\nHost: x\n\n",
        b"GET / HTTP/1.2\r\nHost: x\r\n\r\n",
        b"GET / HTTP/11\r\nHost: x\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET\t/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"get / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GETS / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
    ],
)
def test_what_is_malformed(data: bytes, size: int) -> None:
    """Where another reader could find other requests, none is found (RFC 9112 11.2)."""
    found, status = read(data + GET + b"\r\n", size)
    assert status == 400
    assert not any(each.is_whole for each in found)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /" + b"a" * 100_000, 414),
        (GET + b"A: b\r\n" * 100 + b"\r\n", 431),
        (GET + b"A: " + b"b" * 100_000, 431),
        (GET + b"a" * 100_000, 431),
        (GET + b"A: " + (b"b" * 3000 + b"\r\nA: ") * 12, 431),
        (b"\r\n" * 50_000, 431),
        (GET + CHUNKED + b"1;" + b"a" * 100_000, 431),
        (GET + CHUNKED + b"0\r\nA: " + b"b" * 100_000, 431),
        (GET + CHUNKED + b"0\r\n" + b"A: b\r\n" * 101, 431),
    ],
)
@pytest.mark.parametrize("size", [1000, 4096])
def test_what_is_too_much(data: bytes, status: int, size: int) -> None:
    """Nothing that a client sends is kept without end."""
    found, refused = read(data, size)
    assert refused == status
    assert not any(each.is_whole for each in found)


def test_what_is_just_enough() -> None:
    """What browsers send is far below the bounds, and what is just below is good."""
    target = b"/" + b"a" * 8191
    fields = b"".join(b"F%d: %s\r\n" % (number, b"x" * 200) for number in range(99))
    found, status = read(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n" + fields + b"\r\n")
    assert (len(found), status) == (1, 0)
    content = GET + b"Content-Length: 1000000\r\n\r\n" + bytes(1_000_000)
    assert read(content + content)[1] == 0


def test_when_to_answer() -> None:
    """GET and HEAD are answered when they are whole, others when they are understood."""
    for lines, expected in (
        (GET + b"Content-Length: 5\r\n\r\n", False),
        (GET + b"Content-Length: 5\r\n\r\nhello", True),
        (GET + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n", True),
        (POST + b"Content-Length: 5\r\n\r\n", True),
    ):
        ((request,), _) = read(lines)
        assert request.can_be_answered is expected


_PIECES = st.sampled_from(
    (
        *(GET, POST, CHUNKED, b"\r\n", b"\r", b"\n", b"0\r\n\r\n", b"3\r\nabc\r\n", b" ", b"\0"),
        *(b"Content-Length: 3\r\n", b"abc", b"Connection: close\r\n", b"Upgrade: x\r\n"),
        *(b"Connection: upgrade\r\n", b"CONNECT a:1 HTTP/1.1\r\n", b"GET /\r\n", b"x" * 5000),
    )
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(_PIECES, st.binary(max_size=5)), max_size=12), st.data())
def test_splits_make_no_difference(pieces: list[bytes], data: st.DataObject) -> None:
    """However a stream is cut, it has the same requests in it, and ends in the same way."""
    stream = b"".join(pieces)
    reader = Reader()
    whole, status = read(stream, 1)
    refused = 0
    while stream and not refused:
        size = data.draw(st.integers(1, 4096))
        piece, stream = stream[:size], stream[size:]
        try:
            reader.feed(piece)
        except BadRequest as exc:
            refused = exc.status
        if reader.found and not reader.found[-1].persists:
            break  # nobody reads on
    assert [each for each in reader.found if each.persists] == [e for e in whole if e.persists]
    if all(each.persists for each in whole):
        assert refused == status
