"""Tests of config."""

from __future__ import annotations

import base64
import stat
import subprocess
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x448, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.certificates import DAY, KEYS, certify, raw, respond, with_extensions
from tests.conftest import issue, make_crl
from tests.spellings import good
from tlsify.codepoints import Aead, ProtocolVersion
from tlsify.config import (
    ClientConfig,
    IdKind,
    KeyPair,
    KtlsMode,
    KtlsPolicy,
    ReferenceIdentifier,
    ServerConfig,
    TrustAnchors,
)
from tlsify.credentials.parse import parse_certificates, parse_crls, parse_key
from tlsify.credentials.self_signed import make_key_pair
from tlsify.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

    from tlsify.credentials.parse import PrivateKey

HOST = ReferenceIdentifier(IdKind.DNS, "example.org")


def pem(key: PrivateKeyTypes, password: bytes | None = None) -> bytes:
    """Write a key as PKCS #8."""
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


@pytest.fixture(scope="module")
def made() -> KeyPair:
    """A certificate and its key."""
    return make_key_pair(["example.org"])


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


# -- keys and certificates


def test_key_pair_from_files(tmp_path: Path, made: KeyPair) -> None:
    """Both files are read, and the chain is given out again without the key."""
    (tmp_path / "chain.pem").write_bytes(made.certificate_pem())
    (tmp_path / "key.pem").write_bytes(pem(made.key))
    loaded = KeyPair.load(tmp_path / "chain.pem", tmp_path / "key.pem")
    assert loaded.chain == made.chain
    assert loaded.key.public_key() == made.key.public_key()
    assert b"PRIVATE" not in loaded.certificate_pem()


def test_whole_chain_is_kept(authority: trustme.CA) -> None:
    """Intermediates stay behind the leaf, in order."""
    middle = authority.create_child_ca()
    pair = issue(middle, "example.org")
    assert len(pair.chain) == 2
    assert pair.chain[0].issuer == pair.chain[1].subject
    assert pair.certificate_pem().count(b"BEGIN") == 2


def test_file_that_is_not_there(tmp_path: Path, made: KeyPair) -> None:
    """The path and the system's reason are told."""
    with pytest.raises(ConfigError, match=r"cannot read certificate .*absent.*No such file"):
        KeyPair.load(tmp_path / "absent", tmp_path / "absent")
    (tmp_path / "chain.pem").write_bytes(made.certificate_pem())
    with pytest.raises(ConfigError, match="cannot read private key"):
        KeyPair.load(tmp_path / "chain.pem", tmp_path)


def test_key_of_another_certificate(made: KeyPair) -> None:
    """A key that does not belong to the first certificate is refused."""
    other = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(ConfigError, match="does not belong"):
        KeyPair.from_pem(made.certificate_pem(), pem(other))


def test_chain_in_the_wrong_order(authority: trustme.CA, made: KeyPair) -> None:
    """The leaf has to come first."""
    chain = authority.cert_pem.bytes() + made.certificate_pem()
    with pytest.raises(ConfigError, match="does not belong"):
        KeyPair.from_pem(chain, pem(made.key))


def test_encrypted_key(made: KeyPair) -> None:
    """There is nobody to ask for the passphrase."""
    with pytest.raises(ConfigError, match="is encrypted"):
        KeyPair.from_pem(made.certificate_pem(), pem(made.key, b"passphrase"))


@pytest.mark.parametrize("make", [x25519.X25519PrivateKey.generate, x448.X448PrivateKey.generate])
def test_key_of_a_useless_kind(made: KeyPair, make: type) -> None:
    """A key that cannot sign for a server is refused with the kinds that can."""
    with pytest.raises(ConfigError, match="of a kind") as caught:
        KeyPair.from_pem(made.certificate_pem(), pem(make()))
    assert "Ed25519" in caught.value.hint


def test_key_on_a_curve_that_nobody_knows() -> None:
    """It is a key, and the error does not say otherwise."""
    known, strange = bytes.fromhex("06082a8648ce3d030107"), bytes.fromhex("06082a8648ce3d03017f")
    der = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.DER, PrivateFormat.PKCS8, NoEncryption()
    )
    body = base64.encodebytes(der.replace(known, strange)).decode()
    text = f"-----BEGIN PRIVATE KEY-----\n{body}-----END PRIVATE KEY-----\n"
    with pytest.raises(ConfigError, match="of a kind that TLS servers do not use"):
        parse_key(text.encode())


