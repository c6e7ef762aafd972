"""Tests of the PROXY protocol's version in text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlsify.passing.proxy_protocol import Header
from tlsify.passing.proxy_text import LONGEST, decode, encode

_V6 = "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"


@pytest.mark.parametrize(
    ("header", "line"),
    [
        (
            Header(("192.0.2.1", 1025), ("198.51.100.2", 443)),
            b"PROXY TCP4 192.0.2.1 198.51.100.2 1025 443\r\n",
        ),
        (
            Header(("2001:db8::1", 1, 0, 0), ("fe80::2", 65535, 0, 0)),
            b"PROXY TCP6 2001:db8::1 fe80::2 1 65535\r\n",
        ),
        (Header(None, None), b"PROXY UNKNOWN\r\n"),
    ],
)
def test_lines(header: Header, line: bytes) -> None:
    """They are what proxy-protocol.txt, section 2.1, says."""
    assert encode(header) == line
    assert decode(line) == header


def test_families() -> None:
    """Both ends are of one: IPv4 in either spelling, else IPv6; paths have no place."""
    local = ("198.51.100.2", 443)
    assert encode(Header(("::ffff:192.0.2.1", 1, 0, 0), local)).startswith(b"PROXY TCP4 192.0.2.1 ")
    found = encode(Header(("2001:db8::1", 1, 0, 0), local))
    assert found.startswith(b"PROXY TCP6 2001:db8::1 ::ffff:198.51.100.2 ")
    assert encode(Header("/a", "/b")) == b"PROXY UNKNOWN\r\n"
    longest = encode(Header((_V6, 65535, 0, 0), (_V6, 65535, 0, 0)))
    assert len(longest) <= LONGEST


@pytest.mark.parametrize(
    "line",
    [
        b"PROXY TCP4 192.0.2.1 198.51.100.2 1025 443\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 1025\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 1025 443 1\r\n",
        b"PROXY TCP4 192.0.2.1  198.51.100.2 1025 443\r\n",
        b"PROXY TCP4 2001:db8::1 198.51.100.2 1025 443\r\n",
        b"PROXY TCP4 192.0.2.01 198.51.100.2 1025 443\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 1025 65536\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 +1 443\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 01 443\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 -1 443\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 1\xb2 443\r\n",
        b"PROXY TCP5 192.0.2.1 198.51.100.2 1025 443\r\n",
        b"PROXY \r\n",
        b"PROXY UNKNOWN " + b"x" * LONGEST + b"\r\n",
        b"proxy UNKNOWN\r\n",
    ],
)
def test_malformed(line: bytes) -> None:
    """Whatever is not quite a header is none."""
    with pytest.raises(ValueError, match="PROXY"):
        decode(line)


def test_unknown_with_more() -> None:
    """What follows such a word is of no account."""
    assert decode(b"PROXY UNKNOWN ::1 ::1 1 \xff\r\n") == Header(None, None)


@given(st.binary(max_size=110))
def test_anything(rest: bytes) -> None:
    """It is a header, which says the same when it is written again, or an error."""
    for line in (rest, b"PROXY TCP4 " + rest + b"\r\n"):
        try:
            found = decode(line)
        except ValueError:
            continue
        assert decode(encode(found)) == found
