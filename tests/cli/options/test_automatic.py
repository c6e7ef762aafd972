"""Tests of automatic."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.certificates import certify, respond, save
from tests.cli.forked import refused
from tests.renewal.test_staples import AUTHORITY
from tlsify.cli import parser
from tlsify.cli.options import automatic
from tlsify.cli.options import server as server_options
from tlsify.errors import ConfigError
from tlsify.renewal.staples import file_of

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

_AGREED = ("--acme", "a.example", "--acme-agree-tos")


def parsed(*words: str | Path) -> argparse.Namespace:
    """Parse the words of a server."""
    return parser.read_words("serve", [*map(str, words), "."])


def test_folder_of_no_use(tmp_path: Path) -> None:
    """A folder that others may read, or that cannot be made, is refused at the start."""
    for path, said in ((tmp_path, "not private"), (tmp_path / "none/acme", "ENOENT")):
        tmp_path.chmod(0o755)
        line = ("serve", "--listen", "127.0.0.1:0", *_AGREED, "--acme-dir", path, tmp_path)
        refused(*line).failed(96, said)


def test_folder_without_locks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The server starts with the certificates that are there, and says what it cannot do."""
    tmp_path.chmod(0o700)
    (tmp_path / ".servers").mkdir()  # a file system that is read-only fails in the same call
    found = automatic.read(parsed(*_AGREED, "--acme-dir", tmp_path), prepare=True)
    assert found.certificates is not None
    assert f"nothing can be renewed in {tmp_path}: EISDIR" in caplog.text


def test_package_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the extra."""
    monkeypatch.setattr(automatic, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="needs the package acme") as caught:
        automatic.read(parsed(*_AGREED, "--acme-dir", tmp_path))
    assert "tlsify[acme]" in caught.value.hint


def test_key_of_another_account(tmp_path: Path) -> None:
    """It is the authority's text; what cannot be one is refused at the start."""
    path, words = tmp_path / "key", ("--acme-dir", tmp_path / "acme", "--acme-eab-kid", "kid")
    for text, expected in (("zWNDZM6eQGHWpSRTPal5eIUYFTu7EajV==\n", True), ("{}", False)):
        path.write_text(text)
        arguments = parsed(*_AGREED, *words, "--acme-eab-key", path)
        if expected:
            found = automatic.read(arguments).certificates
            assert found is not None
            assert found.authority.binding == ("kid", text.strip().rstrip("="))
            continue
        with pytest.raises(ConfigError, match="holds no key in base64url"):
            automatic.read(arguments)


def test_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is systemd's, or the system's or the user's own place for state."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("STATE_DIRECTORY", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for user, name, value, expected in (
        (0, "", "", "/var/lib/tlsify/acme"),
        (1, "", "", f"{tmp_path}/.local/state/tlsify/acme"),
        (1, "XDG_STATE_HOME", "/state", "/state/tlsify/acme"),
        (1, "STATE_DIRECTORY", "/var/lib/private/x:/other", "/var/lib/private/x/acme"),
    ):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        if name:
            monkeypatch.setenv(name, value)
        found = automatic.read(parsed(*_AGREED)).certificates
        assert found is not None
        assert str(found.folder.path) == expected
    responses = automatic.read(parsed("--ocsp-fetch", *_AGREED)).responses
    assert responses is not None
    assert str(responses.path) == "/var/lib/private/x/ocsp"


def test_certificate_that_is_to_come(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A server waits for it only if it has no other; one of no use is left to be replaced.

    One that the server has had stays, whatever becomes of its file.
    """
    arguments = parsed(*_AGREED, "--acme-dir", tmp_path / "acme")
    arguments.automatic = automatic.read(arguments, prepare=True)
    assert server_options.configure(arguments).provisional
    watch = server_options.watch(arguments)
    before, path = watch(), tmp_path / "acme/a.example.pem"
    path.write_bytes(b"garbage")
    assert server_options.configure(arguments).provisional
    assert watch() != before
    assert server_options.key_files(arguments) == [path]
    pair = certify(AUTHORITY, "a.example")
    save(pair, path, path)
    config = server_options.configure(arguments)
    assert not config.provisional
    assert config.key_pair.chain == pair.chain
    assert config.acme_challenge is not None
    assert list(server_options.chains(arguments)) == [pair.chain]
    other = certify(AUTHORITY, "b.example")
    save(other, tmp_path / "b.pem", tmp_path / "b.pem")
    path.unlink()
    arguments.cert = [tmp_path / "b.pem"]
    config = server_options.configure(arguments)
    assert (config.provisional, config.key_pair.chain) == (False, other.chain)
    for damage in (lambda: None, lambda: path.write_bytes(b"garbage")):
        damage()
        caplog.clear()
        config = server_options.configure(arguments)
        assert [it.chain for it in config.more_key_pairs] == [pair.chain]
        assert caplog.text.count("kept as it was until ACME replaces it") == 1


def test_response_that_was_fetched(tmp_path: Path) -> None:
    """It is stapled as long as it is of use, and if none was named."""
    pair = certify(AUTHORITY, "a.example", responder="http://localhost:1")
    save(pair, tmp_path / "a.pem", tmp_path / "a.pem")
    arguments = parsed("--cert", tmp_path / "a.pem", "--ocsp-fetch", "--ocsp-dir", tmp_path / "o")
    arguments.automatic = automatic.read(arguments, prepare=True)
    path = tmp_path / "o" / file_of(pair.chain[0])
    assert server_options.configure(arguments).key_pair.ocsp is None
    path.write_bytes(good := respond(AUTHORITY, pair))
    assert server_options.configure(arguments).key_pair.ocsp == good
    path.write_bytes(respond(AUTHORITY, certify(AUTHORITY, "b.example")))
    assert server_options.configure(arguments).key_pair.ocsp is None
    path.write_bytes(b"garbage")
    (tmp_path / "named").write_bytes(good)
    arguments.ocsp = [tmp_path / "named"]
    assert server_options.configure(arguments).key_pair.ocsp == good