@pytest.mark.parametrize(
    "garbage", [b"", b"garbage", b"\xff\xfe\0", b"-----BEGIN PRIVATE KEY-----\n"]
)
def test_garbage(made: KeyPair, garbage: bytes) -> None:
    """Neither a certificate nor a key comes out of garbage."""
    with pytest.raises(ConfigError, match="no usable PEM private key"):
        KeyPair.from_pem(made.certificate_pem(), garbage)
    with pytest.raises(ConfigError, match="no usable PEM certificate"):
        KeyPair.from_pem(garbage, pem(made.key))


@given(st.binary(max_size=200), st.integers(0, 2000))
def test_damaged_pem(noise: bytes, position: int) -> None:
    """Damage anywhere in a file is a ConfigError, or does not matter."""
    good = _GOOD.certificate_pem() + pem(_GOOD.key)
    position %= len(good)
    damaged = good[:position] + noise + good[position + 1 :]
    try:
        KeyPair.from_pem(damaged, damaged)
    except ConfigError as error:
        assert error.hint  # noqa: PT017 - or nothing is raised


_GOOD = make_key_pair(["example.org"])


def _with_version(made: KeyPair, version: int) -> bytes:
    """Write a certificate that says another X.509 version; its signature no longer fits."""
    der = made.chain[0].public_bytes(Encoding.DER)
    der = der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01" + bytes([version]), 1)
    body = base64.encodebytes(der)
    return b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n"


def test_certificate_of_an_unknown_version(made: KeyPair) -> None:
    """X.509 v4 is malformed, not a bug of ours."""
    with pytest.raises(ConfigError, match="cut off or damaged"):
        parse_certificates(_with_version(made, 3), "the file")


def test_secret_in_no_text(made: KeyPair) -> None:
    """The key shows in no repr, and in no error about it."""
    key = pem(made.key)
    secret = key.splitlines()[1].decode()
    number = str(made.key.private_numbers().private_value)  # type: ignore[union-attr]  # it is an EC key
    config = ServerConfig(key_pair=made)
    with pytest.raises(ConfigError) as caught:
        KeyPair.from_pem(_GOOD.certificate_pem(), key)
    texts = [repr(made), str(made), repr(config), str(config)]
    texts += traceback.format_exception(caught.value)
    for text in texts:
        assert secret not in text
        assert number not in text
        assert "PRIVATE" not in text
    assert "example.org" in repr(made)


SEC1 = PrivateFormat.TraditionalOpenSSL
# A file for both, spelled so, has somebody else's certificate or key in front, or no key.
_NOT_FOR_BOTH = {
    *("joined without a line break", "among others", "key in front"),
    *("one line of base64", "lines of 76"),
}


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, SEC1], ids=["PKCS #8", "SEC 1"])
@pytest.mark.parametrize("spelling", [each for each in good(b"") if each not in _NOT_FOR_BOTH])
def test_one_file_for_both(spelling: str, form: PrivateFormat) -> None:
    """However tools spell it, with the key before or behind the certificate, both are found."""
    key = _GOOD.key.private_bytes(Encoding.PEM, form, NoEncryption())
    for both in (_GOOD.certificate_pem() + key, key + _GOOD.certificate_pem()):
        file = good(both)[spelling]
        assert KeyPair.from_pem(file, file).chain[0] == _GOOD.chain[0]


EC_KEY, RSA_KEY = KEYS["ec"], KEYS["rsa"]
CURVE = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"


def old_pem(key: PrivateKeyTypes, password: bytes | None = None) -> bytes:
    """Write a key as PKCS #1 or SEC 1."""
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, SEC1, encryption)


def one_line(file: bytes) -> bytes:
    """Write PEM with all of its base64 in a line."""
    begin, *body, end = file.splitlines()
    return b"\n".join([begin, b"".join(body), end])


@pytest.mark.parametrize(
    ("key", "file"),
    [
        pytest.param(RSA_KEY, old_pem(RSA_KEY), id="PKCS #1"),
        pytest.param(RSA_KEY, one_line(pem(RSA_KEY)), id="PKCS #8 in one line"),
        pytest.param(EC_KEY, CURVE + old_pem(EC_KEY), id="SEC 1 behind its curve"),
    ],
)
def test_formats_of_a_key(key: PrivateKey, file: bytes) -> None:
    """What older tools write is read as well."""
    assert parse_key(file).public_key() == key.public_key()


