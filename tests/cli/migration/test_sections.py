"""Tests of stunnel's files: included folders, sections, and switches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tlsify.cli.migration import sections
from tlsify.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def test_include(tmp_path: Path) -> None:
    """Files are read in the order of their names, each going on where the one before has ended."""
    (tmp_path / "b").write_text("x = 3\n[two]\nx = 4\n")
    (tmp_path / "a").write_text("\ufeff; a comment\nx = 2\n[one]\n")
    (tmp_path / "folder").mkdir()
    found = sections.read(f"x = 1\nInclude = {tmp_path}\nx = 5\n", "conf")
    assert [service.name for service in found] == ["one", "two"]
    one, two = ([(each.place, each.value) for each in service.all("X")] for service in found)
    common = [("conf:1", "1"), ("a:2", "2")]
    assert one == [*common, ("b:1", "3")]
    assert two == [*common, ("b:3", "4"), ("conf:3", "5")]


def test_line_ends() -> None:
    """Lines end where stunnel ends them, and nowhere within a value."""
    (service,) = sections.read("[s]\r\nx = 1\u2028verify = 2\r\n\x0cy = 2", "conf")
    assert [(each.name, each.value) for each in service.rest()] == [
        ("x", "1\u2028verify = 2"),
        ("y", "2"),
    ]


def test_include_of_nothing(tmp_path: Path) -> None:
    """A folder that cannot be read, or not as text, stays a setting; none ends the reading."""
    (tmp_path / "a").write_bytes(b"\xff")
    for path in (tmp_path, tmp_path / "no", "\0"):
        (service,) = sections.read(f"[s]\ninclude = {path}\n", "conf")
        assert service.last("include")
    with pytest.raises(ConfigError, match=r"no .service") as caught:
        sections.read("include = /nowhere\n", "conf")
    assert "includes" in str(caught.value.hint)
    (tmp_path / "a").write_text(f"include = {tmp_path}\n")
    with pytest.raises(ConfigError, match="include each other"):
        sections.read(f"include = {tmp_path}\n", "conf")


@pytest.mark.parametrize(
    ("value", "is_on"), [("yes", True), ("YES", True), ("no", False), ("true", None), ("", None)]
)
def test_switches(value: str, is_on: bool | None) -> None:
    """What is neither on nor off is an error there, and must not be taken for off here."""
    (service,) = sections.read(f"[s]\nverifyChain = {value}\n", "conf")
    if is_on is None:
        with pytest.raises(ConfigError, match=r"^conf:2: verifyChain"):
            service.is_on("verifychain")
    else:
        assert service.is_on("verifychain") is is_on
