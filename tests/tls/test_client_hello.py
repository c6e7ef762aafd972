"""Tests of client_hello."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL

from tlsify.codepoints import AlertDescription, ContentType
from tlsify.errors import PeerMisbehaved
from tlsify.tls.client_hello import (
    MAX_LENGTH,
    ClientHello,
    HelloCollector,
    decode_client_hello,
    shortest,
)
from tlsify.tls.record import HEADER_LENGTH, encode_record, split_records

RANDOM = bytes(range(32))
LABELS = st.from_regex(r"[a-z0-9_]([a-z0-9_-]{0,20}[a-z0-9_])?", fullmatch=True)
NAMES = st.lists(LABELS, min_size=1, max_size=5).map(".".join)
HELLOS = st.builds(
    ClientHello,
    server_name=st.none() | NAMES,
    alpn=st.lists(st.binary(min_size=1, max_size=20), max_size=4).map(tuple),
    max_fragment_length=st.none() | st.sampled_from([512, 1024, 2048, 4096]),
)


def vector(width: int, data: bytes) -> bytes:
    """Prefix bytes with their length."""
    return len(data).to_bytes(width, "big") + data


def extension(number: int, data: bytes) -> bytes:
    """Build one extension."""
    return number.to_bytes(2, "big") + vector(2, data)


def body(extensions: bytes | None, legacy_version: int = 0x0303) -> bytes:
    """Build a ClientHello's body around a block of extensions."""
    fixed = legacy_version.to_bytes(2, "big") + RANDOM
    fixed += vector(1, b"\x01" * 32) + vector(2, b"\x13\x01\xc0\x2f") + vector(1, b"\0")
    return fixed if extensions is None else fixed + vector(2, extensions)


def sni(name: bytes) -> bytes:
    """Build the extension that names a server."""
    return extension(0, vector(2, b"\0" + vector(2, name)))


def encode(hello: ClientHello) -> bytes:
    """Build the body that says what a decoded hello says."""
    block = extension(23, b"")
    if hello.server_name is not None:
        name = b"\0" + vector(2, hello.server_name.encode("ascii"))
        block += extension(0, vector(2, name))
    if hello.alpn:
        block += extension(16, vector(2, b"".join(vector(1, name) for name in hello.alpn)))
    if hello.max_fragment_length is not None:
        block += extension(1, bytes([hello.max_fragment_length.bit_length() - 9]))
    return body(block + extension(43, vector(1, b"\x03\x04\x03\x03")))


def message(hello_body: bytes) -> bytes:
    """Put the handshake header in front."""
    return b"\x01" + vector(3, hello_body)


@given(HELLOS)
def test_decode_what_was_encoded(hello: ClientHello) -> None:
    """Decoding gives back every field that was encoded."""
    assert decode_client_hello(encode(hello)) == hello


@given(st.binary(max_size=200))
def test_arbitrary_bytes(data: bytes) -> None:
    """Arbitrary bytes raise PeerMisbehaved and nothing else."""
    try:
        decode_client_hello(data)
    except PeerMisbehaved as error:
        assert error.alert in {AlertDescription.decode_error, AlertDescription.illegal_parameter}


@given(HELLOS, st.data())
def test_changed_bytes(hello: ClientHello, data: st.DataObject) -> None:
    """A valid hello with some bytes changed, or cut short, raises nothing else either."""
    changed = bytearray(encode(hello))
    for _ in range(3):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode_client_hello(bytes(changed[: data.draw(st.integers(0, len(changed)))]))
    except PeerMisbehaved as error:
        assert error.alert in {AlertDescription.decode_error, AlertDescription.illegal_parameter}


@given(HELLOS)
def test_every_truncation(hello: ClientHello) -> None:
    """A hello cut within its extensions is a decode_error at every byte."""
    whole = encode(hello)
    for end in range(len(body(None)) + 1, len(whole)):
        with pytest.raises(PeerMisbehaved) as caught:
            decode_client_hello(whole[:end])
        assert caught.value.alert is AlertDescription.decode_error


