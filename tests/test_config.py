"""Tests of config."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import trustme
from cryptography import x509

from tests.certificates import DAY, certify, raw, respond, with_extensions
from tests.conftest import make_crl
from tlsify.codepoints import Aead, ProtocolVersion
from tlsify.config import ClientConfig, KtlsMode, KtlsPolicy, ServerConfig
from tlsify.credentials.anchors import TrustAnchors
from tlsify.credentials.key_pair import KeyPair
from tlsify.credentials.parse import parse_crls
from tlsify.credentials.self_signed import make_key_pair
from tlsify.errors import ConfigError
from tlsify.names import IdKind, ReferenceIdentifier

HOST = ReferenceIdentifier(IdKind.DNS, "example.org")


# -- names


@pytest.mark.parametrize(
    ("host", "name", "identity"),
    [
        ("example.org", "example.org", "dns:example.org"),
        ("Straße.example.", "xn--strae-oqa.example", "dns:xn--strae-oqa.example"),
        ("192.0.2.1", None, "ip:192.0.2.1"),
        ("fe80::1%eth0", None, "ip:fe80::1"),
        ("[2001:DB8::1]", None, "ip:2001:db8::1"),
    ],
)
def test_host(host: str, name: str | None, identity: str) -> None:
    """An address is an IP-ID without SNI, anything else a DNS-ID with it, in canonical form."""
    config = ClientConfig.for_host(host)
    assert config.server_name == name
    assert list(map(str, config.identities)) == [identity]


def test_names_given_one_by_one(made: KeyPair) -> None:
    """However a configuration is made, what is in it is in canonical form."""
    wanted = (ReferenceIdentifier(IdKind.DNS, "Ü.example."), ReferenceIdentifier.parse("ip:::1%lo"))
    client = replace(ClientConfig.for_host("a"), server_name="Ü.example.", identities=wanted)
    trust = TrustAnchors(made.chain)
    server = ServerConfig(key_pair=made, client_trust=trust, client_identities=wanted)
    assert client.server_name == "xn--tda.example"
    for found in (client.identities, server.client_identities):
        assert list(map(str, found)) == ["dns:xn--tda.example", "ip:::1"]
    assert replace(client, server_name="[::1]").server_name is None


@pytest.mark.parametrize("wrong", ["a" * 64 + ".org", "a..b", "nul\0name", "", "127.1"])
def test_name_that_nobody_has(made: KeyPair, wrong: str) -> None:
    """What could never be sent, or match, is a mistake that shows before anything is sent."""
    client = ClientConfig.for_host("example.org")
    identities = (ReferenceIdentifier(IdKind.DNS, wrong),)
    for act in (
        lambda: ClientConfig.for_host(wrong),
        lambda: replace(client, server_name=wrong),
        lambda: replace(client, identities=identities),
        lambda: replace(client, identities=identities, verify=False),
        lambda: ServerConfig(
            key_pair=made, client_trust=TrustAnchors(made.chain), client_identities=identities
        ),
    ):
        with pytest.raises(ConfigError, match=r"neither a host's name|not a valid DNS-ID"):
            act()


def test_names_of_a_certificate(made: KeyPair) -> None:
    """The common name is none; who has no other is for nobody."""
    names = made.chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(made.names) == names.get_values_for_type(x509.DNSName)
    odd = raw(b"\x30\x0c\x82\x01\xff\x82\x01A\x87\x04\x7f\x00\x00\x01")
    assert KeyPair((odd,), made.key).names[1:] == ("a", "127.0.0.1")
    assert KeyPair((with_extensions(),), made.key).names == ()


# -- configurations


def test_verification_without_identity() -> None:
    """Not naming an identity is a mistake unless verification is off explicitly."""
    with pytest.raises(ConfigError, match="no reference identifier"):
        ClientConfig()
    assert ClientConfig(verify=False).identities == ()


@pytest.mark.parametrize("protocol", [b"", bytes(256)])
def test_alpn_of_a_wrong_length(protocol: bytes, made: KeyPair) -> None:
    """An ALPN protocol has 1 to 255 bytes."""
    with pytest.raises(ConfigError, match="ALPN"):
        ClientConfig(identities=(HOST,), alpn=(b"h2", protocol))
    with pytest.raises(ConfigError, match="ALPN"):
        ServerConfig(key_pair=made, alpn=(protocol,))
    assert ServerConfig(key_pair=made, alpn=(b"x", bytes(255))).alpn


@pytest.mark.parametrize(
    ("versions", "aeads"),
    [
        (frozenset[ProtocolVersion](), (Aead.AES_GCM_128,)),
        (frozenset(ProtocolVersion), ()),
    ],
)
def test_nothing_left_to_negotiate(
    versions: frozenset[ProtocolVersion], aeads: tuple[Aead, ...], made: KeyPair
) -> None:
    """A configuration that no peer could meet is refused at once."""
    with pytest.raises(ConfigError, match="left to negotiate"):
        ClientConfig(identities=(HOST,), versions=versions, aeads=aeads)
    with pytest.raises(ConfigError, match="left to negotiate"):
        ServerConfig(key_pair=made, versions=versions, aeads=aeads)


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), float("inf"), 1e30, 1e6 + 1])
def test_time_that_cannot_be(seconds: float, made: KeyPair) -> None:
    """It is refused here, and not by the first handshake."""
    with pytest.raises(ConfigError, match="a handshake cannot take"):
        ClientConfig(identities=(HOST,), timeout=seconds)
    with pytest.raises(ConfigError, match="a handshake cannot take"):
        ServerConfig(key_pair=made, timeout=seconds)
    assert ClientConfig(identities=(HOST,), timeout=10**6).timeout == 10**6


@pytest.mark.parametrize("length", [0, 20, 31, 33, 44])
def test_pin_of_a_wrong_length(length: int) -> None:
    """A digest of another kind would never match."""
    with pytest.raises(ConfigError, match="not a SHA-256 digest"):
        ClientConfig(identities=(HOST,), pins=(bytes(32), bytes(length)))


def test_lists_without_verification() -> None:
    """Who verifies nothing cannot ask whether it is revoked."""
    crls = parse_crls(make_crl(trustme.CA()), "it")
    with pytest.raises(ConfigError, match="without verification"):
        ClientConfig(verify=False, crls=crls)
    assert ClientConfig(identities=(HOST,), crls=crls).crls == crls


def test_lists_of_all_issuers_without_lists(made: KeyPair) -> None:
    """That cannot be meant."""
    with pytest.raises(ConfigError, match="there is none"):
        ClientConfig(identities=(HOST,), crl_check_all=True)
    with pytest.raises(ConfigError, match="there is none"):
        ServerConfig(key_pair=made, client_trust=TrustAnchors(), crl_check_all=True)


def test_wishes_about_clients_without_anchors(made: KeyPair) -> None:
    """Clients that must be verified must be so against something."""
    wishes: list[dict[str, Any]] = [
        {"client_required": True},
        {"client_identities": (HOST,)},
        {"crls": parse_crls(make_crl(trustme.CA()), "it")},
    ]
    for wish in wishes:
        with pytest.raises(ConfigError, match="requires trust anchors"):
            ServerConfig(key_pair=made, **wish)
        assert ServerConfig(key_pair=made, client_trust=TrustAnchors(), **wish)


def test_parser_is_imported_late() -> None:
    """A client without a certificate of its own pays for no parser before it says hello."""
    program = (
        "import sys; from tlsify.config import ClientConfig; ClientConfig.for_host('a.example');"
        "print(*(name for name in sys.modules if name.startswith('cryptography')))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert not ran.stdout.strip()


@pytest.mark.parametrize("name", ["", "ffdhe2048", "P-256:P-384", "x25519 "])
def test_group_that_nobody_knows(name: str, made: KeyPair) -> None:
    """The hint lists those that there are."""
    with pytest.raises(ConfigError, match="is no key exchange group") as caught:
        ServerConfig(key_pair=made, groups=("P-256", name))
    assert "X25519MLKEM768" in caught.value.hint
    with pytest.raises(ConfigError, match="is no key exchange group"):
        ClientConfig(identities=(HOST,), groups=(name,))


def test_names_and_end_of_a_certificate() -> None:
    """What metrics and SNI want to know: names in lower case, addresses, the last second."""
    pair = make_key_pair(["Www.Example.org", "192.0.2.1", "::1"])
    assert pair.names == ("www.example.org", "192.0.2.1", "::1")
    assert pair.not_after == pair.chain[0].not_valid_after_utc
    assert pair.staple() is None


def test_staple_at_this_moment(authority: trustme.CA) -> None:
    """A response is given out while it is good."""
    pair = certify(authority, "a.example")
    good = respond(authority, pair)
    assert replace(pair, ocsp=good).staple() == good
    stale = respond(authority, pair, begin=-2 * DAY, end=-DAY)
    assert replace(pair, ocsp=stale).staple() is None


def test_configurations_are_frozen(made: KeyPair) -> None:
    """One Context serves all connections of a configuration, so that it must not change."""
    config = ServerConfig(key_pair=made)
    with pytest.raises(AttributeError):
        config.alpn = ()  # type: ignore[misc]  # the point of the test
    assert KtlsPolicy() == KtlsPolicy(KtlsMode.AUTO, rekey_required=False, any_kernel=False)


def test_nothing_is_resumed_unless_asked(made: KeyPair) -> None:
    """Resumption state undoes forward secrecy, so that neither side keeps any by default."""
    assert ClientConfig(verify=False).session_store is None
    assert ServerConfig(key_pair=made).resumption is False


def test_nothing_is_logged_unless_asked(made: KeyPair) -> None:
    """Nor does either side give its secrets away."""
    assert ClientConfig(verify=False).key_log is None
    assert ServerConfig(key_pair=made).key_log is None
