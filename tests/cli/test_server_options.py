"""Tests of server_options."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import pytest

from tlsify.cli import server_options
from tlsify.config import KtlsMode, KtlsPolicy, ServerConfig
from tlsify.errors import ConfigError, KtlsUnavailable

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Pki


def parse(*words: str | Path) -> argparse.Namespace:
    """Parse."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    server_options.add_arguments(parser)
    arguments = parser.parse_args([str(word) for word in words])
    arguments.timeout = 5.0
    return arguments


def configure(pki: Pki, *words: str | Path) -> ServerConfig:
    """Configure a server that has a certificate."""
    shown = ("--cert", pki.good.certificate, "--key", pki.good.key)
    return server_options.configure(parse(*shown, *words))


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is said by the environment."""
    for name in ("CAFILE", "CADIR", "CERTFILE", "KEYFILE", "SSLKEYLOGFILE"):
        monkeypatch.delenv(name, raising=False)


def test_nothing_said(pki: Pki) -> None:
    """A certificate to show, nothing asked of clients, no tickets."""
    config = configure(pki)
    assert config.client_trust is None
    assert not config.client_required
    assert not config.resumption
    assert config.key_log is None


def test_clients(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked, or refused without a certificate; by a flag or by the environment's authority."""
    words = ("--client-cert", "require", "--client-ca", pki.authority)
    config = configure(pki, *words, "--client-ref-id", "dns:me", "--alpn", "x", "--resumption")
    assert config.client_trust is not None
    assert config.client_required
    assert [str(identity) for identity in config.client_identities] == ["dns:me"]
    assert config.alpn == (b"x",)
    assert config.resumption
    monkeypatch.setenv("CAFILE", str(pki.authority))
    config = configure(pki, "--client-cert", "request")
    assert config.client_trust is not None
    assert not config.client_required


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--client-cert", "require"), "no authority"),
        (("--client-ca", "x"), "--client-ca without --client-cert"),
        (("--client-ref-id", "dns:x"), "no trust anchors"),
        (("--user", "no-such-user"), "no-such-user"),
        (("--crl", "/nonexistent"), "/nonexistent"),
    ],
)
def test_refusals(pki: Pki, words: tuple[str, ...], said: str) -> None:
    """One line each, before anybody is listened to."""
    with pytest.raises(ConfigError, match=said):
        configure(pki, *words)


def test_no_certificate() -> None:
    """A server has to have one."""
    with pytest.raises(ConfigError, match="needs a certificate"):
        server_options.configure(parse())


@pytest.mark.usefixtures("lacks_ktls")
def test_kernel_that_cannot(pki: Pki) -> None:
    """It shows before the first client."""
    arguments = parse()
    policy = KtlsPolicy(KtlsMode.REQUIRE)
    with pytest.raises(KtlsUnavailable):
        server_options.prepare(arguments, configure(pki), policy)