@pytest.mark.parametrize(
    ("file", "said"),
    [
        pytest.param(
            EC_KEY.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
            "no usable PEM private key",
            id="DER",
        ),
        pytest.param(
            pem(EC_KEY).decode().encode("utf-16"), "no usable PEM private key", id="UTF-16"
        ),
        pytest.param(
            EC_KEY.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()),
            "no usable PEM private key",
            id="OpenSSH",
        ),
        pytest.param(old_pem(EC_KEY, b"secret"), "is encrypted", id="SEC 1, encrypted"),
    ],
)
def test_key_in_another_form(file: bytes, said: str) -> None:
    """What is no PEM that can be read is refused, and what is needed is told."""
    with pytest.raises(ConfigError, match=said) as caught:
        parse_key(file)
    assert "key" in caught.value.hint


def test_another_key_in_front(made: KeyPair) -> None:
    """The first key counts, and the certificate has to be its own."""
    with pytest.raises(ConfigError, match="does not belong"):
        KeyPair.from_pem(made.certificate_pem(), pem(EC_KEY) + pem(made.key))


def test_key_kinds_that_servers_use() -> None:
    """RSA and Ed25519 keys are read as well as EC keys."""
    for key in (rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate()):
        with pytest.raises(ConfigError, match="does not belong"):
            KeyPair.from_pem(_GOOD.certificate_pem(), pem(key))


# -- trust anchors


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with two anchors, a readme and a key."""
    for index, suffix in enumerate(("pem", "crt")):
        made = make_key_pair([f"{index}.example.org"])
        (tmp_path / f"{index}.{suffix}").write_bytes(made.certificate_pem())
        (tmp_path / f"{index}.key").write_bytes(pem(made.key))
    (tmp_path / "README").write_text("not a certificate")
    yield tmp_path
    tmp_path.chmod(stat.S_IRWXU)


def test_folder_of_anchors(folder: Path) -> None:
    """Every .pem and .crt file counts, and nothing else."""
    found = TrustAnchors.load(folder).lookup
    assert found is not None
    anchors = [x509.load_der_x509_certificate(anchor.der) for anchor in found.anchors]
    assert [a.subject.rfc4514_string() for a in anchors] == [
        "CN=0.example.org",
        "CN=1.example.org",
    ]


def test_one_file_of_anchors(tmp_path: Path, made: KeyPair, authority: trustme.CA) -> None:
    """A file may hold several."""
    path = tmp_path / "bundle"
    path.write_bytes(made.certificate_pem() + authority.cert_pem.bytes())
    found = TrustAnchors.load(path).lookup
    assert found is not None
    assert [anchor.source for anchor in found.anchors] == [str(path)] * 2


def test_folder_without_anchors(tmp_path: Path) -> None:
    """An empty folder is no way to trust nobody, but a mistake."""
    with pytest.raises(ConfigError, match="no trust anchor"):
        TrustAnchors.load(tmp_path)


def test_folder_with_a_broken_anchor(folder: Path) -> None:
    """The broken file is named."""
    (folder / "2.pem").write_text("garbage")
    with pytest.raises(ConfigError, match=r"2\.pem holds no usable PEM certificate"):
        TrustAnchors.load(folder)


def test_folder_inside_the_folder(folder: Path) -> None:
    """A folder named like a certificate is named in the error."""
    (folder / "sub.pem").mkdir()
    with pytest.raises(ConfigError, match=r"cannot read trust anchor .*sub\.pem"):
        TrustAnchors.load(folder)


@pytest.mark.parametrize("call", ["is_dir", "iterdir"])
def test_unreadable_folder(folder: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """A folder that may not be looked at is a ConfigError, whichever call finds it out."""

    def refuse(_: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, call, refuse)
    with pytest.raises(ConfigError, match=r"cannot read trust anchors .*Permission denied"):
        TrustAnchors.load(folder)


def test_missing_anchor_file(tmp_path: Path) -> None:
    """A path that does not exist is named."""
    with pytest.raises(ConfigError, match=r"cannot read trust anchors .*absent"):
        TrustAnchors.load(tmp_path / "absent")


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


def test_wishes_about_clients_without_anchors(made: KeyPair) -> None:
    """Clients that must be verified must be so against something."""
    wishes: list[dict[str, Any]] = [
        {"client_required": True},
        {"client_identities": (HOST,)},
        {"crls": parse_crls(make_crl(trustme.CA()), "it")},
    ]
    for wish in wishes:
        with pytest.raises(ConfigError, match="no trust anchors"):
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