def test_hello_without_extensions() -> None:
    """A hello of TLS 1.1 or older may have no extensions at all."""
    assert decode_client_hello(body(None, 0x0302)) == ClientHello(None, (), None)


@pytest.mark.parametrize("code", [0, 5, 255])
def test_unknown_max_fragment_length(code: int) -> None:
    """An unknown code is left to OpenSSL, which refuses it."""
    assert decode_client_hello(body(extension(1, bytes([code])))).max_fragment_length is None


def test_server_name_in_capitals() -> None:
    """Host names are compared in lower case."""
    block = extension(0, vector(2, b"\0" + vector(2, b"EXAMPLE.org")))
    assert decode_client_hello(body(block)).server_name == "example.org"


def test_server_name_of_another_kind() -> None:
    """A name type that nobody defined is passed over."""
    names = b"\x07" + vector(2, b"what") + b"\0" + vector(2, b"example.org")
    assert decode_client_hello(body(extension(0, vector(2, names)))).server_name == "example.org"


def test_server_name_that_is_not_ascii() -> None:
    """Only A-labels are allowed in SNI (RFC 6066 3)."""
    block = extension(0, vector(2, b"\0" + vector(2, "exämple.org".encode())))
    with pytest.raises(PeerMisbehaved) as caught:
        decode_client_hello(body(block))
    assert caught.value.alert is AlertDescription.illegal_parameter


@pytest.mark.parametrize(
    "name",
    [
        "localhost",
        "www.example.org",
        "www.example.org.",
        "_dmarc.example.org",
        "a_b.example",
        "xn--exmple-cua.org",
        "r3---sn-x.example",
        "192.0.2.1",
        f"{'x' * 63}.example",
        ".".join(["x" * 63] * 3 + ["x" * 61]),
        ".".join(["x" * 63] * 3 + ["x" * 61]) + ".",
    ],
)
def test_host_names(name: str) -> None:
    """Names of LDH labels, or of underscores, are taken as they are."""
    assert decode_client_hello(body(sni(name.encode()))).server_name == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".example.org",
        "www..example.org",
        "example.org..",
        "../../etc/passwd",
        'x"y$(id)',
        "a b",
        " example.org",
        "*.example.org",
        "example.org/x",
        "example.org:443",
        "[2001:db8::1]",
        "2001:db8::1",
        "user@example.org",
        "a,b",
        "x;y",
        "x=y",
        "`id`",
        "-rf",
        "www.-x.org",
        "www.x-.org",
        "~",
        "\\",
        f"{'x' * 64}.example",
        ".".join(["x" * 63] * 4),
        "x" * 60_000,
    ],
)
def test_no_host_name(name: str) -> None:
    """What is none (RFC 6066 3) counts as if it had not been sent: a program might trust it."""
    hello = decode_client_hello(body(sni(name.encode()) + extension(16, b"\0\3\2h2")))
    assert (hello.server_name, hello.alpn) == (None, (b"h2",))


@pytest.mark.parametrize(
    "name", [b"\x00", b"example.org\x00", b"\x1b[2J", b"a\nb", b"\x7f", b"\xff"]
)
def test_server_name_that_is_not_printable(name: bytes) -> None:
    """What nobody takes for a name ends the handshake."""
    with pytest.raises(PeerMisbehaved, match="not printable") as caught:
        decode_client_hello(body(sni(name)))
    assert caught.value.alert is AlertDescription.illegal_parameter


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=80))
def test_any_server_name(name: str) -> None:
    """A name is safe as a word of a shell, a folder, a header or a row, or there is none."""
    found = decode_client_hello(body(sni(name.encode()))).server_name
    assert found is None or (
        found == name.lower()
        and set(found) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_.")
        and found[0] not in "-."
        and ".." not in found
    )


