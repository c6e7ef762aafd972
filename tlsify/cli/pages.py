"""The documentation's pages, which the package brings along: their names, titles and texts."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

_SUFFIX, _INDEX = ".md", "README"


def titles() -> dict[str, str]:
    """Return the title of each page by its name, such as "handoff" or "cli/serve".

    The index and the design notes, to which pages refer, are left out.
    """
    found = {}
    for name, page in _pages("", "cli/").items():
        if name != _INDEX:
            title = page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
            found[name] = title
    return dict(sorted(found.items()))


def text(name: str) -> str | None:
    """Return a page in Markdown; None if there is no such page.

    Args:
        name: "handoff", or, as messages and other pages refer to it, "docs/handoff.md".
    """
    page = _pages("", "cli/", "design/").get(name.removeprefix("docs/").removesuffix(_SUFFIX))
    return None if page is None else page.read_text(encoding="utf-8")


def _pages(*prefixes: str) -> dict[str, Traversable]:
    """Return the files of the pages in some folders, by their names."""
    return {
        prefix + page.name.removesuffix(_SUFFIX): page
        for prefix in prefixes
        for page in (_folder() / prefix).iterdir()
        if page.name.endswith(_SUFFIX)
    }


def _folder() -> Traversable:
    """Return where the pages are: in the package, or in a clone beside it."""
    package = files("tlsify")
    installed = package / "docs"
    return installed if installed.is_dir() else package / "../docs"
