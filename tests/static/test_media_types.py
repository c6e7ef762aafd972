"""Tests of media_types."""

from __future__ import annotations

import pytest

from tlsify.static.media_types import media_type


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"index.html", "text/html"),
        (b"INDEX.HTML", "text/html"),
        (b"style.css", "text/css"),
        (b"app.js", "text/javascript"),
        (b"app.mjs", "text/javascript"),
        (b"data.json", "application/json"),
        (b"code.wasm", "application/wasm"),
        (b"font.woff2", "font/woff2"),
        (b"icon.svg", "image/svg+xml"),
        (b"photo.webp", "image/webp"),
        (b"dump.sql.gz", "application/gzip"),
        (b"page.html.br", "application/x-brotli"),
        (b"caf\xe9.txt", "text/plain"),
        (b"data:text,x.html", "text/html"),
        (b"x.caf\xe9", "application/octet-stream"),
        (b"README", "application/octet-stream"),
        (b".html", "application/octet-stream"),
        (b"html", "application/octet-stream"),
        (b"x.", "application/octet-stream"),
    ],
)
def test_endings(name: bytes, expected: str) -> None:
    """The last ending tells, and nothing else."""
    assert media_type(name) == expected
