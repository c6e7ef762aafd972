"""Tests of presented: what is read of a subjectAltName, whatever else is in it."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtensionOID
from hypothesis import given
from hypothesis import strategies as st

from tests.certificates import named, raw, with_extensions
from tlsify.credentials.parse import encoded
from tlsify.credentials.presented import Presented, read
from tlsify.names import IdKind

DNS = b"\x82\x01a"  # the dNSName "a"
SRV = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.7")


def listed(*entries: bytes) -> x509.Certificate:
    """Make a certificate with these entries, each in DER, in its subjectAltName."""
    content = b"".join(entries)
    assert len(content) < 128
    return raw(bytes([0x30, len(content)]) + content)


def names_of(found: x509.Certificate) -> tuple[Presented, ...]:
    """Read a certificate's DER."""
    return read(encoded(found))


def spelled(found: x509.Certificate) -> list[str]:
    """Return what is read of it."""
    return [f"{name.kind.value}:{name.text}" for name in names_of(found)]


def test_every_kind() -> None:
    """All that can be an identity is read, in its order."""
    names = (
        x509.DNSName("*.Example.org"),
        x509.RFC822Name("a@example.org"),
        x509.UniformResourceIdentifier("sip:example.org"),
        x509.IPAddress(ip_address("192.0.2.1")),
        x509.DirectoryName(x509.Name([])),
        x509.OtherName(SRV, b"\x16\x04_a.b"),
        x509.IPAddress(ip_address("2001:db8::1")),
        x509.RegisteredID(SRV),
        x509.DNSName("example.net"),
    )
    assert spelled(named(*names)) == [
        "dns:*.Example.org",
        "uri:sip:example.org",
        "ip:192.0.2.1",
        "srv:_a.b",
        "ip:2001:db8::1",
        "dns:example.net",
    ]


def test_no_list() -> None:
    """Without the extension, or with two of them, there is no name."""
    assert names_of(with_extensions()) == ()
    assert names_of(with_extensions(x509.BasicConstraints(ca=False, path_length=None))) == ()


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param(b"\x82\x03\xc3\xbca", id="name in UTF-8"),
        pytest.param(b"\x82\x00", id="empty name"),
        pytest.param(b"\x82\x01\x00", id="NUL"),
        pytest.param(b"\x82\x01*", id="asterisk"),
        pytest.param(b"\x81\x04\xc3\xbc@a", id="mail address in UTF-8"),
        pytest.param(b"\x86\x01a", id="URI without a scheme"),
        pytest.param(b"\x86\x02\xc3\xbc", id="URI in UTF-8"),
        pytest.param(b"\x87\x03\x01\x02\x03", id="address of three bytes"),
        pytest.param(b"\x87\x00", id="address of none"),
        pytest.param(b"\xa3\x02\x30\x00", id="x400Address"),
        pytest.param(b"\xa5\x02\x30\x00", id="ediPartyName"),
        pytest.param(b"\xa4\x02\x30\x00", id="empty directoryName"),
        pytest.param(b"\x88\x01\xff", id="identifier that has no end"),
        pytest.param(b"\xa0\x02\x05\x00", id="otherName of nothing"),
        pytest.param(b"\xa0\x00", id="otherName that is empty"),
        pytest.param(
            b"\xa0\x10\x06\x08\x2b\x06\x01\x05\x05\x07\x08\x07\xa0\x04\x0c\x02_a", id="SRV in UTF-8"
        ),
        pytest.param(b"\x8a\x01a", id="a kind that does not exist"),
    ],
)
def test_odd_entry(odd: bytes) -> None:
    """What cannot be read, or used, spoils nothing before or behind it."""
    found = spelled(listed(DNS, odd, b"\x87\x04\x7f\x00\x00\x01"))
    assert (found[0], found[-1]) == ("dns:a", "ip:127.0.0.1")
    assert len(found) <= 3


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x30\x00", id="no names"),
        pytest.param(b"\x30\x04" + DNS, id="longer than it is"),
        pytest.param(b"\x30\x03\x82\x02a", id="half of an entry"),
        pytest.param(b"\x30\x05" + DNS + b"\x82\x05", id="half of the second"),
        pytest.param(b"\x30\x80" + DNS + b"\x00\x00", id="without a length"),
        pytest.param(b"\x31\x03" + DNS, id="a set"),
        pytest.param(b"\x30\x03" + DNS + b"\x30\x03" + DNS, id="two lists"),
        pytest.param(b"\x30\x04\x9f\x02\x01a", id="identifier of two octets"),
    ],
)
def test_no_list_at_all(value: bytes) -> None:
    """Where the list itself is broken nobody can say what belongs to it."""
    assert names_of(raw(value)) == ()


def test_long_list() -> None:
    """Lengths of several octets are read."""
    names = [f"host{number}.example.org" for number in range(300)]
    assert spelled(named(*map(x509.DNSName, names))) == [f"dns:{name}" for name in names]


@pytest.mark.parametrize("value", [b"\x82\x01\x1b", b"\x82\x03a\nb", b"\x82\x01\xff"])
def test_nothing_for_a_terminal(value: bytes) -> None:
    """What is shown can be printed."""
    (name,) = names_of(listed(value))
    assert name.kind is IdKind.DNS
    assert name.text.isprintable()


@given(st.binary(max_size=40) | st.binary(max_size=30).map(lambda v: b"\x30" + bytes([len(v)]) + v))
def test_anything(value: bytes) -> None:
    """Whatever the extension holds, there is an answer that can be shown."""
    assert all(name.text.isprintable() for name in names_of(raw(value)))


def test_extension_beside_it() -> None:
    """An extension that nobody can read is no reason not to read this one."""
    broken = x509.UnrecognizedExtension(ExtensionOID.KEY_USAGE, b"\xff")
    names = x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"\x30\x03" + DNS)
    assert spelled(with_extensions(broken, names)) == ["dns:a"]
