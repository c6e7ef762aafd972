"""Tests of anchors."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from tests.certificates import key_pem
from tlsify.credentials.anchors import TrustAnchors
from tlsify.credentials.self_signed import make_key_pair
from tlsify.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import trustme

    from tlsify.credentials.key_pair import KeyPair


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with two anchors, a readme and a key."""
    for index, suffix in enumerate(("pem", "crt")):
        made = make_key_pair([f"{index}.example.org"])
        (tmp_path / f"{index}.{suffix}").write_bytes(made.certificate_pem())
        (tmp_path / f"{index}.key").write_bytes(key_pem(made))
    (tmp_path / "README").write_text("not a certificate")
    yield tmp_path
    tmp_path.chmod(stat.S_IRWXU)


def test_folder_of_anchors(folder: Path) -> None:
    """Every .pem and .crt file counts, and nothing else."""
    found = TrustAnchors.load(str(folder)).lookup
    assert found is not None
    anchors = [x509.load_der_x509_certificate(anchor.der) for anchor in found.anchors]
    assert [a.subject.rfc4514_string() for a in anchors] == [
        "CN=0.example.org",
        "CN=1.example.org",
    ]


def test_one_file_of_anchors(tmp_path: Path, made: KeyPair, authority: trustme.CA) -> None:
    """A file may hold several."""
    path = tmp_path / "bundle"
    path.write_bytes(made.certificate_pem() + authority.cert_pem.bytes())
    found = TrustAnchors.load(str(path)).lookup
    assert found is not None
    assert [anchor.source for anchor in found.anchors] == [str(path)] * 2


def test_folder_without_anchors(tmp_path: Path) -> None:
    """An empty folder is no way to trust nobody, but a mistake."""
    with pytest.raises(ConfigError, match="no trust anchor"):
        TrustAnchors.load(tmp_path)


def test_folder_with_a_broken_anchor(folder: Path) -> None:
    """The broken file is named."""
    (folder / "2.pem").write_text("garbage")
    with pytest.raises(ConfigError, match=r"2\.pem holds no usable PEM certificate"):
        TrustAnchors.load(folder)


def test_folder_inside_the_folder(folder: Path) -> None:
    """A folder named like a certificate is named in the error."""
    (folder / "sub.pem").mkdir()
    with pytest.raises(ConfigError, match=r"cannot read trust anchors .*sub\.pem"):
        TrustAnchors.load(folder)


def test_unreadable_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that may not be looked at is a ConfigError."""

    def refuse(_: Path) -> list[str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ConfigError, match=r"cannot read trust anchors .*Permission denied"):
        TrustAnchors.load(folder)


def test_missing_anchor_file(tmp_path: Path) -> None:
    """A path that does not exist is named."""
    with pytest.raises(ConfigError, match=r"cannot read trust anchors .*absent"):
        TrustAnchors.load(tmp_path / "absent")
