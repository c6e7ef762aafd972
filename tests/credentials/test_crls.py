"""Tests of files of revocation lists."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.conftest import make_crl
from tlsify.credentials import crls
from tlsify.credentials.parse import parse_crls
from tlsify.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    import trustme


def test_file(authority: trustme.CA, tmp_path: Path) -> None:
    """All the lists of a file are read; one that is not there is named."""
    pem = make_crl(authority)
    path = tmp_path / "lists"
    path.write_bytes(pem)
    assert crls.load(str(path)) == parse_crls(pem, "it")
    with pytest.raises(ConfigError, match=r"cannot read revocation list .*absent"):
        crls.load(tmp_path / "absent")
