"""Tests of the pages that the package brings along."""

from __future__ import annotations

import re

import pytest

from tests.docs.examples import PROJECT
from tlsify.cli import pages
from tlsify.cli.help import TOPICS
from tlsify.cli.parser import VERBS


def test_every_page_has_a_name_and_a_title() -> None:
    """Those of the clone, which are those of the wheel."""
    titles = pages.titles()
    found = {str(path.relative_to(PROJECT / "docs")) for path in (PROJECT / "docs").glob("*.md")}
    assert {f"{name}.md" for name in titles if "/" not in name} == found - {"README.md"}
    assert {name.removeprefix("cli/") for name in titles if "/" in name} == set(VERBS)
    assert titles["handoff"] == "The contract of a handed-off descriptor"


@pytest.mark.parametrize("name", ["handoff", "docs/handoff.md", "handoff.md"])
def test_a_page_is_found_by_either_name(name: str) -> None:
    """The word, and the path by which messages refer to it."""
    assert pages.text(name) == (PROJECT / "docs/handoff.md").read_text()


def test_every_page_that_a_page_refers_to_is_there() -> None:
    """The index and the design notes included; figures and the project's own files are not."""
    for path in [*(PROJECT / "docs").glob("*.md"), *(PROJECT / "docs/design").glob("*.md")]:
        for link in re.findall(r"\]\(([^:)#]+\.md)", path.read_text()):
            target = (path.parent / link).resolve().relative_to(PROJECT)
            if target.parts[0] == "docs" and "benchmarks" not in target.parts:
                assert pages.text(str(target)) is not None, (path, link)


@pytest.mark.parametrize("name", ["", "nothing", "../README", "/etc/passwd", "cli/", "design"])
def test_nothing_else_is_a_page(name: str) -> None:
    """Least of all another file."""
    assert pages.text(name) is None


def test_every_page_that_the_program_refers_to_is_there() -> None:
    """In its help, hints and docstrings."""
    others = {"docs/benchmarks/notes.md", *TOPICS, "exit"}
    for path in (PROJECT / "tlsify").rglob("*.py"):
        for name in re.findall(r"docs/[a-z_/]+\.md|(?<=tlsify help )[a-z]+", path.read_text()):
            assert pages.text(name) or name in others, (path, name)
