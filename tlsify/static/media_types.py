"""Content-Type: media types by file names."""

from __future__ import annotations

import os
from mimetypes import MimeTypes

_UNKNOWN = "application/octet-stream"
# What Python's own table lacks, or has otherwise, in some of its versions. What is compressed is
# a type of its own: the file is sent as it is.
_MORE = {
    ".avif": "image/avif",
    ".br": "application/x-brotli",
    ".bz2": "application/x-bzip2",
    ".flac": "audio/flac",
    ".gz": "application/gzip",
    ".js": "text/javascript",
    ".m4a": "audio/mp4",
    ".md": "text/markdown",
    ".mjs": "text/javascript",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".otf": "font/otf",
    ".svgz": "application/gzip",
    ".tgz": "application/gzip",
    ".ttf": "font/ttf",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".xz": "application/x-xz",
    ".z": "application/x-compress",
    ".zst": "application/zstd",
}
# Python's table, not the host's /etc/mime.types: an answer is the same on each host.
_TYPES = MimeTypes().types_map[True] | _MORE


def media_type(name: bytes) -> str:
    """Return the media type of a file of this name."""
    ending = os.path.splitext(name)[1].lower()
    return _TYPES.get(ending.decode("ascii", "replace"), _UNKNOWN)
