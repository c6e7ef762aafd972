"""Tests of reading what a configuration names."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from tests.want import no_descriptors
from tlsify.credentials import reading
from tlsify.credentials.reading import read_file
from tlsify.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    from pathlib import Path

PEM = b"-----BEGIN CERTIFICATE-----"


def test_no_descriptor_to_read_with(tmp_path: Path) -> None:
    """A shortage of ours is no fault of the file's: it says so, and how to have more."""
    path = tmp_path / "chain.pem"
    path.write_bytes(PEM)
    with (
        no_descriptors(),
        pytest.raises(ResourceError, match=r"cannot read cert.+ EMFILE") as caught,
    ):
        read_file(path, "certificate")
    assert "ulimit" in str(caught.value.hint)
    assert read_file(path, "certificate") == PEM


def test_pipe(tmp_path: Path) -> None:
    """What is written into a named pipe is read, whoever opens it first."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=[PEM])
    writer.start()
    assert read_file(path, "private key") == PEM
    writer.join()


def test_what_has_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe that nobody writes to, and a device that never ends, are errors, and soon."""
    monkeypatch.setattr(reading, "_PATIENCE", 0.01)
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(ConfigError, match="nobody writes"):
        read_file(path, "private key")
    monkeypatch.setattr(reading, "_PATIENCE", 60.0)
    monkeypatch.setattr(reading, "_MOST", 2**20)
    with pytest.raises(ConfigError, match="too large"):
        read_file("/dev/zero", "private key")
