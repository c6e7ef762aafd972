"""Tests of client."""

from __future__ import annotations

import argparse
import base64
from typing import TYPE_CHECKING

import pytest

from tlsify.cli.options import client as client_options
from tlsify.codepoints import DEFAULT_AEADS, Aead, ProtocolVersion
from tlsify.errors import ConfigError
from tlsify.names import ReferenceIdentifier

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Pki
    from tlsify.config import ClientConfig

_ENVIRONMENT = ("CAFILE", "CADIR", "CERTFILE", "KEYFILE", "SSLKEYLOGFILE")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is said by the environment."""
    for name in _ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)


def configure(*words: str | Path, host: str | None = "example.org") -> ClientConfig:
    """Parse and configure."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    client_options.add_arguments(parser)
    arguments = parser.parse_args([str(word) for word in words])
    arguments.timeout = 5.0
    return client_options.configure(arguments, host)


def test_nothing_said() -> None:
    """The host, verified, by the system's trust anchors; nothing kept, nothing disclosed."""
    config = configure()
    assert config.server_name == "example.org"
    assert config.identities == (ReferenceIdentifier.for_host("example.org"),)
    assert config.verify
    assert config.trust.certificates is None
    assert (config.versions, config.aeads) == (frozenset(ProtocolVersion), DEFAULT_AEADS)
    unset = (config.key_pair, config.session_store, config.key_log, config.pins, config.crls)
    assert unset == (None, None, None, (), ())


def test_everything_said(pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each flag arrives."""
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "log"))
    pin = bytes(range(32))
    config = configure(
        *("--servername", "www.example.org", "--ref-id", "dns:a", "--ref-id", "ip:::1"),
        *("--pin", f"sha256//{base64.b64encode(pin).decode()}"),
        *("--ca", pki.authority, "--cert", pki.good.certificate, "--key", pki.good.key),
        *("--alpn", "h2", "--alpn", "http/1.1", "--tls-min", "1.3"),
        *("--ciphers", "chacha20-poly1305,aes-128-gcm", "--session-store", tmp_path, "--keylog"),
    )
    assert config.server_name == "www.example.org"
    assert [str(identity) for identity in config.identities] == ["dns:a", "ip:::1"]
    assert config.pins == (pin,)
    assert config.key_pair is not None
    assert config.alpn == (b"h2", b"http/1.1")
    assert config.versions == {ProtocolVersion.TLSv1_3}
    assert config.aeads == (Aead.CHACHA20_POLY1305, Aead.AES_GCM_128)
    assert config.session_store == tmp_path
    assert config.key_log == tmp_path / "log"


@pytest.mark.parametrize("host", ["192.0.2.1", "::1", "fe80::1%lo", "[::1]"])
def test_address(host: str) -> None:
    """It is accepted as such, and not sent as a name."""
    config = configure(host=host)
    assert config.server_name is None
    assert config.identities == (ReferenceIdentifier.for_host(host),)


def test_name_as_it_was_typed() -> None:
    """HOST, --servername and --ref-id have one canonical form."""
    for config in (
        configure(host="Straße.example."),
        configure("--servername", "Straße.example.", host="192.0.2.1"),
        configure("--ref-id", "dns:Straße.example.", host="Straße.example."),
    ):
        assert config.server_name == "xn--strae-oqa.example"
        assert list(map(str, config.identities)) == ["dns:xn--strae-oqa.example"]
    with pytest.raises(ConfigError, match="neither a host's name"):
        configure("--servername", "https://example.org")


def test_files_named_by_the_environment(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ucspi-ssl and s6-tls have them; a flag goes first."""
    monkeypatch.setenv("CERTFILE", str(pki.good.certificate))
    monkeypatch.setenv("KEYFILE", str(pki.good.key))
    monkeypatch.setenv("CAFILE", "/nonexistent")
    assert configure("--ca", pki.authority).key_pair is not None
    with pytest.raises(ConfigError, match="/nonexistent"):
        configure()


def test_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Accepting anybody is said aloud."""
    assert not configure("--no-verify", host=None).verify
    assert "not verified" in caplog.text


@pytest.mark.parametrize(
    ("words", "host", "said"),
    [
        ((), None, "no server name or identity"),
        (("--keylog",), "h", "--keylog without a file"),
        (("--ca", "/nonexistent"), "h", "/nonexistent"),
        (("--crl", "/nonexistent"), "h", "/nonexistent"),
        (("--no-verify", "--ref-id", "dns:h"), "h", "--no-verify leaves --ref-id"),
        (("--no-verify", "--crl", "x"), "h", "--ref-id and --crl without effect"),
        (("--cert", "x"), "h", "cannot read certificate x"),
        (("--key", "x"), "h", "without its certificate"),
        (("--cert", "x", "--key", "x", "--key-fd", "5"), "h", "exclude"),
        (("--tls-min", "1.3", "--tls-max", "1.2"), "h", "--tls-min is above"),
        (("--pin", "sha256//short"), "h", "pin"),
        (("--ref-id", "cn:example.org"), "h", "cn:example.org"),
    ],
)
def test_refusals(words: tuple[str, ...], host: str | None, said: str) -> None:
    """One line each, before anything is sent."""
    with pytest.raises(ConfigError, match=said):
        configure(*words, host=host)


@pytest.mark.parametrize("words", [("--ciphers", "rc4"), ("--ciphers", ""), ("--tls-min", "1.1")])
def test_misuse(words: tuple[str, ...]) -> None:
    """Values that do not exist are the parser's to refuse."""
    with pytest.raises(argparse.ArgumentError):
        configure(*words)
