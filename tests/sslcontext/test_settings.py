"""Tests of settings."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from tests.conftest import HOST, make_crl
from tlsify.codepoints import DEFAULT_AEADS, Aead, ProtocolVersion
from tlsify.credentials.self_signed import make_key_pair
from tlsify.errors import ConfigError
from tlsify.sslcontext.context import SSLContext
from tlsify.sslcontext.settings import Settings
from tlsify.tls.certificates import digest_of_anchors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tlsify.credentials.key_pair import KeyPair

SERVER, CLIENT = ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT


@pytest.fixture
def files(tmp_path: Path, key_pair: KeyPair, authority: trustme.CA) -> Path:
    """A folder with cert.pem, key.pem, both.pem and ca.pem."""
    key = key_pair.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "cert.pem").write_bytes(key_pair.certificate_pem())
    (tmp_path / "key.pem").write_bytes(key)
    (tmp_path / "both.pem").write_bytes(key + key_pair.certificate_pem())
    (tmp_path / "ca.pem").write_bytes(authority.cert_pem.bytes())
    return tmp_path


def _server(files: Path) -> SSLContext:
    return SSLContext.for_server(files / "cert.pem", files / "key.pem")


@pytest.mark.parametrize("names", [("cert.pem", "key.pem"), ("both.pem", None)])
def test_certificate(files: Path, key_pair: KeyPair, names: tuple[str, str | None]) -> None:
    """Chain and key come from two files or one, whose names are spelt in any way."""
    context = SSLContext(SERVER)
    key = None if names[1] is None else str(files / names[1]).encode()
    context.load_cert_chain(str(files / names[0]), key)
    assert context.server_config().key_pair.chain == key_pair.chain


@pytest.mark.parametrize("password", ["pass", b"pass", bytearray(b"pass"), lambda: "pass"])
def test_password(files: Path, key_pair: KeyPair, password: Any) -> None:
    """An encrypted key is decrypted; the wrong password is refused, and none is."""
    encrypted = key_pair.key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"pass")
    )
    (files / "secret.pem").write_bytes(encrypted)
    context = SSLContext(SERVER)
    with pytest.raises(ConfigError, match="encrypted"):
        context.load_cert_chain(files / "cert.pem", files / "secret.pem")
    with pytest.raises(ConfigError, match="cannot be decrypted"):
        context.load_cert_chain(files / "cert.pem", files / "secret.pem", "wrong")
    context.load_cert_chain(files / "cert.pem", files / "secret.pem", password)
    context.load_cert_chain(files / "cert.pem", files / "key.pem", password)  # not needed here
    assert len(context.wishes.pairs) == 1


def test_kinds_of_key(files: Path, key_pair: KeyPair) -> None:
    """Another kind of key goes beside, the same kind replaces; names are added."""
    context = _server(files)
    other = make_key_pair(["other.example"])
    key = rsa.generate_private_key(65537, 2048)
    leaf = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(key_pair.chain[0].not_valid_before_utc)
        .not_valid_after(key_pair.chain[0].not_valid_after_utc)
        .sign(key, key_pair.chain[0].signature_hash_algorithm)  # type: ignore[arg-type]
    )
    for name, chain, private in (
        ("ec", other.certificate_pem(), other.key),
        ("rsa", leaf.public_bytes(Encoding.PEM), key),
    ):
        secret = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (files / name).write_bytes(chain + secret)
    context.load_cert_chain(files / "rsa")
    context.load_cert_chain(files / "ec")
    context.add_cert_chain(files / "cert.pem", files / "key.pem")
    config = context.server_config()
    assert config.key_pair.chain == (leaf,)
    assert [pair.chain for pair in config.more_key_pairs] == [other.chain, key_pair.chain]


@pytest.mark.parametrize(
    ("name", "said"), [("none", "cannot read"), ("ca.pem", "does not belong"), ("empty", "no usab")]
)
def test_unusable_certificate(files: Path, name: str, said: str) -> None:
    """It is told at once."""
    (files / "empty").write_bytes(b"")
    with pytest.raises(ConfigError, match=said):
        SSLContext(SERVER).load_cert_chain(files / name, files / "key.pem")


def test_anchors(files: Path, authority: trustme.CA) -> None:
    """From a file, a folder, PEM or DER; as Python shows them."""
    pem = authority.cert_pem.bytes().decode()
    der = ssl.PEM_cert_to_DER_cert(pem)
    (files / "folder").mkdir()
    (files / "folder/one.pem").write_text(pem)
    pure = ssl.SSLContext(CLIENT)
    pure.load_verify_locations(files / "ca.pem")
    for where in (
        {"cafile": files / "ca.pem"},
        {"capath": files / "folder"},
        {"cadata": pem},
        {"cadata": der},
    ):
        context = Settings(CLIENT)
        context.load_verify_locations(**where)
        found = context.trust().lookup
        assert found is not None
        assert [anchor.der for anchor in found.anchors] == [der]
        assert context.get_ca_certs(binary_form=True) == [der]
        assert context.get_ca_certs() == pure.get_ca_certs()
        assert context.cert_store_stats() == pure.cert_store_stats()
    other = trustme.CA().cert_pem.bytes().decode()
    two = [der, ssl.PEM_cert_to_DER_cert(other)]
    for data in (pem + other, b"".join(two), memoryview(b"".join(two))):
        context = Settings(CLIENT)
        context.load_verify_locations(cadata=data)
        assert context.get_ca_certs(binary_form=True) == two
    with pytest.raises(TypeError):
        SSLContext(CLIENT).load_verify_locations()
    for garbage in ("garbage", b"garbage", b"", der + b"garbage", der[:-1]):
        with pytest.raises(ConfigError, match="cadata"):
            SSLContext(CLIENT).load_verify_locations(cadata=garbage)


def test_system_store(files: Path) -> None:
    """It can be taken as it is, and extended."""
    context = Settings(CLIENT)
    context.set_default_verify_paths()
    before = context.trust()
    plain = before.lookup
    assert plain is not None
    context.load_verify_locations(files / "ca.pem")
    after = context.trust()
    more = after.lookup
    assert more is not None
    assert more.files == plain.files
    assert [anchor.source for anchor in more.anchors] == [str(files / "ca.pem")]
    assert digest_of_anchors(after) != digest_of_anchors(before)
    context.load_verify_locations(cadata=(files / "ca.pem").read_text())
    most = context.trust().lookup
    assert most is not None
    assert len(most.anchors) == 2


def test_revocation(files: Path, authority: trustme.CA) -> None:
    """Lists are taken with the anchors, and used if that is wanted."""
    context = SSLContext.for_client(cafile=files / "ca.pem")
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    with pytest.raises(ConfigError, match="no revocation list"):
        context.client_config(HOST)
    (files / "crl.pem").write_bytes(make_crl(authority))
    context.load_verify_locations(files / "crl.pem")
    assert len(context.client_config(HOST).crls) == 1
    assert context.cert_store_stats() == {"x509": 1, "crl": 1, "x509_ca": 1}
    context.verify_flags &= ~ssl.VERIFY_CRL_CHECK_LEAF
    assert context.client_config(HOST).crls == ()
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    with pytest.raises(ConfigError, match="X509_STRICT"):
        context.client_config(HOST)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_versions(files: Path) -> None:
    """By bounds and by options; those that tlsify does not speak are not there anyway."""
    both = frozenset(ProtocolVersion)
    context = _server(files)
    assert context.server_config().versions == both
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    assert context.versions() == both
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    assert context.server_config().versions == {ProtocolVersion.TLSv1_3}
    context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_TLSv1_3
    assert context.server_config().versions == {ProtocolVersion.TLSv1_2}
    context.options |= ssl.OP_NO_TLSv1_2
    with pytest.raises(ConfigError, match="no protocol version"):
        context.server_config()


def test_ciphers(files: Path) -> None:
    """They choose among ours, which are listed; what OpenSSL does not understand is refused."""
    context = _server(files)
    assert context.server_config().aeads == DEFAULT_AEADS
    names = {cipher["name"] for cipher in context.get_ciphers()}
    assert {"TLS_AES_256_GCM_SHA384", "ECDHE-RSA-AES128-GCM-SHA256"} <= names
    assert "AES128-SHA" not in names
    context.set_ciphers("ECDHE+AESGCM")
    assert set(context.server_config().aeads) == {Aead.AES_GCM_128, Aead.AES_GCM_256}
    context.set_ciphers("ECDHE-RSA-CHACHA20-POLY1305:AES128-SHA")
    assert context.server_config().aeads == (Aead.CHACHA20_POLY1305,)
    assert {cipher["name"] for cipher in context.get_ciphers()} == {
        "TLS_CHACHA20_POLY1305_SHA256",
        "ECDHE-RSA-CHACHA20-POLY1305",
    }
    with pytest.raises(ssl.SSLError):
        context.set_ciphers("no such thing")
    with pytest.raises(ConfigError, match="AES128-SHA"):
        context.set_ciphers("AES128-SHA")


def test_other_settings(files: Path) -> None:
    """Protocols, group and key log."""
    context = _server(files)
    context.set_alpn_protocols(["h2", "http/1.1"])
    context.set_ecdh_curve("prime256v1")
    assert context.keylog_filename is None
    context.keylog_filename = str(files / "keys")
    config = context.server_config()
    assert config.alpn == (b"h2", b"http/1.1")
    assert config.groups == ("P-256",)
    assert context.keylog_filename == str(config.key_log) == str(files / "keys")
    context.keylog_filename = None
    assert context.server_config().key_log is None


_BAD: dict[str, tuple[type[Exception], Callable[[SSLContext, Path], object]]] = {
    "no file": (FileNotFoundError, lambda context, files: context.load_cert_chain(files / "none")),
    "a folder": (IsADirectoryError, lambda context, files: context.load_cert_chain(files)),
    "no key": (ssl.SSLError, lambda context, files: context.load_cert_chain(files / "cert.pem")),
    "other key": (
        ssl.SSLError,
        lambda context, files: context.load_cert_chain(files / "ca.pem", files / "key.pem"),
    ),
    "no anchors": (
        FileNotFoundError,
        lambda context, files: context.load_verify_locations(files / "none"),
    ),
    "unusable anchors": (
        ssl.SSLError,
        lambda context, files: context.load_verify_locations(files / "key.pem"),
    ),
    "empty protocol": (ssl.SSLError, lambda context, _: context.set_alpn_protocols([""])),
    "long protocol": (ssl.SSLError, lambda context, _: context.set_alpn_protocols(["x" * 256])),
    "group": (ValueError, lambda context, _: context.set_ecdh_curve("no such group")),
    "time": (ValueError, lambda context, _: setattr(context, "handshake_timeout", 0)),
    "negative time": (ValueError, lambda context, _: setattr(context, "handshake_timeout", -1)),
    "key log": (
        FileNotFoundError,
        lambda context, files: setattr(context, "keylog_filename", files / "none" / "keys"),
    ),
    "key log in a folder": (
        IsADirectoryError,
        lambda context, files: setattr(context, "keylog_filename", files),
    ),
}


@pytest.mark.parametrize("name", _BAD)
def test_bad_settings(files: Path, name: str) -> None:
    """They show when they are set, as an error of tlsify and of the kind that `ssl` has."""
    context = _server(files)
    before = context.wishes
    expected, set_it = _BAD[name]
    with pytest.raises(ConfigError) as raised:
        set_it(context, files)
    error: Exception = raised.value
    assert isinstance(error, expected)
    assert isinstance(error, OSError) is issubclass(expected, OSError)
    assert "Errno" not in str(error)
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
        assert error.errno
        assert error.filename
    assert raised.value.hint
    assert context.wishes == before
    assert context.handshake_timeout == 30


def test_what_cannot_be_meant(files: Path) -> None:
    """It is refused, and never ignored; what changes nothing is not."""
    context = _server(files)
    for call in (context.set_psk_server_callback, context.set_psk_client_callback):
        with pytest.raises(NotImplementedError, match="PSK"):
            call(None, None)
    with pytest.raises(ConfigError, match="DH"):
        context.load_dh_params("file")
    with pytest.raises(ConfigError, match="sni_callback"):
        context.sni_callback = lambda *_: None
    with pytest.raises(ConfigError, match="sni_callback"):
        context.set_servername_callback(lambda *_: None)
    with pytest.raises(ConfigError, match="post-handshake"):
        context.post_handshake_auth = True
    context.sni_callback = None
    context.post_handshake_auth = False
    assert context.sni_callback is None
    assert context.post_handshake_auth is False


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_protocol() -> None:
    """One that fixes a version is refused; the one for both roles is not."""
    with pytest.raises(ConfigError, match="is not one that tlsify speaks"):
        SSLContext(ssl.PROTOCOL_TLSv1_2)
    assert isinstance(SSLContext(), ssl.SSLContext)
