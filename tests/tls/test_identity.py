"""Tests of identity."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from service_identity import CertificateError, hazmat

from tests.certificates import named, raw, with_extensions
from tlsify.errors import ConfigError
from tlsify.names import IdKind, ReferenceIdentifier
from tlsify.tls.identity import presented, presents

if TYPE_CHECKING:
    from collections.abc import Callable

SRV_NAME = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.7")


def accepts(found: x509.Certificate, *identities: str) -> bool:
    """Match a certificate against identifiers in their command line spelling."""
    wanted = tuple(ReferenceIdentifier.parse(each).canonical() for each in identities)
    return presents(found.public_bytes(Encoding.DER), wanted)


def listed(found: x509.Certificate) -> tuple[str, ...]:
    """List a certificate's identifiers for a message."""
    return presented(found.public_bytes(Encoding.DER))


def _srv(name: str) -> x509.OtherName:
    return x509.OtherName(SRV_NAME, bytes([0x16, len(name)]) + name.encode("ascii"))


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("example.org", "example.org", True),
        ("example.org", "EXAMPLE.org", True),
        ("EXAMPLE.ORG", "example.org", True),
        ("example.org", "example.org.evil", False),
        ("example.org", "www.example.org", False),
        ("www.example.org", "example.org", False),
        ("*.example.org", "www.example.org", True),
        ("*.example.org", "example.org", False),
        ("*.example.org", "a.b.example.org", False),
        ("*.org", "example.org", False),
        ("w*.example.org", "www.example.org", False),
        ("www.*.org", "www.example.org", False),
        ("*", "example", False),
        ("xn--strae-oqa.de", "straße.de", True),
        ("xn--strae-oqa.de", "XN--Strae-OQA.de", True),
        ("*.xn--bcher-kva.example", "www.bücher.example", True),
        ("127.0.0.1", "127.0.0.1.example.org", False),
        ("*.EXAMPLE.org", "www.Example.org", True),
        ("*.example.org", "127.example.org", True),
        ("1*.example.org", "127.example.org", False),
        ("my_service.example.org", "my_service.example.org", True),
        ("*.example.org", "my_service.example.org", True),
        ("my-service.example.org", "my_service.example.org", False),
        ("localhost", "localhost", True),
        ("*.localhost", "localhost", False),
    ],
)
def test_dns(pattern: str, name: str, *, expected: bool) -> None:
    """A wildcard stands for exactly one whole leftmost label (RFC 9525 6.3)."""
    assert accepts(named(x509.DNSName(pattern)), f"dns:{name}") is expected


@pytest.mark.parametrize(
    ("address", "wanted", "expected"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:0db8:0::1", True),
        ("2001:db8::1", "2001:db8::2", False),
        ("::ffff:192.0.2.1", "192.0.2.1", False),
        ("192.0.2.1", "::ffff:192.0.2.1", False),
        ("::ffff:192.0.2.1", "::FFFF:c000:201", True),
        ("2001:db8::1", "2001:DB8:0:0:0:0:0:1", True),
        ("2001:db8::1", "[2001:db8::0.0.0.1]", True),
        ("fe80::1", "fe80::1%eth0", True),
    ],
)
def test_ip(address: str, wanted: str, *, expected: bool) -> None:
    """Addresses are compared as numbers."""
    found = named(x509.IPAddress(ipaddress.ip_address(address)))
    assert accepts(found, f"ip:{wanted}") is expected


def test_address_written_as_a_dns_name() -> None:
    """An address in a dNSName is no IP-ID."""
    assert not accepts(named(x509.DNSName("192.0.2.1")), "ip:192.0.2.1")


@pytest.mark.parametrize("name", ["*.0.2.1", "192.0.2.*", "*", "2001:db8::1", "2001:db8::*"])
def test_pattern_for_an_address(name: str) -> None:
    """Nor does a wildcard stand for a part of one."""
    assert not accepts(named(x509.DNSName(name)), "ip:192.0.2.1", "ip:2001:db8::1")


def test_srv() -> None:
    """An SRV-ID fits service and name, and nothing else."""
    found = named(_srv("_mail.example.net"))
    assert accepts(found, "srv:_mail.example.net")
    assert not accepts(found, "srv:_imap.example.net")
    assert not accepts(found, "srv:_mail.example.org")
    assert not accepts(found, "dns:example.net")


