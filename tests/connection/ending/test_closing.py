"""Tests of what an end without close_notify is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlsify.config import ClosePolicy
from tlsify.connection.ending.closing import Closing

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize("policy", ClosePolicy)
@pytest.mark.parametrize("alpn", [None, b"http/1.1", b"imap"])
def test_what_somebody_has_said(policy: ClosePolicy, alpn: bytes | None) -> None:
    """It holds for any protocol."""
    closing = Closing(policy, alpn)
    closing.look(REQUEST)
    assert closing.is_relaxed is (policy is ClosePolicy.RELAXED)


@pytest.mark.parametrize("alpn", [b"http/0.9", b"http/1.0", b"http/1.1", b"h2"])
def test_agreed_on_http(alpn: bytes) -> None:
    """HTTP's own name says enough, before anything is sent."""
    assert Closing(None, alpn).is_relaxed


@pytest.mark.parametrize("alpn", [b"imap", b"acme-tls/1", b"h3", b"HTTP/1.1"])
def test_agreed_on_something_else(alpn: bytes) -> None:
    """What is agreed on stands above what it looks like."""
    closing = Closing(None, alpn)
    closing.look(REQUEST)
    assert not closing.is_relaxed


@pytest.mark.parametrize(
    "begins",
    [
        REQUEST,
        b"POST /upload?x=y HTTP/1.0\r\n",
        b"OPTIONS * HTTP/1.1\r\n",
        b"VERSION-CONTROL /x HTTP/1.1\n",
        b"\r\nGET / HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /" + b"a" * 8000 + b" HTTP/1.1\r\n",
    ],
)
@pytest.mark.parametrize("size", [1, 7, 2**20])
def test_request_line(begins: bytes, size: int) -> None:
    """It tells HTTP where nothing was agreed on, in whatever pieces it comes."""
    closing = Closing(None, None)
    for at in range(0, len(begins), size):
        assert at == 0 or not closing.is_relaxed or b"\n" in begins[:at].lstrip(b"\r\n")
        closing.look(memoryview(begins)[at : at + size])
    assert closing.is_relaxed


@pytest.mark.parametrize(
    "begins",
    [
        b"",
        b"GET / HTTP/1.1",
        b"GET / HTTP/1.1\r",
        b"GET /\r\n",
        b"EHLO example.org\r\n",
        b"OPTIONS rtsp://a/b RTSP/1.0\r\n",
        b"REGISTER sip:a SIP/2.0\r\n",
        b"ICY 200 OK\r\n",
        b"\0\0\0\x08\x04\xd2\x16/\n",
        b"GET /" + b"a" * 2**16 + b" HTTP/1.1\r\n",
        b"hello\n" + REQUEST,
    ],
)
def test_anything_else(begins: bytes) -> None:
    """Half a request line is no HTTP yet, and what does not begin as HTTP becomes none later."""
    closing = Closing(None, None)
    closing.look(begins)
    assert not closing.is_relaxed
    if b"\n" in begins:
        closing.look(REQUEST)
        assert not closing.is_relaxed


@given(st.lists(st.binary()))
def test_any_bytes(pieces: list[bytes]) -> None:
    """Whatever a client sends, little of it is kept."""
    closing = Closing(None, None)
    for piece in pieces:
        closing.look(piece)
    assert len(closing._begun) < 2**14
