"""Tests of the PROXY protocol's header."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlsify.passing.proxy_protocol import (
    SIGNATURE,
    Client,
    Field,
    Header,
    Kind,
    Ssl,
    decode,
    encode,
)

_PORT = st.integers(0, 65535)
_ENDS = st.one_of(
    st.tuples(*[st.tuples(st.ip_addresses(v=4).map(str), _PORT)] * 2),
    st.tuples(
        *[st.tuples(st.just("2001:db8::1"), _PORT, st.just(0), st.just(0))] * 2,
    ),
    st.tuples(*[st.text("abc/.", min_size=1, max_size=100)] * 2),
    st.just((None, None)),
)
_FIELDS = st.lists(st.builds(Field, st.integers(0, 255), st.binary(max_size=300)), max_size=8).map(
    tuple
)
IPV4 = Header(("192.0.2.1", 1025), ("198.51.100.2", 443))


def test_ipv4_byte_by_byte() -> None:
    """The header is what proxy-protocol.txt, section 2.2, says."""
    header = IPV4._replace(fields=(Field(Kind.ALPN, b"h2"),))
    assert encode(header) == (
        b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a"
        b"\x21\x11\x00\x11"
        b"\xc0\x00\x02\x01\xc6\x33\x64\x02\x04\x01\x01\xbb"
        b"\x01\x00\x02h2"
    )


def test_ipv6_byte_by_byte() -> None:
    """Two addresses of 16 bytes, then two ports."""
    raw = encode(Header(("2001:db8::1", 1, 0, 0), ("fe80::2%eth0", 2, 0, 3)))
    assert raw[12:16] == b"\x21\x21\x00\x24"
    assert raw[16:20] == b"\x20\x01\x0d\xb8"
    assert raw[32:34] == b"\xfe\x80"
    assert raw[48:] == b"\x00\x01\x00\x02"


def test_ssl_byte_by_byte() -> None:
    """The TLS field holds fields of its own."""
    value = Ssl(Client.SSL | Client.CERT_CONN, 0, (Field(Kind.SSL_VERSION, b"TLSv1.3"),)).encode()
    assert value == b"\x03\x00\x00\x00\x00\x21\x00\x07TLSv1.3"


def test_ipv4_in_ipv6_is_ipv4() -> None:
    """A socket for both families spells IPv4 addresses in IPv6; nobody else wants that."""
    header = Header(("::ffff:192.0.2.1", 1025, 0, 0), ("::ffff:198.51.100.2", 443, 0, 0))
    assert decode(encode(header))[0] == IPV4


def test_ends_of_two_families_are_unknown() -> None:
    """There is one family for both ends."""
    for peer, local in (
        (("192.0.2.1", 1), "/path"),
        (None, ("192.0.2.1", 1)),
        (("host", 1), ("192.0.2.1", 1)),
    ):
        assert decode(encode(Header(peer, local)))[0] == Header(None, None)


def test_one_end_in_ipv6_makes_both() -> None:
    """An IPv4 address can be spelled in IPv6."""
    (header, _) = decode(encode(Header(("2001:db8::1", 1), ("192.0.2.1", 2))))
    assert header.local == ("::ffff:192.0.2.1", 2, 0, 0)


def test_unix_peers() -> None:
    """Paths fill their room; abstract names begin with NUL; who connects has none."""
    raw = encode(Header("", b"\0name"))
    assert raw[12:16] == b"\x21\x31\x00\xd8"
    header, size = decode(raw)
    assert size == len(raw)
    assert header.local == b"\0name".ljust(108, b"\0")
    assert not header.peer


def test_too_much() -> None:
    """What does not fit is refused, not cut."""
    for size in (2**16, 2**16 - 2):
        with pytest.raises(ValueError, match="too much"):
            encode(Header(None, None, (Field(Kind.SSL, bytes(size)),)))


def test_local_command_says_nothing() -> None:
    """A health check has no addresses that count, whatever stands there."""
    raw = bytearray(encode(IPV4._replace(fields=(Field(Kind.ALPN, b"h2"),))))
    raw[12] = 0x20
    assert decode(raw) == (Header(None, None), len(raw))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "cut short"),
        (SIGNATURE, "cut short"),
        (b"GET / HTTP/1.1\r\n", "no PROXY header"),
        (SIGNATURE + b"\x11\x11\x00\x00", "no PROXY header"),
        (SIGNATURE + b"\x22\x11\x00\x00", "no PROXY header"),
        (SIGNATURE + b"\x21\x11\x00\x0b" + bytes(11), "addresses cut short"),
        (SIGNATURE + b"\x21\x77\x00\x00", "address family"),
        (SIGNATURE + b"\x21\x00\x00\x05" + bytes(4), "cut short"),
        (SIGNATURE + b"\x21\x00\x00\x02" + bytes(2), "field cut short"),
        (SIGNATURE + b"\x21\x00\x00\x03\x01\x00\x01", "beyond the end"),
    ],
)
def test_malformed(raw: bytes, message: str) -> None:
    """Each way of being wrong is told."""
    with pytest.raises(ValueError, match=message):
        decode(raw)


def test_malformed_ssl() -> None:
    """The field inside can be wrong as well."""
    for value in (b"\x01\0\0\0", b"\x01\0\0\0\0\x21\0\x09short"):
        with pytest.raises(ValueError, match=r"cut short|beyond"):
            Ssl.decode(value)


@given(ends=_ENDS, fields=_FIELDS, data=st.binary(max_size=20))
def test_round_trip(ends: tuple[object, object], fields: tuple[Field, ...], data: bytes) -> None:
    """What was written is read again, and what follows is left alone."""
    raw = encode(Header(*ends, fields))
    assert decode(raw + data) == (Header(*ends, fields), len(raw))


@given(
    client=st.integers(0, 7).map(Client),
    verify=st.integers(0, 2**32 - 1),
    fields=_FIELDS,
)
def test_ssl_round_trip(client: Client, verify: int, fields: tuple[Field, ...]) -> None:
    """So is the field of TLS."""
    assert Ssl.decode(Ssl(client, verify, fields).encode()) == Ssl(client, verify, fields)


@given(raw=st.one_of(st.binary(max_size=400), st.binary(max_size=400).map(SIGNATURE.__add__)))
def test_any_bytes(raw: bytes) -> None:
    """Whatever comes is a header, or a ValueError."""
    for read in (decode, Ssl.decode):
        try:
            read(raw)
        except ValueError:
            continue


@given(header=st.builds(Header, st.just(("::1", 1)), st.just(("::1", 2)), _FIELDS), cut=st.data())
def test_cut_anywhere(header: Header, cut: st.DataObject) -> None:
    """A header that is not whole is no header."""
    raw = encode(header)
    with pytest.raises(ValueError, match="cut short"):
        decode(raw[: cut.draw(st.integers(0, len(raw) - 1))])