@pytest.mark.parametrize("spelled", ["sip:voice.example.edu", "SIP:Voice.Example.edu"])
@pytest.mark.parametrize("slashes", ["", "//"])
def test_uri(spelled: str, slashes: str) -> None:
    """A URI-ID fits scheme and host, and nothing else."""
    found = named(x509.UniformResourceIdentifier(spelled.replace(":", f":{slashes}")))
    for form in ("sip:voice.example.edu", "sip://voice.example.edu", "sip://voice.example.edu/"):
        assert accepts(found, f"uri:{form}")
    for other in ("https:voice.example.edu", "https://voice.example.edu", "sip:example.edu"):
        assert not accepts(found, f"uri:{other}")
    assert not accepts(found, "dns:voice.example.edu")
    assert not listed(found)[0].endswith(" (unusable)")


@pytest.mark.parametrize(
    "rest",
    [
        *("//user@a.example", "user@a.example", "//a.example:443", "//a.example/way", "a.example/"),
        *("//a.example?b", "//a.example#b", "//a.example//", "///a.example", "/a.example"),
        *("//*.example", "//a.example.", "//192.0.2.1", "//", "a.example;b=c", "//a.example/@b"),
    ],
)
def test_uri_of_more_than_a_host(rest: str) -> None:
    """What a URI names at a host, such as a user, is not the host (RFC 5922 7.1)."""
    found = named(x509.UniformResourceIdentifier(f"sip:{rest}"))
    assert not accepts(found, "uri:sip:a.example", "uri:sip:b", "dns:a.example")
    assert listed(found) == (f"uri:sip:{rest} (unusable)",)


def test_one_of_several_is_enough() -> None:
    """The certificate has to present one of the identifiers, not all of them."""
    found = named(x509.DNSName("b.example.org"))
    assert accepts(found, "dns:a.example.org", "ip:192.0.2.1", "dns:b.example.org")
    assert not accepts(found, "dns:a.example.org", "ip:192.0.2.1")


def test_nothing_accepted() -> None:
    """An empty list accepts nobody."""
    assert not accepts(named(x509.DNSName("example.org")))


def test_common_name() -> None:
    """The common name is no identity (RFC 9525 2)."""
    assert not accepts(with_extensions(), "dns:cn.example.org")
    assert not accepts(named(x509.DNSName("other.example.org")), "dns:cn.example.org")


def test_other_names_beside_the_right_one() -> None:
    """Kinds of name that nobody asked for do no harm."""
    names = (
        x509.RFC822Name("a@example.org"),
        x509.DNSName("example.org"),
        x509.RegisteredID(SRV_NAME),
    )
    assert accepts(named(*names), "dns:example.org")


@given(st.binary(max_size=40) | st.binary(max_size=30).map(lambda v: b"\x30" + bytes([len(v)]) + v))
def test_arbitrary_names(value: bytes) -> None:
    """Whatever the extension holds, matching and listing give an answer."""
    found = raw(value)
    assert not accepts(found, "dns:example.org")
    listed(found)


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param(b"\x82\x01*", id="*"),
        pytest.param(b"\x82\x05*.org", id="*.org"),
        pytest.param(b"\x82\x07*.*.org", id="*.*.org"),
        pytest.param(b"\x82\x0aw.*.org.uk", id="w.*.org.uk"),
        pytest.param(b"\x82\x00", id="empty"),
        pytest.param(b"\x82\x01 ", id="blank"),
        pytest.param(b"\x82\x01\x00", id="NUL"),
        pytest.param(b"\x82\x09192.0.2.1", id="address as a name"),
        pytest.param(b"\x82\x05\xc3\xbc.de", id="UTF-8"),
        pytest.param(b"\x87\x03\x01\x02\x03", id="address of three bytes"),
        pytest.param(b"\x87\x08\x7f\x00\x00\x00\xff\x00\x00\x00", id="network"),
        pytest.param(b"\x86\x01a", id="URI without a scheme"),
        pytest.param(b"\x86\x0fhttps://a.b:443", id="URI with a port"),
        pytest.param(b"\x86\x05a:*.b", id="URI with a wildcard"),
        pytest.param(b"\xa0\x0e\x06\x08\x2b\x06\x01\x05\x05\x07\x08\x07\xa0\x02\x16\x00", id="SRV"),
    ],
)
def test_unusable_entry(odd: bytes) -> None:
    """It is nobody's, it spoils none of those beside it, and the message says which it is."""
    good = b"\x82\x0bexample.org\x87\x04\xc0\x00\x02\x02"
    found = raw(bytes([0x30, len(odd) + len(good)]) + odd + good)
    assert accepts(found, "dns:example.org")
    assert accepts(found, "ip:192.0.2.2")
    assert not accepts(found, "dns:a.org", "dns:w.a.org.uk", "ip:192.0.2.1", "uri:a:a.b", "dns:b")
    remarks = [name.endswith(" (unusable)") for name in listed(found)]
    assert remarks == [True, False, False]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.example.org", True),
        ("*.bücher.example", False),
        ("x*.example.org", False),
        ("*.org", False),
    ],
)
def test_wildcard_for_an_a_label(pattern: str, *, expected: bool) -> None:
    """A wildcard stands for any whole label, an A-label as well (RFC 9525 6.3)."""
    found = named(x509.DNSName(pattern.encode("idna").decode()))
    assert accepts(found, "dns:xn--strae-oqa.example.org") is expected


