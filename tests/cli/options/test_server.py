"""Tests of server."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

import pytest

from tests.certificates import DAY, certify, respond, save
from tlsify.cli.options import server as server_options
from tlsify.config import KtlsMode, KtlsPolicy, ServerConfig
from tlsify.errors import ConfigError, KtlsUnavailable

if TYPE_CHECKING:
    from pathlib import Path

    import trustme

    from tests.cli.conftest import Pki


def parse(*words: str | int | Path) -> argparse.Namespace:
    """Parse."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    server_options.add_arguments(parser)
    arguments = parser.parse_args([str(word) for word in words])
    arguments.timeout = 5.0
    return arguments


def configure(pki: Pki, *words: str | int | Path) -> ServerConfig:
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
        (("--client-ref-id", "dns:x"), "requires trust anchors"),
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


# -- several certificates


@pytest.fixture
def folder(authority: trustme.CA, tmp_path: Path) -> Path:
    """Two certificates, one with a response."""
    for name in ("a.example", "b.example"):
        pair = certify(authority, name)
        save(pair, tmp_path / f"{name}.crt", tmp_path / f"{name}.key")
        if name == "b.example":
            (tmp_path / f"{name}.ocsp").write_bytes(respond(authority, pair))
    return tmp_path


def test_several_pairs(pki: Pki, folder: Path) -> None:
    """The first named is the default; those of a folder come after it."""
    second = ("--cert", folder / "b.example.crt", "--key", folder / "b.example.key")
    config = configure(pki, *second, "--cert-dir", folder)
    assert "localhost" in config.key_pair.names
    assert [pair.names[0] for pair in config.more_key_pairs] == [
        "b.example",
        "a.example",
        "b.example",
    ]


def test_folder_alone(folder: Path, monkeypatch: pytest.MonkeyPatch, pki: Pki) -> None:
    """A folder is enough, whatever the environment says."""
    monkeypatch.setenv("CERTFILE", str(pki.good.certificate))
    config = server_options.configure(parse("--cert-dir", folder))
    assert config.key_pair.names == ("a.example",)
    (other,) = config.more_key_pairs
    assert other.staple() is not None


