"""Tests of identity."""

from __future__ import annotations

import datetime as dt
import ipaddress
import subprocess
import sys

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtensionOID, NameOID
from hypothesis import given
from hypothesis import strategies as st
from service_identity import hazmat

from tlsify.config import IdKind, ReferenceIdentifier
from tlsify.errors import ConfigError
from tlsify.tls.identity import check_identifiers, compile_identifiers, matches, presented, presents

KEY = ec.generate_private_key(ec.SECP256R1())
NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cn.example.org")])
DAY = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
SRV_NAME = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.7")


def certificate(*extensions: x509.ExtensionType) -> x509.Certificate:
    """Make a certificate with these extensions only."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(NAME)
        .issuer_name(NAME)
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(DAY)
        .not_valid_after(DAY + dt.timedelta(days=1))
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(KEY, hashes.SHA256())


def named(*names: x509.GeneralName) -> x509.Certificate:
    """Make a certificate for these names."""
    return certificate(x509.SubjectAlternativeName(names))


def raw(value: bytes) -> x509.Certificate:
    """Make a certificate whose subjectAltName holds these bytes."""
    return certificate(x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, value))


def accepts(found: x509.Certificate, *identities: str) -> bool:
    """Match a certificate against identifiers in their command line spelling."""
    wanted = tuple(ReferenceIdentifier.parse(identity) for identity in identities)
    told = presents(found.public_bytes(Encoding.DER), wanted)
    assert told == matches(found, compile_identifiers(wanted))
    return told


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
        ("127.0.0.1", "127.0.0.1.example.org", False),
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
    ],
)
def test_ip(address: str, wanted: str, *, expected: bool) -> None:
    """Addresses are compared as numbers."""
    found = named(x509.IPAddress(ipaddress.ip_address(address)))
    assert accepts(found, f"ip:{wanted}") is expected


def test_address_written_as_a_dns_name() -> None:
    """An address in a dNSName is no IP-ID."""
    assert not accepts(named(x509.DNSName("192.0.2.1")), "ip:192.0.2.1")


def test_srv() -> None:
    """An SRV-ID fits service and name, and nothing else."""
    found = named(_srv("_mail.example.net"))
    assert accepts(found, "srv:_mail.example.net")
    assert not accepts(found, "srv:_imap.example.net")
    assert not accepts(found, "srv:_mail.example.org")
    assert not accepts(found, "dns:example.net")


def test_uri() -> None:
    """A URI-ID fits scheme and host, and nothing else."""
    found = named(x509.UniformResourceIdentifier("sip:voice.example.edu"))
    assert accepts(found, "uri:sip:voice.example.edu")
    assert not accepts(found, "uri:https:voice.example.edu")
    assert not accepts(found, "uri:sip:example.edu")


def test_one_of_several_is_enough() -> None:
    """The certificate has to present one of the identifiers, not all of them."""
    found = named(x509.DNSName("b.example.org"))
    assert accepts(found, "dns:a.example.org", "ip:192.0.2.1", "dns:b.example.org")
    assert not accepts(found, "dns:a.example.org", "ip:192.0.2.1")


def test_nothing_accepted() -> None:
    """An empty list accepts nobody."""
    assert not matches(named(x509.DNSName("example.org")), ())


def test_common_name() -> None:
    """The common name is no identity (RFC 9525 2)."""
    assert not accepts(certificate(), "dns:cn.example.org")
    assert not accepts(named(x509.DNSName("other.example.org")), "dns:cn.example.org")


def test_other_names_beside_the_right_one() -> None:
    """Kinds of name that nobody asked for do no harm."""
    names = (
        x509.RFC822Name("a@example.org"),
        x509.DNSName("example.org"),
        x509.RegisteredID(SRV_NAME),
    )
    assert accepts(named(*names), "dns:example.org")


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x30\x00", id="no names"),
        pytest.param(b"\x30\x03\x82\x05a", id="cut short"),
        pytest.param(b"\x30\x06\x87\x04\x01\x02\x03", id="inconsistent"),
        pytest.param(b"\x30\x05\x87\x03\x01\x02\x03", id="address of three bytes"),
        pytest.param(b"\x30\x04\xa3\x02\x30\x00", id="x400Address"),
        pytest.param(b"\x30\x04\xa5\x02\x30\x00", id="ediPartyName"),
        pytest.param(b"\x30\x03\x82\x01\xff", id="name that is not ASCII"),
        pytest.param(b"\x30\x02\x82\x00", id="empty name"),
        pytest.param(b"\x30\x03\x82\x01\x00", id="NUL"),
        pytest.param(b"\x30\x03\x86\x01a", id="URI without a scheme"),
    ],
)
def test_malformed_names(value: bytes) -> None:
    """A certificate whose names do not parse is nobody's, without an exception."""
    found = raw(value)
    assert not accepts(found, "dns:example.org", "ip:192.0.2.1")
    assert all(name.isprintable() for name in presented(found))


