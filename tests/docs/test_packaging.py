"""Tests of what package indexes and installers are told; scripts/release does the whole thing."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest

from tests.docs.examples import PROJECT
from tlsify.cli import pages
from tlsify.cli.help import TOPICS

_LINK = re.compile(r"\]\(([^)]*)\)")


def _declared() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    return project


@pytest.mark.parametrize("source", [None, "https://example.org/tlsify"])
def test_no_link_of_the_description_is_dead(source: str | None) -> None:
    """Each leads to a file that there is, at the address that pyproject.toml has, or is none."""
    from scripts.description import Description  # noqa: PLC0415 - guests collect this, too

    metadata: dict[str, Any] = {"urls": {} if source is None else {"Source": source}}
    Description(str(PROJECT), {}).update(metadata)
    assert metadata["readme"]["content-type"] == "text/markdown"
    text = metadata["readme"]["text"]
    links = _LINK.findall(text)
    relative = [
        link for link in _LINK.findall((PROJECT / "README.md").read_text()) if ":" not in link
    ]
    assert len(relative) > 10
    if source is None:
        assert all(link.startswith("https://") for link in links)
        assert "[A written contract]" not in text
        assert "A written contract (`tlsify help handoff`)" in text
        named = re.findall(r"`tlsify help ([^`]+)`", text)
        assert {"docs/wrap", "cli/forward", "tunnels"} <= {*named}
        assert all(pages.text(name) and name not in TOPICS for name in named), named
        return
    for link in links:
        path, _, _ = link.removeprefix(f"{source}/blob/main/").partition("#")
        assert link.startswith(source), link
        assert (PROJECT / path).exists(), link


def test_the_versions_of_python() -> None:
    """Those that are named begin with the oldest that installs it."""
    declared = _declared()
    named = [
        version
        for each in declared["classifiers"]
        if (version := each.removeprefix("Programming Language :: Python :: ")) != each
        and "." in version
    ]
    assert declared["requires-python"] == f">={named[0]}"
    assert named == [f"3.{minor}" for minor in range(11, 11 + len(named))]


def test_what_is_for_developers_is_no_extra() -> None:
    """It would be published, and promise something."""
    assert set(_declared()["optional-dependencies"]) == {"acme", "serve"}
