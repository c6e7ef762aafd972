"""Tests of version."""

from __future__ import annotations

import platform

import pytest

from tests.cli.forked import refused
from tlsify import __version__


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
    assert lines[4:] == ["carrier: relay (policy-off: kernel TLS is off by choice)"]


@pytest.mark.ktls
def test_carrier() -> None:
    """It is the kernel where that can be."""
    assert refused("version").succeeded().endswith(b"\ncarrier: kernel TLS\n")
