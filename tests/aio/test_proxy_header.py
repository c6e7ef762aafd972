"""Tests of receiving a PROXY header: it is taken whole, and what follows is left where it is."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from tests.doubles import check_descriptors, descriptors
from tlsify.aio.proxy_header import receive
from tlsify.errors import DeadlineExceeded, ProxyHeaderError, Truncated
from tlsify.passing import proxy_protocol, proxy_text
from tlsify.passing.proxy_protocol import SIGNATURE, USUAL_LIMIT, Field, Header

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PEER, LOCAL = ("192.0.2.1", 1025), ("198.51.100.2", 443)
IPV4 = Header(PEER, LOCAL)
NOTHING = Header(None, None)
BEHIND = b"\x16\x03\x01 a ClientHello\n\r\n"
LONGEST = Field(0xEA, bytes(USUAL_LIMIT - 16 - 12 - 3))
GOOD = {
    "text": (proxy_text.encode(IPV4), IPV4),
    "text-unknown": (proxy_text.encode(NOTHING), NOTHING),
    "binary": (proxy_protocol.encode(IPV4), IPV4),
    "local": (SIGNATURE + b"\x20\x00\x00\x00", NOTHING),
    "local-with-addresses": (SIGNATURE + b"\x20\x11\x00\x0c" + bytes(12), NOTHING),
    "unspecified": (SIGNATURE + b"\x21\x00\x00\x00", NOTHING),
    "path": (proxy_protocol.encode(Header("/a", "/b")), Header("/a", "/b")),
    "longest": (
        proxy_protocol.encode(IPV4._replace(fields=(LONGEST,))),
        IPV4._replace(fields=(LONGEST,)),
    ),
}
BAD = {
    "tls": BEHIND,
    "http": b"GET / HTTP/1.1\r\n\r\n",
    "text-without-end": b"PROXY TCP4 " + b"1" * 200,
    "text-malformed": b"PROXY TCP4 1 2 3 4\r\n" + BEHIND,
    "too-long": SIGNATURE + b"\x21\x11\x10\x00" + bytes(2**12),
    "version": SIGNATURE + b"\x31\x11\x00\x0c" + bytes(12),
    "command": SIGNATURE + b"\x22\x11\x00\x0c" + bytes(12),
    "datagrams": SIGNATURE + b"\x21\x12\x00\x0c" + bytes(12),
    "addresses-cut": SIGNATURE + b"\x21\x11\x00\x0b" + bytes(12),
    "field-beyond-end": SIGNATURE + b"\x21\x11\x00\x10" + bytes(12) + b"\x01\x00\x05x" + BEHIND,
}


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    before = descriptors()
    yield
    check_descriptors(before)


def learn(*pieces: bytes, seconds: float = 60, ends: bool = False) -> tuple[Header, bytes]:
    """Receive a header that comes in pieces, each sent once all before has been taken."""

    async def run() -> tuple[Header, bytes]:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            work = asyncio.create_task(receive(ours, seconds))
            for piece in pieces:
                theirs.sendall(piece)
                while not work.done() and _has_more(ours):  # noqa: ASYNC110 - the loop takes it
                    await asyncio.sleep(0)
            if ends:
                theirs.shutdown(socket.SHUT_WR)
            found = await work
            return found, ours.recv(2**16)

    return asyncio.run(run())


def _has_more(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return False


def _halves(header: bytes) -> Sequence[tuple[bytes, ...]]:
    """Every way to cut a short header in two; a long one is cut at a few places."""
    places = range(1, len(header)) if len(header) < 2**8 else (1, 12, 15, 16, 17, len(header) - 1)
    return [(header[:at], header[at:] + BEHIND) for at in places]


@pytest.mark.parametrize("name", GOOD)
def test_headers(name: str) -> None:
    """What follows is left in the socket, in however many pieces the header comes."""
    raw, header = GOOD[name]
    for pieces in ((raw + BEHIND,), *_halves(raw)):
        assert learn(*pieces) == (header, BEHIND)
    assert learn(*(bytes([each]) for each in raw[:200]), raw[200:] + BEHIND) == (header, BEHIND)


@pytest.mark.parametrize("name", BAD)
def test_others(name: str) -> None:
    """Anything else is refused as soon as it shows."""
    with pytest.raises(ProxyHeaderError):
        learn(BAD[name])


@pytest.mark.parametrize("name", ["text", "binary"])
def test_cut(name: str) -> None:
    """A header that ends before its end is a stream that was cut; so is none at all."""
    raw, _ = GOOD[name]
    for at in range(len(raw)):
        with pytest.raises(Truncated):
            learn(raw[:at], ends=True)


@pytest.mark.parametrize("sent", [b"", b"PROXY TCP4 192", SIGNATURE + b"\x21\x11\x00\x0c"])
def test_slow(sent: bytes) -> None:
    """The time for it comes to an end."""
    with pytest.raises(DeadlineExceeded):
        learn(sent, seconds=0.05)
