"""Tests of names: one canonical form, whatever people type."""

from __future__ import annotations

import socket
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlsify.errors import ConfigError
from tlsify.names import (
    IdKind,
    ReferenceIdentifier,
    canonical,
    is_ip_address,
    to_look_up,
    to_unicode,
)

# What people type; what is sent and compared; what is looked up, if that is another thing.
TYPED = [
    ("example.org", "example.org", None),
    ("EXAMPLE.Org", "example.org", "EXAMPLE.Org"),
    ("localhost", "localhost", None),
    ("www.example.org.", "www.example.org", "www.example.org."),
    ("localhost.", "localhost", "localhost"),
    ("my_service", "my_service", None),
    ("-a-.example", "-a-.example", None),
    ("xn--strae-oqa.example", "xn--strae-oqa.example", None),
    ("XN--STRAE-OQA.example", "xn--strae-oqa.example", "XN--STRAE-OQA.example"),
    ("straße.example", "xn--strae-oqa.example", "xn--strae-oqa.example"),
    ("STRASSE.example", "strasse.example", "STRASSE.example"),
    ("BÜCHER.example", "xn--bcher-kva.example", "xn--bcher-kva.example"),
    ("bu\u0308cher.example", "xn--bcher-kva.example", "xn--bcher-kva.example"),
    ("bücher.example.", "xn--bcher-kva.example", "xn--bcher-kva.example."),
    ("bücher。example。", "xn--bcher-kva.example", "xn--bcher-kva.example."),
    ("βόλος.example", "xn--nxasmm1c.example", "xn--nxasmm1c.example"),
    ("\uff45xample.org", "example.org", "example.org"),
    ("日本語.jp", "xn--wgv71a119e.jp", "xn--wgv71a119e.jp"),
    ("192.0.2.1", "192.0.2.1", None),
    ("2001:DB8:0::1", "2001:db8::1", "2001:DB8:0::1"),
    ("[2001:db8::1]", "2001:db8::1", "2001:db8::1"),
    ("fe80::1%eth0", "fe80::1", "fe80::1%eth0"),
    ("FE80::1%25", "fe80::1", "FE80::1%25"),
    ("[fe80::1%lo]", "fe80::1", "fe80::1%lo"),
]
WRONG = [
    *(
        "",
        ".",
        "..",
        "a..b",
        ".a",
        "a..",
        "exa mple.org",
        " a",
        "a\n",
        "a\0",
        "a/b",
        "a@b",
        "*.a.org",
    ),
    *("https://example.org", "example.org:443", "[example.org]", "[::1", "::1]", "::g", "1:2"),
    *("127.1", "1.2.3", "2130706433", "0x7f000001", "0x7f.0.0.1", "1.2.3.4.5", "01.2.3.4", "a.1"),
    *("256.0.0.1", "192.0.2.1.", "192.0.2.1%eth0", "%eth0", "a%b", "a" * 64, "a." * 127 + "a"),
    *(
        "i❤.ws",
        "a_b.ü",
        "-ü.de",
        "xn--ü.de",
        "ü..de",
        "\uff11\uff12\uff17.0.0.1",
        "ü" * 64,
        "ü." * 127 + "a",
    ),
    *("\u202e.org", "\u200d.de", "\ud800.de", "\u00ad", "ü" * 100_000, "\u00ad" * 2000 + ".org"),
]


@pytest.mark.parametrize(("typed", "form", "wanted"), TYPED)
def test_canonical(typed: str, form: str, wanted: str | None) -> None:
    """Every spelling has one form, which is its own; the look-up keeps dot and zone."""
    assert canonical(typed) == canonical(form) == form
    assert to_look_up(typed) == (typed if wanted is None else wanted)
    kind = IdKind.IP if is_ip_address(form) else IdKind.DNS
    assert ReferenceIdentifier.for_host(typed) == (kind, form)


@pytest.mark.parametrize("typed", WRONG, ids=lambda typed: ascii(typed[:20]))
def test_no_name(typed: str) -> None:
    """What is neither name nor address is refused, at once, with a remedy."""
    began = time.process_time()
    with pytest.raises(
        ConfigError, match=r"neither a host's name nor|no internationalized name"
    ) as caught:
        canonical(typed)
    assert caught.value.hint
    assert str(caught.value).isprintable()
    assert time.process_time() - began < 30, "it takes time without end"


@pytest.mark.parametrize("typed", ["a..b", ".a", "a" * 64, "b." + "a" * 64 + ".c"])
def test_what_no_resolver_is_asked(typed: str) -> None:
    """What Python refuses to look up is refused as a name, and not in the midst of a connection."""
    with pytest.raises(ValueError, match="label"):
        socket.getaddrinfo(typed, 1)
    with pytest.raises(ConfigError, match="neither a host's name nor"):
        to_look_up(typed)


