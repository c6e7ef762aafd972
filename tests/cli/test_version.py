"""Tests of version."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

import pytest

from tests.cli.forked import refused
from tlsify import __version__
from tlsify.cli.version import addresses

if TYPE_CHECKING:
    from pathlib import Path


def test_versions() -> None:
    """One line for each part; the last one says what the options allow."""
    lines = refused("version", "--ktls=off").succeeded().decode().splitlines()
    starts = (
        f"tlsify {__version__}",
        f"Python {platform.python_version()} (/",
        "OpenSSL ",
        "Linux ",
    )
    assert all(map(str.startswith, lines, starts))
    assert lines[4] == "carrier: relay (policy-off: kernel TLS is off by choice)"


@pytest.mark.ktls
def test_carrier() -> None:
    """It is the kernel where that can be."""
    assert b"\ncarrier: kernel TLS\n" in refused("version").succeeded()


def test_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the installed package are printed; of none, none."""
    about = tmp_path / "tlsify-9.dist-info/METADATA"
    about.parent.mkdir()
    about.write_text(
        "Metadata-Version: 2.4\nName: tlsify\nVersion: 9\n"
        "Project-URL: Source, https://example.org/tlsify\n"
        "Project-URL: Issues, https://example.org/a,b\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert addresses() == [
        "Source: https://example.org/tlsify\n",
        "Issues: https://example.org/a,b\n",
    ]
    about.write_text("Metadata-Version: 2.4\nName: tlsify\nVersion: 9\n")
    assert addresses() == []
