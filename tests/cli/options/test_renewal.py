"""Tests of renewal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cli.forked import refused

if TYPE_CHECKING:
    from pathlib import Path

_AGREED = ("--acme", "a.example", "--acme-agree-tos")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--acme", "a.example"), "--acme-agree-tos"),
        (("--acme", "*.example"), "wildcard proven by DNS"),
        (("--acme", "*.example"), "--cert-dir"),
        (("--acme", "192.0.2.1"), 'the address "192.0.2.1"'),
        (("--acme", "a..example"), "a..example"),
        (("--acme", ",".join(f"{number}.example" for number in range(101))), "100 names"),
        ((*_AGREED, "--acme", "a.example,b.example"), "two certificates of --acme begin with a.ex"),
        ((*_AGREED, "--acme-directory", "http://localhost/"), "https://HOST/PATH"),
        ((*_AGREED, "--acme-directory", "localhost"), "https://HOST/PATH"),
        ((*_AGREED, "--acme-email", "nobody"), "NAME@HOST"),
        ((*_AGREED, "--acme-challenge", "dns-01"), "tls-alpn-01"),
        ((*_AGREED, "--acme-challenge", "http-01"), "--redirect-http=:80"),
        ((*_AGREED, "--acme-eab-kid", "x"), "--acme-eab-key"),
    ],
)
def test_misuse(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    """It is refused in two lines, before anything is made or asked."""
    more = ("--acme-dir", tmp_path / "acme", tmp_path)
    refused("serve", "--ktls=off", "--listen", "127.0.0.1:0", *words, *more).failed(100, said)
    assert not (tmp_path / "acme").exists()