def test_file_that_is_left_alone(
    folder: Path, authority: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    """It is named, and the server starts with the others."""
    (folder / "ca.crt").write_bytes(authority.cert_pem.bytes())
    config = server_options.configure(parse("--cert-dir", folder))
    assert config.key_pair.names == ("a.example",)
    assert "ca.crt is left alone: it is an authority's certificate, without a key" in caplog.text


def test_key_from_a_descriptor_and_a_folder(pki: Pki, folder: Path) -> None:
    """One key may come from elsewhere."""
    with pki.good.key.open("rb") as source:
        words = ("--cert", pki.good.certificate, "--key-fd", os.dup(source.fileno()))
        config = server_options.configure(parse(*words, "--cert-dir", folder))
    assert "localhost" in config.key_pair.names
    assert len(config.more_key_pairs) == 2


def test_useless_key_from_a_descriptor(pki: Pki) -> None:
    """The error names the descriptor, not the certificate's file."""
    with pki.authority.open("rb") as source:
        number = os.dup(source.fileno())
        words = ("--cert", pki.good.certificate, "--key-fd", number)
        with pytest.raises(ConfigError, match=f"^descriptor {number} holds no private key"):
            server_options.configure(parse(*words))


def test_half_of_a_pair(pki: Pki, folder: Path) -> None:
    """As many keys as certificates, and one from a descriptor at most."""
    with pytest.raises(ConfigError, match="each --cert goes together"):
        configure(pki, "--cert", folder / "a.example.crt")
    both = ("--cert", pki.good.certificate, "--cert", folder / "a.example.crt")
    with pytest.raises(ConfigError, match="--key-fd is for a single --cert"):
        server_options.configure(parse(*both, "--key-fd", "0"))


def test_responses(
    authority: trustme.CA, folder: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """A response finds its certificate by itself; one that finds none is told of."""
    pair = certify(authority, "c.example")
    save(pair, tmp_path / "c/fullchain.pem", tmp_path / "c/privkey.pem")
    path = tmp_path / "response"
    path.write_bytes(respond(authority, pair))
    config = server_options.configure(parse("--cert-dir", folder, "--ocsp", path))
    (named,) = [each for each in config.more_key_pairs if each.names == ("c.example",)]
    assert named.staple() == path.read_bytes()
    assert caplog.messages == []
    path.write_bytes(respond(authority, certify(authority, "d.example")))
    server_options.configure(parse("--cert-dir", folder, "--ocsp", path))
    assert "about no certificate here" in caplog.text
    path.write_bytes(respond(authority, pair, begin=-2 * DAY, end=-DAY))
    caplog.clear()
    server_options.configure(parse("--cert-dir", folder, "--ocsp", path))
    (message,) = caplog.messages
    assert "it is not stapled" in message


def test_what_is_amiss(pki: Pki, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An expired certificate and an open key are told of, loudly, and used all the same."""
    key = tmp_path / "key"
    key.write_bytes(pki.bad["expired"].key.read_bytes())
    key.chmod(0o644)
    words = parse("--cert", pki.bad["expired"].certificate, "--key", key)
    assert server_options.configure(words, quiet=True)
    assert caplog.messages == []
    assert server_options.configure(words)
    open_key, expired = caplog.messages
    assert "any user can read" in open_key
    assert "the certificate expired on" in expired


def test_groups(pki: Pki) -> None:
    """Spelled either way."""
    assert configure(pki, "--groups", "x25519mlkem768,P-256").groups == (
        "X25519MLKEM768",
        "secp256r1",
    )
    assert configure(pki).groups == ()
    with pytest.raises((argparse.ArgumentError, SystemExit)):
        parse("--groups", "ffdhe2048")


def test_watch(pki: Pki, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is read, by flags or by the environment, shows a change; all else does not."""
    files = {name: tmp_path / name for name in ("cert", "key", "ocsp", "ca", "crl")}
    for path in files.values():
        path.touch()
    words: list[str | Path] = ["--cert", files["cert"], "--key", files["key"]]
    words += ["--ocsp", files["ocsp"]]
    words += ["--client-cert", "request", "--client-ca", files["ca"], "--crl", files["crl"]]
    look = server_options.watch(parse(*words))
    for path in files.values():
        before = look()
        path.write_bytes(b"x")
        assert look() != before
    before = look()
    (folder / "a.example.key").write_bytes(b"x")
    assert look() == before
    look = server_options.watch(parse("--cert-dir", folder))
    before = look()
    (folder / "a.example.key").write_bytes(b"xy")
    assert look() != before
    monkeypatch.setenv("CERTFILE", str(pki.good.certificate))
    monkeypatch.setenv("KEYFILE", str(files["key"]))
    monkeypatch.setenv("CAFILE", str(files["ca"]))
    look = server_options.watch(parse("--client-cert", "request"))
    for name in ("key", "ca"):
        before = look()
        files[name].write_bytes(b"xyz")
        assert look() != before
    look = server_options.watch(parse("--cert", files["cert"]))
    before = look()
    files["key"].write_bytes(b"in KEYFILE")
    assert look() != before


def test_watch_of_folders(tmp_path: Path) -> None:
    """Keys of a folder beside the certificates' show a change; files of other kinds do not."""
    certificates, keys = tmp_path / "certs", tmp_path / "private"
    for made in (certificates, keys):
        made.mkdir()
    look = server_options.watch(parse("--cert-dir", certificates))
    before = look()
    (certificates / "acme.log").touch()
    assert look() == before
    (keys / "a.key").touch()
    assert look() != before


@pytest.mark.usefixtures("lacks_ktls")
def test_kernel_that_cannot(pki: Pki) -> None:
    """It shows before the first client."""
    arguments = parse()
    policy = KtlsPolicy(KtlsMode.REQUIRE)
    with pytest.raises(KtlsUnavailable):
        server_options.prepare(arguments, configure(pki), policy)
