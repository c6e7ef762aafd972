"""Tests of codings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlsify.static.codings import ENDINGS, wanted


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (None, []),
        ("", []),
        ("gzip", ["gzip"]),
        ("gzip, br", ["br", "gzip"]),
        ("br;q=0.1, gzip;q=0.2", ["gzip", "br"]),
        ("br; q=1.000 , gzip ;q=1", ["br", "gzip"]),
        ("GZip;Q=1", ["gzip"]),
        ("x-gzip", ["gzip"]),
        ("x-gzip;q=0, gzip", []),
        ("*", ["br", "zstd", "gzip"]),
        ("*;q=0", []),
        ("*, gzip;q=0", ["br", "zstd"]),
        ("gzip;q=0", []),
        ("gzip;q=0.000, br;q=0.001", ["br"]),
        ("gzip, identity;q=0", ["gzip"]),
        ("gzip;q=0.5, identity", []),
        ("gzip, identity", ["gzip"]),
        ("gzip;q=2", []),
        ("gzip;q=0.5555", []),
        ("gzip;q=", []),
        ("gzip;level=9", []),
        ("gzip br", []),
        ("agzip, gzipa, brr", []),
        ("deflate, zstd, compress", ["zstd"]),
        (",, gzip ,", ["gzip"]),
    ],
)
def test_wanted(field: str | None, expected: list[str]) -> None:
    """Codings come by weight; what is no member asks for nothing."""
    assert list(wanted(field)) == expected


@given(st.text(st.sampled_from("gzipbrx-*;q=01., identity")))
def test_any_field(field: str) -> None:
    """Nothing is raised, and nothing is made up."""
    assert set(wanted(field)) <= set(ENDINGS)