@given(st.binary(max_size=40) | st.binary(max_size=30).map(lambda v: b"\x30" + bytes([len(v)]) + v))
def test_arbitrary_names(value: bytes) -> None:
    """Whatever the extension holds, matching and listing give an answer."""
    found = raw(value)
    assert not accepts(found, "dns:example.org")
    presented(found)


def test_malformed_srv_name() -> None:
    """An otherName that says SRV and holds something else refuses the certificate."""
    broken = x509.OtherName(SRV_NAME, b"\x02\x01\x05")
    assert not accepts(named(x509.DNSName("example.org"), broken), "dns:example.org")


def test_presented_names() -> None:
    """The message for the user lists what the certificate does present."""
    found = named(
        x509.DNSName("example.org"),
        x509.IPAddress(ipaddress.ip_address("192.0.2.1")),
        x509.UniformResourceIdentifier("sip:example.org"),
    )
    assert presented(found) == ("dns:example.org", "ip:192.0.2.1", "uri:sip:example.org")
    assert presented(certificate()) == ()


@pytest.mark.parametrize(
    "identity",
    [
        ReferenceIdentifier(IdKind.IP, "example.org"),
        ReferenceIdentifier(IdKind.IP, ""),
        ReferenceIdentifier(IdKind.DNS, ""),
        ReferenceIdentifier(IdKind.DNS, "*.example.org"),
        ReferenceIdentifier(IdKind.DNS, "exa mple.org"),
        ReferenceIdentifier(IdKind.DNS, "192.0.2.1"),
        ReferenceIdentifier(IdKind.SRV, "mail.example.org"),
        ReferenceIdentifier(IdKind.SRV, "_mail"),
        ReferenceIdentifier(IdKind.URI, "example.org"),
    ],
    ids=str,
)
def test_invalid_identifier(identity: ReferenceIdentifier) -> None:
    """An identifier that is not valid for its kind is a ConfigError before anything is sent."""
    with pytest.raises(ConfigError, match=r"is not a valid \w+-ID"):
        compile_identifiers([identity])


@given(st.sampled_from(IdKind), st.text(max_size=20))
def test_any_identifier(kind: IdKind, name: str) -> None:
    """No name raises anything but ConfigError."""
    try:
        compile_identifiers([ReferenceIdentifier(kind, name)])
    except ConfigError as error:
        assert error.hint  # noqa: PT017 - or nothing is raised


def test_name_that_needs_a_library_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the idna package a name in Unicode is a ConfigError, not an ImportError."""
    monkeypatch.setattr(hazmat, "idna", None)
    with pytest.raises(ConfigError):
        compile_identifiers([ReferenceIdentifier(IdKind.DNS, "groß.example")])


@given(
    st.sampled_from(IdKind),
    st.one_of(
        st.text(max_size=12),
        st.from_regex(r"[0-9a-zA-Z_.:-]{0,12}", fullmatch=True),
        st.ip_addresses().map(str),
    ),
)
def test_check_without_the_library(kind: IdKind, name: str) -> None:
    """What is checked early, mostly by looking at it, is what the library takes later."""
    identities = [ReferenceIdentifier(kind, name)]
    try:
        compile_identifiers(identities)
    except ConfigError:
        with pytest.raises(ConfigError):
            check_identifiers(identities)
    else:
        check_identifiers(identities)


def test_library_is_imported_late() -> None:
    """For a plain name or an address nothing is imported before there is a certificate."""
    program = (
        "import sys; from tlsify.tls.identity import check_identifiers;"
        "from tlsify.config import ReferenceIdentifier as R;"
        "check_identifiers(map(R.for_host, ('www.example.org', '192.0.2.1', '2001:db8::1')));"
        "print('service_identity' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert ran.stdout.strip() == "False"