def test_what_only_a_resolver_knows() -> None:
    """A spelling of an address that has no form to compare can still be connected to."""
    assert to_look_up("127.1") == "127.1"


@pytest.mark.parametrize(
    ("spelled", "form"),
    [
        ("dns:Straße.example.", "dns:xn--strae-oqa.example"),
        ("ip:[FE80::1%eth0]", "ip:fe80::1"),
        ("srv:_Mail.Bücher.example.", "srv:_Mail.xn--bcher-kva.example"),
        ("uri:sip:Bücher.example", "uri:sip:xn--bcher-kva.example"),
        ("uri:https://example.org/", "uri:https:example.org"),
        ("uri:coap+tcp:example.org", "uri:coap+tcp:example.org"),
    ],
)
def test_canonical_identifier(spelled: str, form: str) -> None:
    """The host in an identifier is spelled as one alone."""
    found = ReferenceIdentifier.parse(spelled).canonical()
    assert str(found) == form
    assert found.canonical() == found


@pytest.mark.parametrize(
    "spelled",
    [
        *("ip:example.org", "ip:127.1", "dns:*.example.org", "dns:exa mple.org", "dns:192.0.2.1"),
        *("dns:::1", "dns:a/b", "srv:mail.example.org", "srv:_mail", "srv:_.a b", "srv:_ü.example"),
        *("srv:_mail.192.0.2.1", "uri:example.org", "uri::a", "uri:sip:", "uri:sip:192.0.2.1"),
        *("uri:sip:a:1", "uri:ü:a", "dns:i❤.ws"),
    ],
)
def test_invalid_identifier(spelled: str) -> None:
    """An identifier that is not valid for its kind is refused."""
    with pytest.raises(ConfigError, match=r"is not a valid \w+-ID") as caught:
        ReferenceIdentifier.parse(spelled).canonical()
    assert "dns:NAME" in caught.value.hint


@settings(max_examples=50)
@given(st.sampled_from(IdKind), st.text(min_size=1).filter(lambda n: n == n.strip() and n))
def test_identifier_spelled_and_parsed(kind: IdKind, name: str) -> None:
    """Parsing gives back what was spelled."""
    identifier = ReferenceIdentifier(kind, name)
    assert ReferenceIdentifier.parse(str(identifier)) == identifier


@given(st.text(max_size=30))
def test_any_text_as_identifier(text: str) -> None:
    """Any text is an identifier or a ConfigError."""
    try:
        assert ReferenceIdentifier.parse(text).name
    except ConfigError as error:
        assert "dns:NAME" in error.hint


@pytest.mark.parametrize("text", ["", ":", "dns", "dns:", "dns: ", "cn:example.org", "example.org"])
def test_text_that_is_no_identifier(text: str) -> None:
    """Kind and name are both needed, and the common name is no kind."""
    with pytest.raises(ConfigError, match="is not a reference identifier"):
        ReferenceIdentifier.parse(text)


def test_kind_in_capitals() -> None:
    """The kind is read in either case, and a URI keeps its own colon."""
    assert ReferenceIdentifier.parse("DNS:a") == ReferenceIdentifier(IdKind.DNS, "a")
    assert ReferenceIdentifier.parse("uri:sip:a") == ReferenceIdentifier(IdKind.URI, "sip:a")


@given(st.text(max_size=30), st.sampled_from(IdKind))
def test_anything(typed: str, kind: IdKind) -> None:
    """No text raises anything but ConfigError, and a form is its own."""
    for function in (canonical, to_look_up, lambda it: ReferenceIdentifier(kind, it).canonical()):
        try:
            found = function(typed)
        except ConfigError as error:
            assert error.hint
        else:
            assert function(found if isinstance(found, str) else found.name) == found
    to_unicode(typed)


def test_u_labels() -> None:
    """Where a protocol wants names as people read them they come so."""
    assert to_unicode("xn--strae-oqa.example") == "straße.example"
    assert to_unicode("example.org") == "example.org"
    assert to_unicode("xn--a.example") == "xn--a.example"


def test_import_is_for_who_needs_it() -> None:
    """Only a name that is not ASCII has the library imported."""
    program = (
        "import sys; from tlsify.names import canonical;"
        "canonical('www.example.org.'); print('idna' in sys.modules);"
        "canonical('ü.example'); print('idna' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert ran.stdout.split() == ["False", "True"]


def test_zone_as_urls_have_it() -> None:
    """RFC 6874: in brackets its sign is escaped."""
    assert to_look_up("[fe80::1%25lo]") == "fe80::1%lo"
    assert canonical("[fe80::1%25lo]") == "fe80::1"
