"""Tests of the options for TLS to backends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tlsify.cli.options import backend as backend_options
from tlsify.cli.parser import verb_parser
from tlsify.codepoints import Aead, ProtocolVersion
from tlsify.errors import ConfigError, UsageError
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


def test_what_is_to_be_verified() -> None:
    """A backend without a name needs one; what no-verify leaves without effect is no option."""
    for words, said in (
        (["tls:unix:/b"], "add --backend-servername NAME or --backend-ref-id"),
        (["b.example:2", "--backend-no-verify", "--backend-ref-id=dns:x"], "drop --backend-no-v"),
    ):
        given = read("--connect", ":1", *words)
        with pytest.raises(UsageError) as caught:
            backend_options.configure(given, given.rules)
        assert said in str(caught.value.hint)
    own = ["--backend-ref-id", "dns:x", "--backend-for", "b.example:2=no-verify"]
    given = read("--connect", ":1", *own, "b.example:2")
    (config,) = backend_options.configure(given, given.rules).values()
    assert not config.verify


def test_no_tls() -> None:
    """Without TLS to any backend there is nothing to configure, and nothing may be said."""
    given = read(":1", "a.example:1")
    assert backend_options.configure(given, given.rules) == {}
    for words in (["--backend-no-verify"], ["--backend-tls-min", "1.3"], ["--backend-pin", "x"]):
        with pytest.raises((UsageError, SystemExit)):
            read(":1", "a.example:1", *words)


def test_settings_of_one_backend(pki: Pki, tmp_path: Path) -> None:
    """They take the place of what is said for all; what belongs together is replaced together."""
    pins = [f"sha256//{each * 43}=" for each in "AB"]
    both = tmp_path / "both.pem"
    both.write_bytes(pki.good.certificate.read_bytes() + pki.good.key.read_bytes())
    words: list[str | Path] = ["--backend-cert", pki.good.certificate]
    words += ["--backend-key", pki.good.key, "--backend-ref-id", "dns:all.example"]
    words += ["--backend-pin", pins[0], "--backend-tls-min", "1.3", "--backend-alpn", "h2"]
    for setting in (f"cert={both}", f"ca={pki.authority}", "servername=alone.example"):
        words += ["--backend-for", f"b.example:2={setting}"]
    for setting in (f"pin={pins[0]}", f"pin={pins[1]}", "no-verify", "tls-min=1.2"):
        words += ["--backend-for", f"tls:b.example:2={setting}"]
    given = read("--connect", *words, ":1", "--route", "listen::9=b.example:2", "a.example:1")
    configs = backend_options.configure(given, given.rules)
    ours, others = configs[B], configs[A]
    assert [len(each.pins) for each in (others, ours)] == [1, 2]
    assert [str(each.identities[0]) for each in (others, ours)] == [
        "dns:all.example",
        "dns:alone.example",
    ]
    assert (others.verify, ours.verify) == (True, False)
    assert [len(each.versions) for each in (others, ours)] == [1, 2]
    assert ours.alpn == others.alpn == (b"h2",)
    assert ours.trust is not others.trust
    assert set(backend_options.files(given)) == {
        *(pki.authority, both, pki.good.certificate, pki.good.key)
    }


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("b.example:2", "no setting"),
        ("b.example:2=", "no setting"),
        ("b.example:2=starttls=smtp", "unrecognized"),
        ("b.example:2=timeout=2", "unrecognized"),
        ("b.example:2=ca", "expected one argument"),
        ("b.example:2=tls-min=1.1", "invalid choice"),
        ("b.example:2=pin=x", "pin"),
        ("b.example=ca=x", "b.example"),
        ("c.example:2=ca=x", "no backend with TLS has the address c.example:2"),
        ("b.example:2=key=x", "without --backend-cert"),
    ],
)
def test_settings_that_are_none(
    capfd: pytest.CaptureFixture[str], setting: str, complaint: str
) -> None:
    """Each is an error of usage that names what is wrong."""
    with pytest.raises((ConfigError, SystemExit)) as found:
        read("--connect", ":1", "b.example:2", "--backend-for", setting)
    assert complaint in f"{found.value}{capfd.readouterr().err}"
