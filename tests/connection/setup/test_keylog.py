"""Tests of keylog."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.doubles import RELAY, VERSIONS, Endpoint
from tlsify.connection.establish import accept, connect
from tlsify.connection.setup import keylog
from tlsify.connection.setup.keylog import append
from tlsify.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.doubles import Lab
    from tlsify.codepoints import ProtocolVersion


def test_lines_are_added(tmp_path: Path) -> None:
    """The file is made for its owner only, whatever the umask, and grows."""
    path = tmp_path / "keys"
    before = os.umask(0)
    try:
        append(path, b"")
        append(path, b"first\n")
    finally:
        os.umask(before)
    append(path, b"second\n")
    assert path.read_bytes() == b"first\nsecond\n"
    assert path.stat().st_mode & 0o777 == 0o600


def _shared(path: Path) -> None:
    path.touch(0o600)
    path.chmod(0o640)


def _fifo(path: Path) -> None:
    os.mkfifo(path, 0o600)
    path.chmod(0o600)


def _link(path: Path) -> None:
    path.symlink_to("elsewhere")


def _folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("spoil", [_shared, _fifo, _link, _folder])
def test_file_that_is_not_private(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    """What others could read, or what is no file, gets no secret."""
    path = tmp_path / "keys"
    spoil(path)
    with pytest.raises(ConfigError, match="key log") as caught:
        append(path, b"secret\n")
    assert "secret" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [path]


def test_file_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does another user's file."""
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(ConfigError, match="is not private"):
        append(tmp_path / "keys", b"")


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a line is none; the system's reason is told."""
    monkeypatch.setattr(os, "write", lambda _, lines: len(lines) - 1)
    with pytest.raises(ResourceError, match="No space left on device") as raised:
        append(tmp_path / "keys", b"secret\n")
    assert "free some space" in raised.value.hint


@pytest.mark.parametrize("version", VERSIONS)
def test_both_sides_log(lab: Lab, tmp_path: Path, version: ProtocolVersion) -> None:
    """What both sides of a connection write is the same, and enough to read it."""
    client, server = lab.configs(version)
    ours, theirs = lab.tcp()
    other = Endpoint(lambda: accept(theirs, replace(server, key_log=tmp_path / "theirs"), RELAY))
    lab.keep(connect(ours, replace(client, key_log=tmp_path / "ours"), RELAY))
    lab.keep(other.result())
    lines = (tmp_path / "ours").read_bytes().splitlines()
    assert sorted(lines) == sorted((tmp_path / "theirs").read_bytes().splitlines())
    assert len(lines) == (5 if version.label.endswith("3") else 1)


def test_log_that_cannot_be_written_shows_first(lab: Lab, tmp_path: Path) -> None:
    """Before anything is sent, that is."""
    client, _ = lab.configs()
    ours, theirs = lab.tcp()
    with pytest.raises(ConfigError, match="cannot write key log"):
        connect(ours, replace(client, key_log=tmp_path / "absent/keys"), RELAY)
    assert theirs.recv(1) == b""


def test_disk_that_fills_up(
    lab: Lab,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A log that cannot go on does not end connections."""

    def refuse(path: Path, lines: bytes) -> None:
        if lines:
            raise ConfigError(f"cannot write key log {path}: No space left on device")

    monkeypatch.setattr(keylog, "append", refuse)
    client, server = lab.configs()
    ours, theirs = lab.tcp()
    other = Endpoint(lambda: accept(theirs, server, RELAY))
    lab.keep(connect(ours, replace(client, key_log=str(tmp_path / "keys")), RELAY))
    lab.keep(other.result())
    assert "no secrets logged" in caplog.text
    assert "TRAFFIC" not in caplog.text
