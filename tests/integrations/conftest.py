"""A folder, and its site."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.integrations.browsing import MODIFIED, TEXT, Host

if TYPE_CHECKING:
    import ssl
    from pathlib import Path

    from tlsify.config import ServerConfig


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder to serve, and a secret beside it."""
    folder = (tmp_path / "root").resolve()
    (folder / "sub").mkdir(parents=True)
    (folder / "text.txt").write_bytes(TEXT)
    os.utime(folder / "text.txt", (MODIFIED, MODIFIED))
    (folder / "index.html").write_text("<p>front</p>")
    (folder / "sub" / "index.html").write_text("<p>sub</p>")
    (folder / "empty").mkdir()
    (folder / "nothing.bin").touch()
    (folder / "a name.txt").write_text("spaced")
    (folder / "inside").symlink_to("text.txt")
    (folder / "loop").symlink_to("loop")
    (tmp_path / "secret").write_text("SECRET")
    (tmp_path / "root-sibling").mkdir()
    (tmp_path / "root-sibling" / "secret").write_text("SECRET")
    (folder / "outside").symlink_to(tmp_path / "secret")
    (folder / "up").symlink_to(tmp_path)
    (folder / "feigned").mkdir()
    (folder / "feigned" / "index.html").symlink_to(tmp_path / "secret")
    os.mkfifo(folder / "pipe")
    return folder


@pytest.fixture
def site(root: Path, server_config: ServerConfig, client_context: ssl.SSLContext) -> Host:
    """The folder's site."""
    return Host(root, server_config, client_context)
