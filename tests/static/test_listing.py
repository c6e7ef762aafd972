"""Tests of listing: names of all kinds, and what is no file."""

from __future__ import annotations

import html.parser
import os
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from tlsify.static import listing
from tlsify.static.listing import Named, page, read

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

NAMES = (
    *(b"plain.txt", b"a b", b"<script>alert(1)<script>", b"\"&'", b"javascript:alert(1)"),
    *(b"?x#y%41", b"\xff\xfe", "größe".encode(), "\u202egpj".encode(), b"new\nline", b"\x1b[31m"),
)


class Reader(html.parser.HTMLParser):
    """Finds links, and tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep it."""
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name == "href"]


def test_odd_times() -> None:
    """A time that no calendar has leaves its place empty."""
    for moment in (2.0**62, -(2.0**62), 1e300):
        assert b"</td><td></td></tr>" in page(
            "/", [Named(b"x", True, 0, moment)], is_top=True, is_all=True
        )


def test_names(tmp_path: Path) -> None:
    """Each is linked by its own bytes, and shown without doing anything."""
    for name in NAMES:
        (tmp_path / os.fsdecode(name)).write_bytes(b"12")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("plain.txt")
    (tmp_path / ".hidden").touch()
    folder = os.open(tmp_path, os.O_RDONLY)
    entries, is_all = read(folder, lambda name: not name.startswith(b"."))
    os.close(folder)
    assert is_all
    assert [each.name for each in entries] == [b"folder", *sorted([*NAMES, b"link"])]
    text = page("/<b>/", entries, is_top=False, is_all=True).decode()
    found = Reader(text)
    assert "script" not in found.tags
    assert "b" not in found.tags
    above, *links = found.links
    assert (above, links[0]) == ("../", "./folder/")
    assert all(link.startswith("./") for link in links)
    assert sorted(unquote_to_bytes(link[2:]) for link in links[1:]) == sorted([*NAMES, b"link"])
    assert text.replace("\n", "").isprintable()


def test_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of too many names some are shown, and that there are more."""
    monkeypatch.setattr(listing, "MOST", 3)
    for number in range(5):
        (tmp_path / str(number)).touch()
    folder = os.open(tmp_path, os.O_RDONLY)
    entries, is_all = read(folder, lambda _: True)
    os.close(folder)
    assert (len(entries), is_all) == (3, False)
    assert b"more than 3" in page("/", entries, is_top=True, is_all=is_all)


def test_top() -> None:
    """There is nothing above it."""
    shown = page(
        "/", [Named(b"x", is_folder=False, size=1234567, modified=0.0)], is_top=True, is_all=True
    )
    assert b"../" not in shown
    assert b"1,234,567" in shown
    assert b"1970-01-01 00:00" in shown