def test_openssls_own_hello() -> None:
    """The hello of a real client is read as that client was set up."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_alpn_protos([b"h2", b"http/1.1"])
    connection = SSL.Connection(context, None)
    connection.set_tlsext_host_name(b"example.org")
    connection.set_connect_state()
    with pytest.raises(SSL.WantReadError):
        connection.do_handshake()
    (record,) = split_records(connection.bio_read(2**16))
    hello = HelloCollector().feed(record[HEADER_LENGTH:])
    assert hello is not None
    assert hello.server_name == "example.org"
    assert hello.alpn == (b"h2", b"http/1.1")
    assert hello.max_fragment_length is None


@given(HELLOS, st.data())
def test_fragmented_hello(hello: ClientHello, data: st.DataObject) -> None:
    """However a hello is fragmented, it is given once, with its last byte."""
    rest = message(encode(hello))
    collector = HelloCollector()
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        found = collector.feed(rest[:size])
        rest = rest[size:]
        assert found == (None if rest else hello)


@given(HELLOS, st.data())
def test_shortest_hello(hello: ClientHello, data: st.DataObject) -> None:
    """What is to be waited for is there with the last byte, however the hello is fragmented."""
    rest, flight = message(encode(hello)), b""
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        flight += encode_record(ContentType.handshake, rest[:size])
        rest = rest[size:]
    assert shortest(flight) == len(flight)
    behind = data.draw(st.binary(max_size=9))
    assert shortest(flight + behind) == len(flight)
    cut = data.draw(st.integers(0, len(flight) - 1))
    assert cut < shortest(flight[:cut]) <= len(flight)
    assert shortest(flight[:cut]) >= shortest(flight[: cut // 2])


@given(st.binary(max_size=60))
def test_shortest_of_anything(received: bytes) -> None:
    """It is a number, and more than there is only if a hello may yet come."""
    found = shortest(received)
    assert found >= 0
    if found > len(received):
        assert received[:1] in {b"", b"\x16"}


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=4))
def test_arbitrary_fragments(fragments: list[bytes]) -> None:
    """Arbitrary fragments raise PeerMisbehaved and nothing else."""
    collector = HelloCollector()
    try:
        for fragment in fragments:
            collector.feed(fragment)
    except PeerMisbehaved as error:
        assert error.alert is not None


def test_another_message_first() -> None:
    """A handshake that does not start with a ClientHello is refused at its first byte."""
    with pytest.raises(PeerMisbehaved, match="message type 2") as caught:
        HelloCollector().feed(b"\x02")
    assert caught.value.alert is AlertDescription.unexpected_message


def test_longest_hello() -> None:
    """The length limit is refused as soon as the length is known, and not before."""
    collector = HelloCollector()
    assert collector.feed(b"\x01" + MAX_LENGTH.to_bytes(3, "big")) is None
    with pytest.raises(PeerMisbehaved) as caught:
        HelloCollector().feed(b"\x01" + (MAX_LENGTH + 1).to_bytes(3, "big"))
    assert caught.value.alert is AlertDescription.illegal_parameter


@pytest.mark.parametrize("first", [b"", b"\x01\x00"])
def test_empty_fragment(first: bytes) -> None:
    """An empty handshake fragment is refused wherever it comes (RFC 8446 5.1), or it never ends."""
    collector = HelloCollector()
    if first:
        assert collector.feed(first) is None
    with pytest.raises(PeerMisbehaved) as caught:
        collector.feed(b"")
    assert caught.value.alert is AlertDescription.unexpected_message


def test_alpn_without_a_name() -> None:
    """A protocol of no bytes is a decode_error (RFC 7301 3.1)."""
    protocols = vector(2, vector(1, b"h2") + vector(1, b""))
    with pytest.raises(PeerMisbehaved, match="without a name") as caught:
        decode_client_hello(body(extension(16, protocols)))
    assert caught.value.alert is AlertDescription.decode_error
