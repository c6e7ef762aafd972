"""Tests of showable: a certificate is refused at the start, or can be shown."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from tests.certificates import self_signed
from tests.conftest import HOST
from tests.doubles import EnginePair
from tests.interop.programs import require
from tlsify.codepoints import Aead, CipherSuite, ProtocolVersion
from tlsify.config import ClientConfig, KtlsMode, KtlsPolicy, ServerConfig
from tlsify.connection.establish import prepare
from tlsify.credentials.anchors import TrustAnchors
from tlsify.credentials.key_pair import KeyPair
from tlsify.errors import ConfigError
from tlsify.tls.engine import Engine
from tlsify.tls.showable import check

if TYPE_CHECKING:
    from pathlib import Path

    from tlsify.credentials.parse import PrivateKey

USUAL: dict[str, PrivateKey] = {
    "P-256": ec.generate_private_key(ec.SECP256R1()),
    "P-384": ec.generate_private_key(ec.SECP384R1()),
    "P-521": ec.generate_private_key(ec.SECP521R1()),
    "RSA": rsa.generate_private_key(65537, 2048),
    "RSA-3": rsa.generate_private_key(3, 2048),
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
    "Ed448": ed448.Ed448PrivateKey.generate(),
}
ODD: dict[str, PrivateKey] = {
    "secp256k1": ec.generate_private_key(ec.SECP256K1()),
    "secp224r1": ec.generate_private_key(ec.SECP224R1()),
    "brainpoolP256r1": ec.generate_private_key(ec.BrainpoolP256R1()),
    "brainpoolP512r1": ec.generate_private_key(ec.BrainpoolP512R1()),
    "RSA 1024": rsa.generate_private_key(65537, 1024),  # to be refused
}


def shake(pair: KeyPair, *versions: ProtocolVersion, aeads: tuple[Aead, ...] = ()) -> None:
    """Do a handshake of tlsify's own in which a server shows a certificate."""
    client = ClientConfig.for_host(HOST, trust=TrustAnchors(pair.chain))
    server = ServerConfig(key_pair=pair, versions=frozenset(versions or ProtocolVersion))
    if aeads:
        client, server = replace(client, aeads=aeads), replace(server, aeads=aeads)
    EnginePair(client, server).run()


@pytest.mark.parametrize("suite", CipherSuite, ids=lambda suite: suite.name)
@pytest.mark.parametrize("kind", USUAL)
def test_usual(kind: str, suite: CipherSuite) -> None:
    """What is taken without a trial can be shown, whatever else is negotiated."""
    pair = self_signed(USUAL[kind])
    if suite.version is ProtocolVersion.TLSv1_3:
        check(ServerConfig(key_pair=pair, aeads=(suite.aead,)))
        shake(pair, suite.version, aeads=(suite.aead,))
        return
    # In TLS 1.2 a suite fits some kinds of key.
    config = ServerConfig(
        key_pair=pair, versions=frozenset({ProtocolVersion.TLSv1_2}), aeads=(suite.aead,)
    )
    try:
        check(config)
    except ConfigError as error:
        assert kind.startswith("RSA") and suite.aead is Aead.AES_CCM_128, error
    else:
        shake(pair, suite.version, aeads=(suite.aead,))


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("versions", [{*ProtocolVersion}, *({each} for each in ProtocolVersion)])
def test_odd(kind: str, versions: set[ProtocolVersion]) -> None:
    """What is refused could not be shown, and what is not can be, by either side."""
    pair = self_signed(ODD[kind])
    client = ClientConfig(verify=False, key_pair=pair, versions=frozenset(versions))
    server = ServerConfig(key_pair=pair, versions=frozenset(versions))
    refused = []
    for config in (server, client):
        try:
            check(config)
        except ConfigError as error:
            assert "RSA (2048" in error.hint
            with pytest.raises(ConfigError):
                Engine(config)
            refused.append(str(error))
        else:
            shake(pair, *versions)
    assert len(refused) in {0, 2}
    if kind in {"secp256k1", "secp224r1"}:
        assert f"({kind})" in refused[0]
        assert "CN=" in refused[0]
    assert refused or kind.startswith("brainpool")


PSS = {
    "plain": (),
    "of OpenSSL's wishes": ("rsa_pss_keygen_md:sha256", "rsa_pss_keygen_mgf1_md:sha256"),
    "of odd ones": ("rsa_pss_keygen_md:sha224", "rsa_pss_keygen_saltlen:7"),
}


@pytest.mark.parametrize("kind", PSS)
def test_rsa_pss(tmp_path: Path, kind: str) -> None:
    """A key that is for RSA-PSS alone, of which the parser keeps no more than that it is RSA."""
    require("openssl")
    wishes = [word for wish in PSS[kind] for word in ("-pkeyopt", wish)]
    request = ["-x509", "-subj", "/CN=pss", "-addext", f"subjectAltName=DNS:{HOST}"]
    for words in (
        ["genpkey", "-algorithm", "RSA-PSS", *wishes, "-out", "key"],
        ["req", *request, "-key", "key", "-out", "chain"],
    ):
        subprocess.run(["openssl", *words], cwd=tmp_path, check=True, capture_output=True)
    try:
        pair = KeyPair.load(tmp_path / "chain", tmp_path / "key")
        check(ServerConfig(key_pair=pair))
    except ConfigError as error:
        assert "RSA" in f"{error} {error.hint}"
    else:
        shake(pair)


def test_each_is_looked_at(key_pair: KeyPair) -> None:
    """One among many is found, at the start, and told by whose it is."""
    odd = self_signed(ODD["secp256k1"])
    config = ServerConfig(key_pair=key_pair, more_key_pairs=(key_pair, odd))
    with pytest.raises(ConfigError, match=r"certificate of CN=.*TLSv1\.2 or TLSv1\.3"):
        prepare(config, KtlsPolicy(KtlsMode.OFF))


def test_nothing_to_show() -> None:
    """A client need not have a certificate."""
    check(ClientConfig(verify=False))
