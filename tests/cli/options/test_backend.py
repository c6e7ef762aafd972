"""Tests of the options for TLS to backends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tlsify.cli.options import backend as backend_options
from tlsify.cli.parser import verb_parser
from tlsify.codepoints import Aead, ProtocolVersion
from tlsify.errors import UsageError
from tlsify.names import ReferenceIdentifier
from tlsify.serving.backend.address import Backend

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from tests.cli.conftest import Pki

A, B = Backend("a.example", 1, is_tls=True), Backend("b.example", 2, is_tls=True)


def read(*words: str | Path) -> argparse.Namespace:
    """Parse a command line of forward."""
    return verb_parser("forward").read([str(word) for word in words])


def test_each_backend_by_its_name() -> None:
    """With nothing said each is verified by its own name and the system's authorities."""
    given = read(":1", "--route", f"sni:x={A},{B},c:3", "tls+smtp:d.example:4")
    configs = backend_options.configure(given, given.rules)
    assert list(configs) == [A, B, Backend("d.example", 4, is_tls=True, starttls="smtp")]
    for backend, config in configs.items():
        assert config.server_name == backend.host
        assert config.identities == (ReferenceIdentifier.for_host(backend.host),)
        assert (config.verify, config.key_pair, config.session_store) == (True, None, None)
        assert config.timeout == 5.0


def test_everything_said(pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each option arrives, and the environment, which is about clients, has no say."""
    monkeypatch.setenv("CERTFILE", "/nowhere")
    monkeypatch.setenv("CAFILE", "/nowhere")
    monkeypatch.setenv("KEYFILE", "/nowhere")
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "log"))
    pin = "sha256//" + "A" * 43 + "="
    store = tmp_path / "store"
    combined = tmp_path / "both.pem"
    combined.write_bytes(pki.good.certificate.read_bytes() + pki.good.key.read_bytes())
    words = ["--backend-servername", "n.example", "--backend-ref-id", "dns:r.example"]
    words += ["--backend-ca", str(pki.authority), "--backend-pin", pin, "--backend-keylog"]
    words += ["--backend-cert", str(combined), "--backend-alpn", "h2"]
    words += ["--backend-tls-min", "1.3", "--backend-ciphers", "aes-256-gcm"]
    words += ["--backend-groups", "x25519", "--backend-session-store", str(store)]
    given = read("--connect", *words, ":1", "a.example:1", "--connect-timeout", "7")
    (config,) = backend_options.configure(given, given.rules).values()
    assert config.server_name == "n.example"
    assert list(map(str, config.identities)) == ["dns:r.example"]
    assert (len(config.pins), config.alpn, config.timeout) == (1, (b"h2",), 7.0)
    assert config.versions == frozenset({ProtocolVersion.TLSv1_3})
    assert config.aeads == (Aead.AES_GCM_256,)
    assert (config.key_log, config.session_store) == (tmp_path / "log", store)
    assert config.key_pair is not None
    assert store.stat().st_mode & 0o777 == 0o700
    assert set(backend_options.files(given)) == {pki.authority, combined}


def test_no_tls() -> None:
    """Without TLS to any backend there is nothing to configure, and nothing may be said."""
    given = read(":1", "a.example:1")
    assert backend_options.configure(given, given.rules) == {}
    for words in (["--backend-no-verify"], ["--backend-tls-min", "1.3"], ["--backend-pin", "x"]):
        with pytest.raises((UsageError, SystemExit)):
            read(":1", "a.example:1", *words)