def test_presented_names() -> None:
    """The message for the user lists what the certificate does present."""
    found = named(
        x509.DNSName("example.org"),
        x509.IPAddress(ipaddress.ip_address("192.0.2.1")),
        x509.UniformResourceIdentifier("sip:example.org"),
    )
    assert listed(found) == ("dns:example.org", "ip:192.0.2.1", "uri:sip:example.org")
    assert listed(with_extensions()) == ()


@given(
    st.sampled_from(IdKind),
    st.one_of(
        st.text(max_size=12),
        st.from_regex(r"[0-9a-zA-Z_.:-]{0,12}", fullmatch=True),
        st.ip_addresses().map(str),
    ),
)
def test_every_identity_can_be_presented(kind: IdKind, name: str) -> None:
    """A certificate with the very name of an identity that a configuration takes presents it."""
    try:
        identity = ReferenceIdentifier(kind, name).canonical()
    except ConfigError:
        return
    name = identity.name
    entries: dict[IdKind, Callable[[], x509.GeneralName]] = {
        IdKind.DNS: lambda: x509.DNSName(name),
        IdKind.IP: lambda: x509.IPAddress(ipaddress.ip_address(name)),
        IdKind.SRV: lambda: _srv(name),
        IdKind.URI: lambda: x509.UniformResourceIdentifier(name),
    }
    found = named(entries[kind]())
    assert accepts(found, str(identity))
    assert not listed(found)[0].endswith(" (unusable)")


_LABELS = st.sampled_from(("a", "b", "A", "*", "a*", "*a", "b-a", "_a", "127", "0", "", "org"))


@given(st.lists(_LABELS, min_size=1, max_size=4), st.lists(_LABELS, min_size=1, max_size=4))
def test_as_service_identity(pattern: list[str], name: list[str]) -> None:
    """That library comes to the same result by comparing labels, for names of any form.

    A-labels are left out: it has no wildcard for them yet.
    """
    try:
        identity = ReferenceIdentifier(IdKind.DNS, ".".join(name)).canonical()
    except ConfigError:
        return
    entry = ".".join(pattern).encode("ascii")
    found = raw(bytes([0x30, len(entry) + 2, 0x82, len(entry)]) + entry)
    try:
        expected = hazmat.DNS_ID(identity.name).verify(hazmat.DNSPattern.from_bytes(entry))
    except CertificateError:
        expected = False
    assert accepts(found, str(identity)) is expected


def test_version_without_extensions() -> None:
    """What calls itself another version than 3 presents nothing (RFC 5280 4.1.2.1)."""
    good = named(x509.DNSName("example.org")).public_bytes(Encoding.DER)
    version, identities = b"\xa0\x03\x02\x01\x02", (ReferenceIdentifier.for_host("example.org"),)
    assert presents(good, identities)
    for number in (0, 1, 3):
        assert not presents(good.replace(version, version[:-1] + bytes([number]), 1), identities)
