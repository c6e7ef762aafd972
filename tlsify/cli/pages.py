"""The documentation's pages, which the package brings along: their names, titles and texts."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

_SUFFIX = ".md"


def titles() -> dict[str, str]:
    """Return the title of each page by its name, such as "handoff" or "cli/serve"."""
    found = {}
    for prefix, folder in (("", _folder()), ("cli/", _folder() / "cli")):
        for page in folder.iterdir():
            if page.name.endswith(_SUFFIX) and page.name != "README.md":
                title = page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
                found[prefix + page.name.removesuffix(_SUFFIX)] = title
    return dict(sorted(found.items()))


def text(name: str) -> str | None:
    """Return a page in Markdown; None if there is no such page.

    Args:
        name: "handoff", or, as messages and other pages refer to it, "docs/handoff.md".
    """
    name = name.removeprefix("docs/").removesuffix(_SUFFIX)
    if name not in titles():
        return None
    return (_folder() / f"{name}{_SUFFIX}").read_text(encoding="utf-8")


def _folder() -> Traversable:
    """Return where the pages are: in the package, or in a clone beside it."""
    package = files("tlsify")
    installed = package / "docs"
    return installed if installed.is_dir() else package / "../docs"
