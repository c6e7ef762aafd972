"""Tests of plain: who gets an answer, and that nothing but a place is repeated in it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlsify.http.plain import answer, redirection

GET = b"GET /a?b=%20c HTTP/1.1\r\nUser-Agent: x\r\nHost: Example.org:8443\r\n\r\n"


def test_error() -> None:
    """It says what is wrong, in a whole answer; HEAD gets its header section alone."""
    head, _, content = answer(GET).partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 400 Bad Request"
    assert b"Connection: close" in lines
    assert b"Content-Length: %d" % len(content) in lines
    assert b"HTTPS" in content
    assert answer(b"HEAD / HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("request_", "status", "place"),
    [
        (GET, b"301", b"https://Example.org:8443/a?b=%20c"),
        (b"HEAD / HTTP/1.1\r\nhost:\tx\r\n\r\n", b"301", b"https://x/"),
        (b"POST / HTTP/1.1\r\nHost: [::1]:80\r\n\r\nx", b"308", b"https://[::1]/"),
        (b"GET //evil HTTP/1.0\nHost: x:81 \n", b"301", b"https://x:81//evil"),
        (b"GET / HTTP/1.1\r\n\r\nHost: x\r\n", b"400", None),
        (b"GET / HTTP/1.1\r\nX-Host: x\r\n\r\n", b"400", None),
        (b"GET / HTTP/1.1\r\nHost: x/y\r\n\r\n", b"400", None),
        (b"GET / HTTP/1.1\r\nHost: x@y\r\n\r\n", b"400", None),
        (b"GET / HTTP/1.1\r\nHost: x\r\r\n", b"400", None),
        (b"GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n", b"400", None),
        (b"GET / HTTP/1.1\r\nHost: exam", b"400", None),
        (b"GET /\x1b HTTP/1.1\r\nHost: x\r\n\r\n", b"400", None),
        (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", b"400", None),
        (b"OPTIO", b"400", None),
        (b"GET /", b"400", None),
    ],
)
def test_redirection(request_: bytes, status: bytes, place: bytes | None) -> None:
    """The same place, if what came says which; a form keeps its method."""
    lines = answer(request_, redirect=True).split(b"\r\n")
    assert lines[0].split(b" ")[1] == status
    assert [each for each in lines if each.startswith(b"Location")] == (
        [] if place is None else [b"Location: " + place]
    )


@pytest.mark.parametrize(
    "sent",
    [b"HELO x", b"EHLO\r\n", b"SSH-2.0", b"GETX /", b"G\0\0\0\0", b"get / HTTP", b"PRI * HTTP/2.0"],
)
def test_others(sent: bytes) -> None:
    """Whatever is no request gets its alert."""
    assert answer(sent, redirect=True) == b""


def test_redirection_from_another_port() -> None:
    """The port is that for HTTPS, and not shown where that is the usual one."""
    for port, shown in ((8443, ":8443"), (443, "")):
        place = redirection(GET, port).fields["Location"]
        assert place == f"https://Example.org{shown}/a?b=%20c"
    assert redirection(b"GET / HTTP/1.1\r\n\r\n", 443).status == 400
    assert redirection(b"", 443).status == 431


@given(st.binary(max_size=200), st.sampled_from([b"GET /", b"POST / HTTP/1.1\r\nHost: "]))
def test_whatever_comes(rest: bytes, begin: bytes) -> None:
    """The answer is short, and no field of it but Location depends on what came."""
    for redirect in (False, True):
        lines = answer(begin + rest + b"\r\n\r\n", redirect=redirect).split(b"\r\n")
        assert sum(map(len, lines)) < 600
        assert len(lines) == 7
